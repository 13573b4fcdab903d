"""The generated page on profiles: what each claims, takes away, lets stay, and what can be asked under it."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from pydicom.datadict import keyword_for_tag

from commands.markdown import table
from consumers.deid.derived import SEQUENCES, UNKNOWN, WORDS
from consumers.deid.engine import load_profile
from consumers.deid.options import codes_of
from consumers.deid.private import standard_private
from consumers.deid.profile import Profile
from consumers.deid.profiles import SHIPPED, published_rows

#: what can be asked of an instance under every profile
_FACTS: Final = (
    "modality, rows, columns, number of frames, bits, photometric interpretation, ImageType, presentation intent,"
    " view, laterality, view modifiers, partial view, acquisition, series and instance number, acquisition rank,"
    " position, orientation and spacing, MR acquisition type, scanning sequence, echo time, angio flag, images in"
    " acquisition"
)
_WORDS: Final = {
    "age_band": "ten years, `90+` above 89",
    "sequence": "of MR series: "
    + ", ".join(f"`{word}`" for word in (*(word for word, _ in SEQUENCES), UNKNOWN)),
    "contrast": "`yes` where a contrast agent is named",
    "device": "a keyed id: the same for the same device, and nothing else",
}
_SITE: Final = """\
```toml
name = "our-registry"
base = "research"                    # basic, safe-harbor or research
claim = "approved under protocol 12"
options = ["institution_identity"]   # besides those of the base
vocabulary = ["buik", "hersenen"]    # words of the site's language that may stay in descriptions
[attributes]                         # by keyword: X remove, Z empty, D dummy, U new UID, C clean, K keep
StationName = "X"
[private."ACME 1.0"]                 # with the option safe_private: group and last two digits -> VR
"0019,23" = "DS"
```

`options` may have `clean_pixel_data` where the extra is installed (`pip install 'prodrome[text]'`): images that are
likely to carry text are then searched and blanked instead of waiting in quarantine.

`PRODROME_DEIDENTIFY_PROFILE`, or `prodrome deid --profile`, is then the path of the file. What identifies a
person directly cannot be kept; a mistake in the file ends the command with a line that says what was expected.
A profile is part of the name of every clean object: another one gives other objects, and does not change those
that are there.
"""


def sections() -> Iterator[str]:
    """Yield the sections of the page."""
    profiles = [load_profile(name) for name in SHIPPED]
    yield _compared(profiles)
    for profile in profiles:
        yield f"## {profile.name}\n"
        yield f"{profile.claim[0].upper()}{profile.claim[1:]}.\n"
        yield from _stays(profile)
    yield "## A site's own\n"
    yield _SITE


def _compared(profiles: list[Profile]) -> str:
    rows = [
        ("codes in (0012,0064)", *(", ".join(o.code for o in codes_of(p.options)) for p in profiles)),
        ("rows by code", *(_codes(p) for p in profiles)),
        ("kept by options", *(str(sum(a == "K" for a in p.above.values())) for p in profiles)),
        ("cleaned by options", *(str(sum(a == "C" for a in p.above.values())) for p in profiles)),
        ("private elements that stay", *(str(len(p.private)) for p in profiles)),
        *(
            (f"`{word}`: {_WORDS[word]}", *("yes" if word in p.words else "" for p in profiles))
            for word in WORDS
        ),
    ]
    return table(("", *(p.name for p in profiles)), rows) + f"\nUnder each can be asked: {_FACTS}.\n"


def _codes(profile: Profile) -> str:
    counts = Counter(profile.rows.values())
    return ", ".join(f"{code} {n}" for code, n in sorted(counts.items(), key=lambda pair: -pair[1]))


def _stays(profile: Profile) -> Iterator[str]:
    for action, verb in (("K", "Stay as they are"), ("C", "Stay cleaned")):
        words = sorted(_name(tag) for tag, a in profile.above.items() if a == action)
        if words:
            yield f"{verb}: {', '.join(words)}.\n"
    creators = sorted({row.creator for row in profile.private})
    if creators:
        yield f"Private elements of Table E.3.10-1 ({len(standard_private())}), by creator: {', '.join(creators)}.\n"
    if not profile.above:
        yield "Nothing of the table stays.\n"


def _name(tag: int) -> str:
    published = (keyword for name, keyword, _ in published_rows() if name == f"{tag:08X}")
    return keyword_for_tag(tag) or next(published, f"({tag >> 16:04X},{tag & 0xFFFF:04X})")
