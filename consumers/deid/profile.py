"""What a profile is: the rows of PS3.15 Table E.1-1, pinned by edition, resolved to one action a tag.

1. The packaged table gives a code for every tag; four rows are patterns (odd groups, 50xx, two of 60xx).
   `UNLISTED` gives one to attributes that no row names but whose VR says what they hold: persons and times,
   and UIDs that are not of the standard. "Unlisted" is not "safe" (PS3.15 E.1.1).
2. A compound code (X/Z/D and its like) is the first that the IOD allows: `types.json` says where a tag is of
   type 1 or 2. For SOP classes without an IOD in that map, the strictest over all IODs.
3. Options keep (K) or clean (C) what the rows would take away; a site's own rows stand above both.
4. The digest covers all of it and the engine's version: it names what was done.

Which profiles there are, and how a site writes one, is in `profiles`.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, Literal

from consumers.deid.private import SafePrivate
from consumers.deid.triage import SOP_CLASSES

#: keep (sequences are walked), remove, empty, dummy, new UID, clean
Action = Literal["K", "X", "Z", "D", "U", "C"]

ENGINE_VERSION: Final = "2"
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
    """One de-identification profile; `digest` names it to the last row.

    Attributes
    ----------
    claim : str
        What it may be called, in one sentence.
    rows, patterns : mapping
        Tag, or name of a pattern row -> code of the Basic Profile.
    types : mapping
        IOD -> tag -> attribute type at the root and nested, where a compound code asks for it.
    options : frozenset of str
        Names of `options.OPTIONS`.
    above : mapping
        Tag -> code that stands above its row: of the options, of a site.
    words : frozenset of str
        Which derived words (`derived.WORDS`) may cross.
    vocabulary : frozenset of str
        A site's own words that may stay in descriptions, in lower case.
    private : SafePrivate
        Private elements that stay under `safe_private`.
    """

    name: str
    edition: str
    claim: str = ""
    rows: Mapping[int, str] = field(repr=False)
    patterns: Mapping[str, str] = field(repr=False)
    types: Mapping[str, Mapping[str, tuple[int, int]]] = field(repr=False)
    options: frozenset[str] = frozenset()
    above: Mapping[int, Action] = field(repr=False, default_factory=dict)
    words: frozenset[str] = frozenset()
    vocabulary: frozenset[str] = field(repr=False, default=frozenset())
    private: SafePrivate = field(repr=False, default=SafePrivate())

    @property
    def digest(self) -> str:
        """SHA-256 over everything that decides what is done to an attribute."""
        return _digest(self)

    def actions(self, sop_class_uid: str) -> "Actions":
        """Resolve the table for one SOP class."""
        iod = SOP_CLASSES[sop_class_uid].iod if sop_class_uid in SOP_CLASSES else "*"
        return _actions(self, iod)

    def without(self, *tags: int, patterns: Collection[str] = ()) -> "Profile":
        """Return this profile with rows switched off: for tests that must then fail."""
        return replace(
            self,
            rows={t: c for t, c in self.rows.items() if t not in tags},
            patterns={n: c for n, c in self.patterns.items() if n not in patterns},
            above={t: c for t, c in self.above.items() if t not in tags},
        )


class Actions:
    """The action for each tag of one SOP class, at the root and nested."""

    __slots__ = ("masks", "nested", "profile", "root", "strict_nested", "strict_root")

    def __init__(
        self,
        profile: Profile,
        root: Mapping[int, Action],
        nested: Mapping[int, Action],
        masks: tuple[tuple[int, int], ...],
    ) -> None:
        self.profile = profile
        self.strict_root, self.strict_nested = root, nested
        self.root, self.nested = {**root, **profile.above}, {**nested, **profile.above}
        self.masks = masks

    def of(self, tag: int, *, nested: bool) -> Action:
        """Return the action for a tag; `K` for one that no row names."""
        action = (self.nested if nested else self.root).get(tag)
        return self._by_mask(tag) if action is None else action

    def strict(self, tag: int, *, nested: bool) -> Action:
        """Return the action for a tag as it is without options: what is done where cleaning is not possible."""
        action = (self.strict_nested if nested else self.strict_root).get(tag)
        return self._by_mask(tag) if action is None else action

    def rule(self, tag: int) -> str:
        """Return what decides over a tag: its row's code with an option above it, or the name of a pattern."""
        code = self.profile.rows.get(tag)
        if code is not None:
            above = self.profile.above.get(tag)
            return f"{code} {above}" if above else code
        names = (n for n in self.profile.patterns if tag & PATTERNS[n][0] == PATTERNS[n][1])
        return next(names, "unknown")

    def _by_mask(self, tag: int) -> Action:
        for mask, value in self.masks:  # a loop: this is asked of every element that no row names
            if tag & mask == value:
                return "X"
        return "K"


@lru_cache(maxsize=64)
def _digest(profile: Profile) -> str:
    rows = {f"{tag:08X}": code for tag, code in sorted(profile.rows.items())}
    above = {f"{tag:08X}": code for tag, code in sorted(profile.above.items())}
    chosen = [sorted(part) for part in (profile.options, profile.words, profile.vocabulary, profile.private)]
    parts = (profile.name, profile.edition, ENGINE_VERSION, rows, dict(profile.patterns), profile.types)
    return hashlib.sha256(json.dumps((*parts, above, chosen), sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=512)
def _actions(profile: Profile, iod: str) -> Actions:
    types = profile.types.get(iod, profile.types["*"])
    root, nested = (
        {t: RESOLUTION[code][types.get(f"{t:08X}", (3, 3))[place] - 1] for t, code in profile.rows.items()}
        for place in (0, 1)
    )
    return Actions(profile, root, nested, tuple(PATTERNS[name] for name in profile.patterns))
