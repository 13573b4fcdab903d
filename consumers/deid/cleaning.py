"""Action C: what may stay of a value under the options of a profile, by the kind of the value.

- dates and datetimes are moved by the patient's offset (`dates`), times of day stay;
- text is reduced to the words of an allow-list (`words`), dates in it moved;
- ages above 89 years become 90 (45 CFR 164.514(b)(2)(i)(C));
- coded strings stay where the standard enumerates them.

Whatever else is to be cleaned cannot be: None, and the profile's own action is done. Sequences are walked.
"""

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from consumers.deid.dates import has_date, shifted_date, shifted_datetime
from consumers.deid.elements import Element
from consumers.deid.jsonmodel import text_of
from consumers.deid.words import clean_text

_TIMEZONE: Final = 0x00080201
_ZONE: Final = re.compile(r"[+-]\d{4}")
_TIME: Final = re.compile(r"\d{2}(?::?\d{2}){0,2}(?:\.\d{1,6})?")
#: an AS value; and the oldest who is told from others of the same age
AGE: Final = re.compile(r"(\d{1,3})([DWMY])")  # of three digits, which not everybody writes
OLDEST: Final = 89
_LISTED_TEXT: Final = frozenset({"LO", "LT", "SH", "ST", "UC", "UT"})
_ONE_VALUE: Final = frozenset({"LT", "ST", "UT"})
#: the values that the standard enumerates, of coded strings that are to be cleaned
_ENUMERATED: Final = {0x04000565: frozenset({"COERCE", "CORRECT"})}  # ReasonForTheAttributeModification


class Manner(NamedTuple):
    """How values are cleaned for one patient: by how many days dates move (None: not at all), and a site's words."""

    days: int | None = None
    words: frozenset[str] = frozenset()


def clean_value(element: Element, encodings: tuple[str, ...], manner: Manner) -> tuple[Element | None, bool]:
    """Return what an element becomes, and whether that depends on the patient.

    Parameters
    ----------
    element : Element
        A leaf with the VR that it is known to have.
    encodings : tuple of str
        Of its text.
    manner : Manner
        See there.
    """
    vr = element.vr
    if vr in ("DA", "DT"):
        return _dated(element, manner.days), manner.days is not None
    if vr in _LISTED_TEXT and element.tag != _TIMEZONE:
        text = text_of(element, encodings)
        values = [text] if vr in _ONE_VALUE else text.split("\\")
        clean = "\\".join(clean_text(value, manner.days, manner.words) for value in values)
        return _written(element, clean.strip("\\")), manner.days is not None and has_date(text)
    keep = _KEPT.get(vr)
    text = text_of(element, encodings).strip()
    return _written(element, keep(element.tag, text) if keep else ""), False


def capped_age(text: str) -> str:
    """Return an AS value with ages above 89 years as 90; empty where it is none."""
    match = AGE.fullmatch(text)
    if match is None:
        return ""
    return "090Y" if match[2] == "Y" and int(match[1]) > OLDEST else text


def _dated(element: Element, days: int | None) -> Element | None:
    if days is None:
        return None
    move = shifted_date if element.vr == "DA" else shifted_datetime
    texts = [part.strip() for part in text_of(element, ()).split("\\")]
    if not any(texts):
        return None
    moved = [move(part, days) if part else "" for part in texts]
    if None in moved:
        return None
    return Element(element.tag, element.vr, "\\".join(part or "" for part in moved).encode())


def _written(element: Element, text: str) -> Element | None:
    return Element(element.tag, element.vr, text.encode("ascii")) if text.isascii() and text else None


def _times(_: int, text: str) -> str:
    return text if all(_TIME.fullmatch(part.strip()) for part in text.split("\\")) else ""


def _codes(tag: int, text: str) -> str:
    return text if text in _ENUMERATED.get(tag, ()) else ""


def _zone(tag: int, text: str) -> str:
    return text if tag == _TIMEZONE and _ZONE.fullmatch(text) else ""


_KEPT: Final[dict[str, Callable[[int, str], str]]] = {
    "AS": lambda _, text: capped_age(text),
    "CS": _codes,
    "SH": _zone,
    "TM": _times,
}
