"""Valid values that say nothing, for attributes that the IOD wants filled (action D).

The same dummy for everybody: a dummy that differs is a pseudonym. Sequences are not made here: `rules.py`
keeps their first item and hollows it.
"""

from typing import Final

from consumers.deid.elements import Element

_TEXT: Final = b"REMOVED"
DUMMIES: Final[dict[str, bytes]] = {
    "AE": _TEXT,
    "AS": b"000Y",
    "CS": _TEXT,
    "DA": b"19000101",
    "DS": b"0",
    "DT": b"19000101000000",
    "IS": b"0",
    "LO": _TEXT,
    "LT": _TEXT,
    "OB": b"\x00\x00",
    "PN": _TEXT,
    "SH": _TEXT,
    "ST": _TEXT,
    "TM": b"000000",
    "UC": _TEXT,
    "UN": b"\x00\x00",
    "UR": b"urn:removed",
    "UT": _TEXT,
}
#: tag -> dummy, where the standard enumerates the values
CODED: Final[dict[int, bytes]] = {0x04000565: b"CORRECT"}  # ReasonForTheAttributeModification


def dummy(element: Element) -> Element:
    """Return a leaf of the same tag and VR that says nothing; numbers become as many zeros."""
    value = CODED.get(element.tag) or DUMMIES.get(element.vr) or bytes(len(element.value))
    return Element(element.tag, element.vr, value)
