"""Apply the profile's table to a tree of elements, at every level alike.

1. Out go group lengths, groups below 0008 (command, meta, media), whatever the table removes, and what no
   dictionary knows: an unknown standard attribute cannot be judged.
2. A sequence that is kept is walked; its items are cleaned by the same table.
3. A sequence that needs a dummy keeps its first item, hollowed: the table applies, and every leaf it would
   keep becomes a dummy too. Coded strings (CS) and UIDs of the standard itself stay: they name kinds.
4. Elements whose VR contradicts the dictionary in kind (a sequence in OB) cannot be read by the rules: out.

The pseudonyms and the method's own attributes are put in by `pseudonyms.py`, after this.
"""

from typing import Final

from msgspec.structs import replace

from consumers.deid.dummies import dummy
from consumers.deid.elements import PIXEL_TAGS, SHORT_VRS, TEXT_VRS, Element, dictionary_vr
from consumers.deid.keys import ProjectKeys
from consumers.deid.profile import Action
from consumers.deid.uids import map_uids
from consumers.deid.writer import MAX_SHORT

_FIRST_GROUP: Final = 0x0008


def readable(element: Element) -> bool:
    """Tell whether the rules can judge an element at all; what they cannot judge goes."""
    tag = element.tag
    if tag & 0xFFFF == 0 or tag >> 16 < _FIRST_GROUP:
        return False
    if (tag >> 16) & 1:
        return True  # private: the table's pattern decides
    known = dictionary_vr(tag)
    if known == "UN":
        return False
    return known != "SQ" or element.items is not None or not element.value


def clean_leaf(
    element: Element, action: Action, keys: ProjectKeys, *, big: bool, hollow: bool
) -> Element | None:
    """Return what an element without items becomes, or None where it goes.

    Parameters
    ----------
    element : Element
        As received.
    action : str
        Of the table.
    keys : ProjectKeys
        For UIDs.
    big : bool
        The dataset is in big endian.
    hollow : bool
        It stands in the item of a sequence that is kept as a dummy.
    """
    match action:
        case "X":
            return None
        case "K":
            return _hollowed(element, keys) if hollow else _kept(element, big=big)
        case "Z":
            vr = _vr(element)
            return Element(element.tag, vr, items=() if vr == "SQ" else None)
        case "D":
            return _dummied(element, keys)
        case "U":
            return _mapped(element, keys)
        case "C":
            raise ValueError("expected action C resolved by `cleaning`")


def _kept(element: Element, *, big: bool) -> Element | None:
    if element.vr == "UN" and element.tag not in PIXEL_TAGS:
        # A UN value is undeclared and little endian: in big endian only text reads the same.
        known = as_known(element)
        declared = known.vr in TEXT_VRS or (not big and known.vr in SHORT_VRS)
        return known if declared and len(element.value) < MAX_SHORT else None
    return element


def _hollowed(element: Element, keys: ProjectKeys) -> Element:
    return element if _vr(element) == "CS" else _dummied(element, keys)


def _dummied(element: Element, keys: ProjectKeys) -> Element:
    return _mapped(element, keys) if _vr(element) == "UI" else dummy(as_known(element))


def _mapped(element: Element, keys: ProjectKeys) -> Element:
    return Element(element.tag, "UI", map_uids(element.value, keys))


def _vr(element: Element) -> str:
    if element.items is not None:
        return "SQ"
    return dictionary_vr(element.tag) if element.vr == "UN" else element.vr


def as_known(element: Element) -> Element:
    """Return an element with the VR that the dictionary knows, where it was sent as UN."""
    return replace(element, vr=_vr(element))
