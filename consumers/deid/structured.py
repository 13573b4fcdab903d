"""Content items of structured content, judged by their concept: PS3.15 Table E.3.4-1.

1. An item is known by the code of its Concept Name. The table says remove, dummy, or what the options keep or
   clean. A removed item goes with all that is below it.
2. Names of persons (value type PNAME) go always, and so do references by position (0040,DB73): where items before
   it have gone, a position names another one. Text under a concept that the table does not name is cleaned.
3. What the items hold besides (UIDs, dates, references) is judged element by element, as everywhere.

Where the IOD is not asked, X/D is X.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, Literal, NamedTuple, Protocol

from consumers.deid.jsonmodel import values_of
from consumers.deid.packaged import table_rows

CONTENT_EDITION: Final = "2020"
CONCEPT_NAME: Final = 0x0040A043
VALUE_TYPE: Final = 0x0040A040
TEXT_VALUE: Final = 0x0040A160
_POSITION: Final = 0x0040DB73  # ReferencedContentItemIdentifier
_TELLING: Final = frozenset({CONCEPT_NAME, VALUE_TYPE, _POSITION})
#: what happens to an item: keep (its elements are judged one by one), remove, or dummy its text
ItemAction = Literal["K", "X", "D"]

_COLUMNS: Final = {
    "uids": "uids",
    "device_identity": "device",
    "institution_identity": "institution",
    "patient_characteristics": "patient",
    "full_dates": "full_dates",
    "modified_dates": "modified_dates",
    "clean_descriptors": "descriptors",
}


class Said(Protocol):
    """An element of an item: its tag, its member of DICOM JSON."""

    @property
    def tag(self) -> int: ...

    @property
    def json(self) -> bytes: ...


class _Concept(NamedTuple):
    code: str
    scheme: str


def item_action(item: Iterable[Said], options: frozenset[str]) -> ItemAction:
    """Return what happens to a content item; one that is none is kept."""
    said = {one.tag: one.json for one in item if one.tag in _TELLING}
    if _POSITION in said or (VALUE_TYPE in said and _first(said[VALUE_TYPE]) == "PNAME"):
        return "X"
    return _of_concept(said.get(CONCEPT_NAME, b""), options)


@lru_cache(maxsize=4096)
def _of_concept(name: bytes, options: frozenset[str]) -> ItemAction:
    for item in values_of(name):
        code, scheme = (_text(item, tag) for tag in ("00080100", "00080102"))
        row = _table().get(_Concept(code, scheme))
        if row is not None:
            return _action(row, options)
    return "K"


def _action(row: Mapping[str, str], options: frozenset[str]) -> ItemAction:
    if any(row[column] for option, column in _COLUMNS.items() if option in options):
        return "K"  # kept, or cleaned by its elements' own actions
    return "D" if row["basic"] == "D" else "X"


def _first(member: bytes) -> str:
    values = values_of(member)
    return str(values[0]).strip() if values else ""


def _text(item: object, tag: str) -> str:
    values = item.get(tag, {}).get("Value", []) if isinstance(item, dict) else []
    return str(values[0]).strip() if values else ""


@lru_cache(maxsize=1)
def _table() -> Mapping[_Concept, Mapping[str, str]]:
    rows = table_rows(f"content_items_{CONTENT_EDITION}.csv")
    return {_Concept(row["code"], row["scheme"]): row for row in rows}
