"""What the way back needs, read from the dataset as received. Everything here is trusted."""

from typing import Final

from consumers.deid.elements import Element
from consumers.deid.jsonmodel import entry_of
from consumers.deid.model import DicomJson

#: Patient module (PS3.3 C.7.1.1) outside group 0010, which is taken whole
_PATIENT: Final = frozenset({0x00081120, 0x00120062, 0x00120063, 0x00120064})
#: General Study module (PS3.3 C.7.2.1)
_STUDY: Final = frozenset(
    {
        0x00080020, 0x00080030, 0x00080050, 0x00080051, 0x00080090, 0x00080096, 0x0008009C, 0x0008009D,
        0x00081030, 0x00081032, 0x00081048, 0x00081049, 0x00081060, 0x00081062, 0x00081110, 0x0020000D,
        0x00200010, 0x00321033, 0x00321034, 0x00401012,
    }
)  # fmt: skip
_REQUEST_ATTRIBUTES: Final = 0x00400275
_KEPT: Final = _PATIENT | _STUDY | {_REQUEST_ATTRIBUTES}
_PATIENT_NAMES: Final = frozenset(f"{tag:08X}" for tag in _PATIENT)
_STUDY_NAMES: Final = frozenset(f"{tag:08X}" for tag in _STUDY)

_LIMIT: Final = 1 << 20  # comments may be long; bulk data are left out by their VR


def character_set(term: str) -> tuple[str, ...]:
    """Return the terms of (0008,0005) as received."""
    return tuple(term.split("\\")) if term else ()


def kept_member(element: Element, encodings: tuple[str, ...], *, big: bool) -> DicomJson:
    """Return an element as received, in DICOM JSON by its tag; nothing of bulk data."""
    entry = entry_of(element, big=big, limit=_LIMIT, encodings=encodings)
    return {} if entry is None else {f"{element.tag:08X}": entry}


def is_kept(tag: int) -> bool:
    """Tell whether the way back needs this attribute of the root."""
    return tag >> 16 == 0x0010 or tag in _KEPT


def patient_module(entries: DicomJson) -> DicomJson:
    """Choose the Patient module from what is kept of an instance."""
    return {tag: entry for tag, entry in entries.items() if tag.startswith("0010") or tag in _PATIENT_NAMES}


def study_module(entries: DicomJson) -> DicomJson:
    """Choose the General Study module from what is kept of an instance."""
    return {tag: entry for tag, entry in entries.items() if tag in _STUDY_NAMES}


def request_attributes(entries: DicomJson) -> tuple[DicomJson, ...]:
    """Choose the items of the Request Attributes Sequence from what is kept of an instance."""
    return tuple(entries.get(f"{_REQUEST_ATTRIBUTES:08X}", {}).get("Value", ()))
