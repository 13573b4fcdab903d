"""Private elements that are known to be safe: PS3.15 Table E.3.10-1, and a site's own.

An element is known by its group, its private creator and the last two digits of its number; the creator's
element is kept with it. Its VR must be the one of the table. UIDs among them are mapped; what was sent as UN
is read by the table's VR, and dropped where that is a sequence which does not parse.
"""

from collections.abc import Mapping
from functools import cache
from typing import Final, NamedTuple

from consumers.deid.packaged import table_rows

PRIVATE_EDITION: Final = "2020"


class SafeElement(NamedTuple):
    """One row: `number` are the lower eight bits of the element number."""

    group: int
    creator: str
    number: int
    vr: str


SafePrivate = frozenset[SafeElement]
#: (group, block) -> its private creator, in one dataset or item
Blocks = tuple[tuple[int, int, str], ...]


@cache
def standard_private() -> SafePrivate:
    """Return the rows of Table E.3.10-1 that name a VR."""
    return frozenset(
        SafeElement(int(row["group"], 16), row["creator"], int(row["element"], 16), row["vr"])
        for row in table_rows(f"safe_private_{PRIVATE_EDITION}.csv")
        if row["vr"]
    )


def is_creator(tag: int) -> bool:
    """Tell whether a tag is of a private creator (PS3.5 7.8.1)."""
    return bool(tag >> 16 & 1) and 0x10 <= tag & 0xFFFF <= 0xFF


def reserved(blocks: Blocks, tag: int, creator: str) -> Blocks:
    """Return the blocks of a dataset with the one that a creator element reserves."""
    place = (tag >> 16, tag & 0xFF)
    return tuple(sorted({*(block for block in blocks if block[:2] != place), (*place, creator)}))


class SafeTable:
    """The safe elements of a profile, to ask by tag."""

    def __init__(self, safe: SafePrivate) -> None:
        self._vrs: Mapping[tuple[int, str, int], str] = {
            (row.group, row.creator, row.number): row.vr for row in safe
        }
        self._creators = {(row.group, row.creator) for row in safe}

    def __bool__(self) -> bool:
        return bool(self._creators)

    def vr_of(self, tag: int, blocks: Blocks) -> str:
        """Return the VR of a safe element in a dataset with these blocks; empty for one that is not safe."""
        group, block = tag >> 16, tag >> 8 & 0xFF
        creator = next((name for g, b, name in blocks if (g, b) == (group, block)), "")
        return self._vrs.get((group, creator, tag & 0xFF), "")

    def reserves(self, tag: int, creator: str) -> bool:
        """Tell whether a creator element reserves a block for safe elements."""
        return (tag >> 16, creator) in self._creators
