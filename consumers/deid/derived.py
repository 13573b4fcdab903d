"""Words that are derived at the boundary, from closed lists, and may cross where a profile permits them.

- `age_band`: ten years, "90+" above 89; from PatientAge, else from birth and study date.
- `sequence`: what a series of a brain or other MR examination is, from SeriesDescription, ProtocolName and
  SequenceName; "unknown" where none says.
- `contrast`: "yes" where a contrast agent is named; the name itself does not cross.
- `device`: a keyed id of the device, from manufacturer, model and serial number (station where there is none).

The rank of an acquisition (`order`) crosses under every profile.
"""

import re
from collections.abc import Callable
from datetime import date
from typing import Final, Protocol

from consumers.deid.cleaning import AGE, OLDEST
from consumers.deid.dates import DATE
from consumers.deid.keys import ProjectKeys

_DEVICE_DIGITS: Final = 16
#: What people write into ContrastBolusAgent to say that there was none.
_NO_CONTRAST: Final = frozenset(
    {"no", "none", "n", "n/a", "na", "nil", "without", "ohne", "sans", "non", "0"}
)

#: word -> pattern, the first that matches; descriptions are lower case with `_` and `-` as blanks
SEQUENCES: Final[tuple[tuple[str, re.Pattern[str]], ...]] = tuple(
    (word, re.compile(pattern))
    for word, pattern in (
        (
            "localizer",
            r"\b(?:locali[sz]er|loc|locs|scout|survey|surview|topogram|scanogram|3 ?plane|aahscout|aahead scout)\b",
        ),
        ("dwi", r"\b(?:dwi|dti|diff(?:usion)?|adc|trace ?w?|ep2d diff|b ?(?:500|600|800|1000))\b|\bep b\d"),
        ("swi", r"\b(?:swi|swan|swip?|qsm|mip images sw|susc\w*)\b"),
        ("tof", r"\b(?:3d ?|fl ?)?tof\w*\b|\btime of flight\b"),
        ("flair", r"\b\w*flair\w*\b|\btirm dark fluid\b|\bdark ?fluid\b"),
        (
            "post_contrast",
            r"\b(?:post|gad|gado|gadolinium|gd|ce|post ?contrast|\+ ?c|with contrast|w ?contrast)\b|\bt1\w* ?(?:\+ ?c|c\+)|\bkm\b",
        ),
        ("t1", r"\bt1\w*|\bmp2?rage\w*|\b(?:i?r ?)?(?:fspgr|spgr|bravo|tfl3d\w*)\b"),
        ("t2", r"\bt2\w*"),
    )
)
UNKNOWN: Final = "unknown"


class Received(Protocol):
    """The root of a dataset as received."""

    def text(self, tag: int) -> str:
        """Return the text of an attribute; empty where it is absent."""
        ...


def age_band(received: Received, keys: ProjectKeys) -> str | None:
    """Return the age as a band: "00-09" to "80-89", "90+"; None where it is not known."""
    del keys
    years = _age_in_years(received.text(0x00101010))
    if years is None:
        years = _years_between(received.text(0x00100030), received.text(0x00080020))
    if years is None:
        return None
    return f"{OLDEST + 1}+" if years > OLDEST else f"{years // 10}0-{years // 10}9"


def sequence(received: Received, keys: ProjectKeys) -> str | None:
    """Return what kind of MR series this is, of a closed list; None for other modalities."""
    del keys
    if received.text(0x00080060) != "MR":
        return None
    for tag in (0x0008103E, 0x00181030, 0x00180024):
        said = re.sub(r"[_\-*/.,:;()\[\]]+", " ", received.text(tag).casefold())
        for word, pattern in SEQUENCES:
            if pattern.search(said):
                return word
    return UNKNOWN


def contrast(received: Received, keys: ProjectKeys) -> str | None:
    """Return "yes" where a contrast agent is named; None where none is, or what stands there says so."""
    del keys
    said = received.text(0x00180010).casefold().strip(" .-")
    return "yes" if said and said not in _NO_CONTRAST else None


def device(received: Received, keys: ProjectKeys) -> str | None:
    """Return a keyed id of the device; None where nothing tells one from another."""
    serial = received.text(0x00181000) or received.text(0x00081010)
    if not serial:
        return None
    made = (received.text(0x00080070), received.text(0x00081090))
    return keys.keyed_digest("device", *(part.casefold() for part in (*made, serial)))[:_DEVICE_DIGITS]


#: word -> how it is derived
WORDS: Final[dict[str, Callable[[Received, ProjectKeys], str | None]]] = {
    "age_band": age_band,
    "sequence": sequence,
    "contrast": contrast,
    "device": device,
}


def derived_words(received: Received, keys: ProjectKeys, permitted: frozenset[str]) -> dict[str, str | None]:
    """Return each word; None where it is not known or the profile does not permit it."""
    return {word: derive(received, keys) if word in permitted else None for word, derive in WORDS.items()}


def _age_in_years(text: str) -> int | None:
    match = AGE.fullmatch(text)
    if match is None or (match[2] == "Y" and int(match[1]) == 0):
        return None
    return int(match[1]) // {"D": 365, "W": 52, "M": 12, "Y": 1}[match[2]]


def _years_between(birth: str, study: str) -> int | None:
    born, seen = DATE.match(birth), DATE.match(study)
    if born is None or seen is None:
        return None
    try:
        first, last = (date(*map(int, match.groups())) for match in (born, seen))
    except ValueError:
        return None
    years = last.year - first.year - ((last.month, last.day) < (first.month, first.day))
    return years if years >= 0 else None
