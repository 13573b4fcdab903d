"""Is this instance likely to carry burned-in text? Judged by SOP class, then by what the header admits.

`tables/sop_classes.csv` gives every known storage class one word:

- `volume`: CT, MR, PT. Admitted; a secondary capture among them is usual (reformats, maps).
- `image`: NM, MG, DX. Admitted unless ImageType says SECONDARY.
- `data`: no pixels that a device draws text into (SEG, SR, RT, waveforms, presentation states). Admitted.
- `risk`: SC, US, XA, RF, CR, VL, OP and their like. Quarantined unless the source is admitted by a setting.
- `document`, `opaque`, `directory`: cannot be cleaned. Always quarantined.

BurnedInAnnotation NO admits nothing by itself; its absence is no risk by itself.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from consumers.deid.packaged import table_rows
from schemas.errors import Quarantine


class SopClass(NamedTuple):
    """One row of the table of known storage classes."""

    uid: str
    name: str
    triage: str
    iod: str


def _load() -> dict[str, SopClass]:
    return {row["uid"]: SopClass(**row) for row in table_rows("sop_classes.csv")}


SOP_CLASSES: Final = _load()

_NEVER: Final = {
    "document": "encapsulated_document",
    "opaque": "opaque_content",
    "directory": "directory_record",
}
_REPORT: Final = re.compile(
    r"dose\s*(report|info|page|sheet|summary|record)|screen\s*(save|shot|cap|grab)|patient\s*protocol"
    r"|exam(ination)?\s*(protocol|summary|page)|protocol\s*(page|sheet)|summary\s*page",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Signs:
    """What the header says about burned-in text."""

    image_type: tuple[str, ...] = ()
    burned_in_annotation: str = ""
    conversion_type: str | None = None
    descriptions: tuple[str, ...] = ()
    overlay_in_pixels: bool = False
    ultrasound_regions: bool = False


#: (words of SOP_CLASSES it applies to, reason, what is expected, sign)
_RULES: Final[tuple[tuple[str, str, str, Callable[[Signs], bool]], ...]] = (
    (
        "volume image data risk",
        "burned_in_flag",
        "BurnedInAnnotation is not YES",
        lambda s: s.burned_in_annotation.upper() == "YES",
    ),
    (
        "volume image data",
        "burned_in_risk",
        "ImageType without SCREEN SAVE",
        lambda s: any(value.upper().replace("_", " ") == "SCREEN SAVE" for value in s.image_type),
    ),
    (
        "volume image data",
        "burned_in_risk",
        "no ConversionType",
        lambda s: s.conversion_type is not None,
    ),
    (
        "volume image data",
        "burned_in_risk",
        "no ultrasound regions: they are of a screen",
        lambda s: s.ultrasound_regions,
    ),
    (
        "volume image",
        "burned_in_risk",
        "no dose or screen report",
        lambda s: any(_REPORT.search(text) for text in (*s.descriptions, *s.image_type)),
    ),
    (
        "image",
        "burned_in_risk",
        "ImageType without SECONDARY",
        lambda s: "SECONDARY" in (value.upper() for value in s.image_type[1:2]),
    ),
    (
        "volume image data risk",
        "burned_in_risk",
        "no overlay in the unused bits of the pixels",
        lambda s: s.overlay_in_pixels,
    ),
)


#: reasons for which text is looked for in the pixels, where a profile asks for it
CLEANABLE: Final = frozenset({"burned_in_risk", "burned_in_flag"})


@lru_cache(maxsize=1024)  # the instances of a series show the same signs
def triage(
    sop_class_uid: str, signs: Signs, *, admit_burned_in: bool, admitted: frozenset[str] = frozenset()
) -> None:
    """Return if the instance may pass; raise `Quarantine` if burned-in text is likely or nothing is known.

    Parameters
    ----------
    sop_class_uid : str
        Of the dataset.
    signs : Signs
        What the header says.
    admit_burned_in : bool
        The source's setting: admits the `risk` classes, never one whose flag says YES.
    admitted : frozenset of str
        Reasons that an operator answers for: rules of these are not asked.
    """
    known = SOP_CLASSES.get(sop_class_uid)
    if known is None:
        raise Quarantine("unknown_sop_class", "not in the table of known storage classes")
    if known.triage in _NEVER:
        raise Quarantine(_NEVER[known.triage], f"{known.name}")
    for words, reason, expected, sign in _RULES:
        if reason not in admitted and known.triage in words.split() and sign(signs):
            raise Quarantine(reason, f"expected {expected}")
    if known.triage == "risk" and not admit_burned_in and "burned_in_risk" not in admitted:
        raise Quarantine("burned_in_risk", f"{known.name}: the source is not admitted")
