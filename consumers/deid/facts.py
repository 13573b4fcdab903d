"""What is queryable about an instance: read from the clean metadata, with words derived from codes.

Views and view modifiers become words of a closed list (CID 4014, CID 4015; SNOMED CT and the older SRT
codes), so that no free text of a code's meaning is needed past the boundary.
"""

from collections.abc import Mapping
from typing import Any, Final

from consumers.deid.model import DicomJson, InstanceFacts

VIEWS: Final[dict[str, str]] = {
    "399162004": "CC", "R-10242": "CC",
    "399368009": "MLO", "R-10226": "MLO",
    "399260004": "ML", "R-10224": "ML",
    "399352003": "LM", "R-10228": "LM",
    "399099002": "LMO", "R-10230": "LMO",
    "399196006": "FB", "R-10244": "FB",
    "399188001": "SIO", "R-102D0": "SIO",
    "441555000": "ISO", "R-40AAA": "ISO",
    "399192008": "XCCL", "R-1024A": "XCCL",
    "399101009": "XCCM", "R-1024B": "XCCM",
    "127457009": "SPECIMEN", "G-8310": "SPECIMEN",
}  # fmt: skip
MODIFIERS: Final[dict[str, str]] = {
    "399055006": "spot", "R-102D7": "spot",
    "399163009": "magnification", "R-102D6": "magnification",
    "399209000": "implant_displaced", "R-102D5": "implant_displaced",
    "399110001": "tangential", "R-102C2": "tangential",
}  # fmt: skip
#: what `facts_of` reads
TAGS: Final = (
    0x00080008, 0x00080060, 0x00080068, 0x00180020, 0x00180023, 0x00180025, 0x00180081, 0x00185101,
    0x00200011, 0x00200012, 0x00200013, 0x00200032, 0x00200037, 0x00200062, 0x00201002, 0x00280030,
    0x00280004, 0x00280008, 0x00280010, 0x00280011, 0x00280100, 0x00281350, 0x00540220, 0x00540222,
)  # fmt: skip
#: words that ViewPosition (0018,5101) may say
_VIEW_WORDS: Final = frozenset(VIEWS.values()) | {"AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO"}
_NUMBERS: Final = {int, float}


def facts_of(clean: DicomJson, acquisition_rank: int, words: Mapping[str, str | None]) -> InstanceFacts:
    """Return the facts of an instance.

    Parameters
    ----------
    clean : dict
        DICOM JSON of the de-identified dataset, at least of `TAGS`.
    acquisition_rank : int
        From `order.acquisition_rank`: it needs the times that are gone here.
    words : mapping
        From `derived.derived_words`, for the same reason.
    """
    return InstanceFacts(
        modality=_text(clean, "00080060"),
        rows=_number(clean, "00280010"),
        columns=_number(clean, "00280011"),
        number_of_frames=_number(clean, "00280008"),
        bits_allocated=_number(clean, "00280100"),
        photometric_interpretation=_text(clean, "00280004"),
        image_type=tuple(str(v) for v in _values(clean, "00080008") if v),
        presentation_intent_type=_text(clean, "00080068"),
        view_position=_view(clean),
        image_laterality=_text(clean, "00200062"),
        view_modifiers=_modifiers(clean),
        partial_view=_text(clean, "00281350") == "YES",
        acquisition_rank=acquisition_rank,
        acquisition_number=_number(clean, "00200012"),
        series_number=_number(clean, "00200011"),
        instance_number=_number(clean, "00200013"),
        image_position=_floats(clean, "00200032", 3),
        image_orientation=_floats(clean, "00200037", 6),
        pixel_spacing=_floats(clean, "00280030", 2),
        mr_acquisition_type=_text(clean, "00180023"),
        scanning_sequence=tuple(str(v) for v in _values(clean, "00180020") if v) or None,
        echo_time=_float(clean, "00180081"),
        angio_flag=_text(clean, "00180025"),
        images_in_acquisition=_number(clean, "00201002"),
        **words,
    )


def _values(item: DicomJson, tag: str) -> list[Any]:
    return item.get(tag, {}).get("Value", [])  # type: ignore[no-any-return]


def _text(item: DicomJson, tag: str) -> str | None:
    values = _values(item, tag)
    return str(values[0]) if values and values[0] is not None else None


def _number(item: DicomJson, tag: str) -> int | None:
    values = _values(item, tag)
    return values[0] if values and isinstance(values[0], int) else None


def _floats(item: DicomJson, tag: str, count: int) -> tuple[float, ...] | None:
    """Return exactly `count` numbers; None for any other number of them, or anything that is none."""
    values = _values(item, tag)
    if len(values) != count or not {*map(type, values)} <= _NUMBERS:
        return None
    return tuple(map(float, values))


def _float(item: DicomJson, tag: str) -> float | None:
    found = _floats(item, tag, 1)
    return found[0] if found else None


def _view(clean: DicomJson) -> str | None:
    for item in _values(clean, "00540220"):
        code = _code(item)
        if code:
            return VIEWS.get(code, "OTHER")
    word = (_text(clean, "00185101") or "").upper()
    return word if word in _VIEW_WORDS else ("OTHER" if word else None)


def _modifiers(clean: DicomJson) -> tuple[str, ...]:
    inside = [m for view in _values(clean, "00540220") for m in _values(view, "00540222")]
    codes = (_code(item) for item in (*inside, *_values(clean, "00540222")))
    return tuple(sorted({MODIFIERS.get(code or "", "other") for code in codes}))


def _code(item: DicomJson) -> str | None:
    return _text(item, "00080100") or _text(item, "00080119") or _text(item, "00080120")
