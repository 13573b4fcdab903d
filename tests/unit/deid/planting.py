"""Datasets with planted strings, and a search for those strings in bytes as a leak would show them."""

import base64
import warnings
from collections.abc import Iterable, Iterator

from consumers.deid.digest import content_id, pixel_id
from consumers.deid.elements import Dataset, Element, dictionary_vr, inflate
from consumers.deid.engine import IntakeContext, Profile, ProjectKeys, basic_profile, deidentify
from consumers.deid.levels import root_level
from consumers.deid.model import Deidentified
from consumers.deid.syntaxes import EXPLICIT_LITTLE, SYNTAXES, Syntax
from consumers.deid.walk import walk
from consumers.deid.writer import dataset_bytes
from schemas.errors import Quarantine

CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY, SERIES, SOP = "1.2.3.4.1001", "1.2.3.4.1002", "1.2.3.4.1003"
#: sequences that no row names, one inside the other: nested three deep
KEPT_SEQUENCES = (0x52009229, 0x00209113, 0x00289145)

KEYS = ProjectKeys.derive(bytes(range(32)), "default", "k1")


def text(tag: int, value: str, vr: str | None = None) -> Element:
    """An element with text in it."""
    return Element(tag, vr or dictionary_vr(tag), value.encode())


def base(sop_class: str = CT, *extra: Element) -> Dataset:
    """A small valid instance with 2 x 2 pixels; an extra element replaces the one of its tag."""
    elements = {
        e.tag: e
        for e in (
            text(0x00080008, "ORIGINAL\\PRIMARY\\AXIAL"),
            text(0x00080016, sop_class),
            text(0x00080018, SOP),
            text(0x00080060, "CT"),
            text(0x00100010, "Doe^Jane"),
            text(0x00100020, "PID-4711"),
            text(0x0020000D, STUDY),
            text(0x0020000E, SERIES),
            *(Element(t, "US", n.to_bytes(2, "little")) for t, n in _PIXELS.items()),
            text(0x00280004, "MONOCHROME2"),
            Element(0x7FE00010, "OW", bytes(8)),
            *extra,
        )
    }
    return tuple(elements[tag] for tag in sorted(elements))


_PIXELS = {
    0x00280002: 1, 0x00280010: 2, 0x00280011: 2, 0x00280100: 16, 0x00280101: 16, 0x00280102: 15, 0x00280103: 0,
}  # fmt: skip


def nested(*elements: Element) -> Element:
    """The elements in an item three sequences deep."""
    inner: tuple[Element, ...] = elements
    for tag in reversed(KEPT_SEQUENCES):
        inner = (Element(tag, "SQ", items=(inner,)),)
    return inner[0]


def context(**changes: object) -> IntakeContext:
    """An intake context for `base()`."""
    values = {
        "project": "default",
        "transfer_syntax_uid": EXPLICIT_LITTLE,
        "sop_class_uid": "",
        "sop_instance_uid": "",
        **changes,
    }
    return IntakeContext(**values)  # type: ignore[arg-type]


def ids(raw: bytes, syntax: Syntax) -> tuple[str, str]:
    """The digests of content and pixels of a dataset, whether or not it may pass."""
    actions = basic_profile().actions(CT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = walk(inflate(raw) if syntax.deflated else raw, root_level(actions, KEYS, syntax))
    return content_id(found), pixel_id(found, big=syntax.big)


def run(
    dataset: Dataset, profile: Profile, *, syntax: str = EXPLICIT_LITTLE, **changes: object
) -> Deidentified:
    """De-identify a tree of elements."""
    raw = dataset_bytes(dataset, SYNTAXES[syntax])
    return deidentify(raw, context(transfer_syntax_uid=syntax, **changes), profile, KEYS)


def verdict(dataset: Dataset, profile: Profile, **changes: object) -> str:
    """Why an instance is quarantined, as the error says it; empty if it is not."""
    try:
        run(dataset, profile, **changes)  # type: ignore[arg-type]
    except Quarantine as stopped:
        return str(stopped)
    return ""


def disguises(canary: str) -> Iterator[bytes]:
    """The forms in which a leak would show: raw, wide, reversed, base64 at each of its three phases."""
    raw = canary.encode()
    yield from (raw, raw[::-1], canary.encode("utf-16-le"), canary.encode("utf-16-be"))
    for phase in range(3):
        whole = base64.b64encode(b"\x00" * phase + raw)
        yield whole[4 if phase else 0 : -4]


def leaks(output: bytes, canaries: Iterable[str]) -> list[str]:
    """The canaries that are found in the output, in any form."""
    return [c for c in canaries if any(form in output for form in disguises(c))]


def everything(result: Deidentified) -> bytes:
    """All that the clean side may see of an instance, as bytes."""
    clean = (
        result.metadata, result.facts, result.patient, result.study_instance_uid, result.series_instance_uid,
        result.sop_instance_uid, result.frame_of_reference_uid, result.content_key, result.pixel_key,
    )  # fmt: skip
    return result.part10 + repr(clean).encode()
