"""What the way back needs, read from the dataset as received. Everything here is trusted."""

from typing import Final

from consumers.deid.elements import Dataset
from consumers.deid.jsonmodel import encodings_of, json_of, plain_text
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


_LIMIT: Final = 1 << 20  # comments may be long; bulk data are left out by their VR


def character_set(dataset: Dataset) -> tuple[str, ...]:
    """Return the terms of (0008,0005) as received."""
    for element in dataset:
        if element.tag == 0x00080005:
            return tuple(plain_text(element.value).split("\\"))
    return ()


def patient_module(dataset: Dataset, *, big: bool) -> DicomJson:
    """Return the Patient module as received, as DICOM JSON."""
    chosen = tuple(e for e in dataset if e.tag >> 16 == 0x0010 or e.tag in _PATIENT)
    return json_of(chosen, big=big, limit=_LIMIT, encodings=encodings_of(dataset))


def study_module(dataset: Dataset, *, big: bool) -> DicomJson:
    """Return the General Study module as received, as DICOM JSON."""
    return json_of(
        tuple(e for e in dataset if e.tag in _STUDY), big=big, limit=_LIMIT, encodings=encodings_of(dataset)
    )


def request_attributes(dataset: Dataset, *, big: bool) -> tuple[DicomJson, ...]:
    """Return the items of the Request Attributes Sequence as received, as DICOM JSON."""
    encodings = encodings_of(dataset)
    found = (e.items or () for e in dataset if e.tag == _REQUEST_ATTRIBUTES)
    return tuple(
        json_of(item, big=big, limit=_LIMIT, encodings=encodings) for items in found for item in items
    )
