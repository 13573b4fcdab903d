"""Apply the profile's table to a tree of elements, at every level alike.

1. Out go group lengths, groups below 0008 (command, meta, media), whatever the table removes, and what no
   dictionary knows: an unknown standard attribute cannot be judged.
2. A sequence that is kept is walked; its items are cleaned by the same table.
3. A sequence that needs a dummy keeps its first item, hollowed: the table applies, and every leaf it would
   keep becomes a dummy too. Coded strings (CS) and UIDs of the standard itself stay: they name kinds.
4. Elements whose VR contradicts the dictionary in kind (a sequence in OB) cannot be read by the rules: out.

The pseudonyms and the method's own attributes are put in by `pseudonyms.py`, after this.
"""

from dataclasses import dataclass
from typing import Final

from consumers.deid.dummies import dummy
from consumers.deid.elements import PIXEL_TAGS, SHORT_VRS, TEXT_VRS, Dataset, Element, dictionary_vr
from consumers.deid.keys import ProjectKeys
from consumers.deid.profile import Action, Actions
from consumers.deid.uids import map_uids
from consumers.deid.writer import MAX_SHORT

_FIRST_GROUP: Final = 0x0008


@dataclass(frozen=True, slots=True)
class Cleaner:
    """The table of one SOP class and the keys of one project, ready to be applied."""

    actions: Actions
    keys: ProjectKeys
    big: bool = False

    def clean(self, dataset: Dataset, *, nested: bool = False, hollow: bool = False) -> Dataset:
        """Return the dataset with the table applied to it and to every item inside."""
        of = self.actions.of
        done = (
            self._apply(of(element.tag, nested=nested), element, hollow=hollow)
            for element in dataset
            if _readable(element)
        )
        return tuple(element for element in done if element is not None)

    def _apply(self, action: Action, element: Element, *, hollow: bool) -> Element | None:
        match action:
            case "X":
                return None
            case "K":
                return self._hollowed(element) if hollow else self._kept(element)
            case "Z":
                vr = _vr(element)
                return Element(element.tag, vr, items=() if vr == "SQ" else None)
            case "D":
                return self._dummied(element)
            case "U":
                return self._mapped(element) if element.items is None else self._kept(element)

    def _kept(self, element: Element) -> Element | None:
        if element.items is not None:
            items = tuple(self.clean(item, nested=True) for item in element.items)
            return element._replace(vr="SQ", items=items)
        if element.vr == "UN" and element.tag not in PIXEL_TAGS:
            # A UN value is undeclared and little endian: in big endian only text reads the same.
            known = _as_known(element)
            declared = known.vr in TEXT_VRS or (not self.big and known.vr in SHORT_VRS)
            return known if declared and len(element.value) < MAX_SHORT else None
        return element

    def _dummied(self, element: Element) -> Element:
        if element.items is not None:
            return self._hollowed(element)
        return self._mapped(element) if _vr(element) == "UI" else dummy(_as_known(element))

    def _hollowed(self, element: Element) -> Element:
        if element.items is not None:
            items = tuple(self.clean(item, nested=True, hollow=True) for item in element.items[:1])
            return element._replace(vr="SQ", items=items)
        return element if _vr(element) == "CS" else self._dummied(element)

    def _mapped(self, element: Element) -> Element:
        return Element(element.tag, "UI", map_uids(element.value, self.keys))


def _readable(element: Element) -> bool:
    tag = element.tag
    if tag & 0xFFFF == 0 or tag >> 16 < _FIRST_GROUP:
        return False
    if (tag >> 16) & 1:
        return True  # private: the table's pattern decides
    known = dictionary_vr(tag)
    if known == "UN":
        return False
    return known != "SQ" or element.items is not None or not element.value


def _vr(element: Element) -> str:
    if element.items is not None:
        return "SQ"
    return dictionary_vr(element.tag) if element.vr == "UN" else element.vr


def _as_known(element: Element) -> Element:
    return element._replace(vr=_vr(element))
