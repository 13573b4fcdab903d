"""What a profile is: the rows of PS3.15 Table E.1-1, pinned by edition, resolved to one action a tag.

1. The packaged table gives a code for every tag; four rows are patterns (odd groups, 50xx, two of 60xx).
2. A compound code (X/Z/D and its like) is the first that the IOD allows: `types.json` says where a tag is of
   type 1 or 2. For SOP classes without an IOD in that map, the strictest over all IODs.
3. The digest covers name, edition, rows, types and the engine's version: it names what was done.

Only `basic` exists. Options (dates, descriptors, ...) are other tables of the same shape.
"""

import csv
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.resources import files
from typing import Final, Literal

from consumers.deid.triage import SOP_CLASSES

#: keep (sequences are walked), remove, empty, dummy, new UID
Action = Literal["K", "X", "Z", "D", "U"]

ENGINE_VERSION: Final = "1"
EDITION: Final = "2026c"

#: code -> what to do where the attribute is of type 1, 2, 3 (or absent from the IOD)
RESOLUTION: Final[dict[str, tuple[Action, Action, Action]]] = {
    "X": ("X", "X", "X"),
    "D": ("D", "D", "D"),
    "U": ("U", "U", "U"),
    "Z": ("Z", "Z", "Z"),
    "X/Z": ("D", "Z", "X"),
    "X/D": ("D", "D", "X"),
    "Z/D": ("D", "Z", "Z"),
    "X/Z/D": ("D", "Z", "X"),
    "X/Z/U*": ("U", "Z", "X"),
}

#: the pattern rows: name in the table -> does it cover this tag
#: (the overlay rows name 3000 and 4000; the rest of the plane means nothing without its data and goes too)
PATTERNS: Final[dict[str, tuple[int, int]]] = {
    "PrivateAttributes": (0x00010000, 0x00010000),
    "CurveData": (0xFF000000, 0x50000000),
    "OverlayData": (0xFF000000, 0x60000000),
    "OverlayComments": (0xFF00FFFF, 0x60004000),
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)  # equal by identity: hashing rows costs too much
class Profile:
    """One de-identification profile; `digest` names it to the last row."""

    name: str
    edition: str
    rows: Mapping[int, str] = field(repr=False)
    patterns: Mapping[str, str] = field(repr=False)
    types: Mapping[str, Mapping[str, tuple[int, int]]] = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 over everything that decides what is done to an attribute."""
        return _digest(self)

    def actions(self, sop_class_uid: str) -> "Actions":
        """Resolve the table for one SOP class."""
        iod = SOP_CLASSES[sop_class_uid].iod if sop_class_uid in SOP_CLASSES else "*"
        return _actions(self, iod)

    def without(self, *tags: int, patterns: tuple[str, ...] = ()) -> "Profile":
        """Return this profile with rows switched off: for tests that must then fail."""
        rows = {t: c for t, c in self.rows.items() if t not in tags}
        kept = {n: c for n, c in self.patterns.items() if n not in patterns}
        return Profile(name=self.name, edition=self.edition, rows=rows, patterns=kept, types=self.types)


class Actions:
    """The action for each tag of one SOP class, at the root and nested."""

    __slots__ = ("masks", "nested", "root")

    def __init__(
        self, root: Mapping[int, Action], nested: Mapping[int, Action], masks: tuple[tuple[int, int], ...]
    ) -> None:
        self.root = root
        self.nested = nested
        self.masks = masks

    def of(self, tag: int, *, nested: bool) -> Action:
        """Return the action for a tag; `K` for one that no row names."""
        action = (self.nested if nested else self.root).get(tag)
        if action is not None:
            return action
        for mask, value in self.masks:  # a loop: this is asked of every element that no row names
            if tag & mask == value:
                return "X"
        return "K"


@lru_cache(maxsize=64)
def _digest(profile: Profile) -> str:
    rows = {f"{tag:08X}": code for tag, code in sorted(profile.rows.items())}
    parts = (profile.name, profile.edition, ENGINE_VERSION, rows, dict(profile.patterns), profile.types)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=512)
def _actions(profile: Profile, iod: str) -> Actions:
    types = profile.types.get(iod, profile.types["*"])
    root, nested = (
        {t: RESOLUTION[code][types.get(f"{t:08X}", (3, 3))[place] - 1] for t, code in profile.rows.items()}
        for place in (0, 1)
    )
    return Actions(root, nested, tuple(PATTERNS[name] for name in profile.patterns))


@cache
def basic_profile() -> Profile:
    """Return the Basic Application Level Confidentiality Profile."""
    tables = files("consumers.deid") / "tables"
    lines = (tables / f"basic_{EDITION}.csv").read_text().splitlines()
    table = [(row["tag"], row["keyword"], row["code"]) for row in csv.DictReader(lines)]
    types = json.loads((tables / "types.json").read_text())
    return Profile(
        name="basic",
        edition=EDITION,
        rows={int(tag, 16): code for tag, _, code in table if not tag.startswith("(")},
        patterns={keyword: code for tag, keyword, code in table if tag.startswith("(")},
        types={iod: {t: (a, b) for t, (a, b) in tags.items()} for iod, tags in types.items()},
    )
