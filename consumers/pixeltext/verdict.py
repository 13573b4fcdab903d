"""Which text may stay in an image: sides, positions and scales, of a list; never what resembles the patient.

A text that was not read well, or not whole, is not on the list. What resembles a token of the header's names, by few changed
letters, goes even if it is.
"""

import re
from collections.abc import Collection
from typing import Final

from consumers.pixeltext.detector import Found

#: at least this sure of what it says, or it goes
_READ_WELL: Final = 0.8
_ALLOWED: Final = frozenset(
    {
        *(
            "l",
            "r",
            "li",
            "re",
            "lt",
            "rt",
            "left",
            "right",
            "ap",
            "pa",
            "lat",
            "lateral",
            "a",
            "p",
            "h",
            "f",
        ),
        *(
            "supine",
            "prone",
            "erect",
            "upright",
            "decub",
            "decubitus",
            "portable",
            "mobile",
            "stehend",
            "liegend",
        ),
        *("cc", "mlo", "ml", "lm", "lcc", "rcc", "lmlo", "rmlo", "axial", "coronal", "sagittal", "obl"),
        *("cm", "mm", "hz", "mhz", "db", "fps", "kv", "ma", "mas", "cm/s", "m/s", "bpm"),
    }
)
_MEASURE: Final = re.compile(
    r"[+-]?\d{1,3}(?:[.,]\d{1,2})?\s?(?:cm|mm|mhz|hz|db|fps|kv|mas?|cm/s|m/s|bpm|%|x)?"
)
_WORD: Final = re.compile(r"[^\W_]+")
_NEAR_FROM: Final = 4  # letters; shorter names are looked for whole


def may_stay(found: Found, names: Collection[str]) -> bool:
    """Tell whether a piece of text may stay where it is."""
    text = found.text.strip().casefold()
    if not found.whole or found.score < _READ_WELL or not text or resembles(text, names):
        return False
    return text in _ALLOWED or _MEASURE.fullmatch(text) is not None


def resembles(text: str, names: Collection[str]) -> bool:
    """Tell whether a word of the text is a name, or nearly one: a change in four letters."""
    words = _WORD.findall(text.casefold())
    for name in names:
        if len(name) < _NEAR_FROM:
            if name in words:
                return True
        elif any(_distance_within(word, name, len(name) // 4) for word in words):
            return True
    return False


def _distance_within(one: str, other: str, limit: int) -> bool:
    """Tell whether the edit distance (Levenshtein 1966) is at most `limit`."""
    if abs(len(one) - len(other)) > limit:
        return False
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1] <= limit
