"""Text reduced to words that say something about an examination: an allow-list, never a list of names.

1. Dates are moved with the patient's other dates, or dropped where none may stay.
2. A piece of text stays if it is on the list (`tables/vocabulary.txt`, and what a site adds to it) or is a
   measure: a number with a unit, or numbers with an x between.
3. What follows a title ("Dr. Hand") is a person whatever the list says, for two pieces. Two titles are modalities
   too: in capitals and without a point (DR, MR) they are taken as such.

Text whose every piece stays is not touched; otherwise the pieces that stay are joined by one space, without the
small words that now lead nowhere.
"""

import re
from collections.abc import Collection
from functools import cache
from typing import Final

from consumers.deid.dates import DATE_IN_TEXT, shifted_text
from consumers.deid.packaged import table_text

_PIECE: Final = re.compile(r"\d+[.,]\d+[^\W\d_]*|[^\W_]+")
_MEASURE: Final = re.compile(
    r"\d{1,4}(?:[.,]\d{1,3})?(?:mm|cm|s|sec|ms|kv|kvp|ma|mas|min|hz|t|tesla|deg|gy|mgy|mci|mbq|ml|mg|iso)"
    r"|\d{1,3}x\d{1,3}(?:x\d{1,3})?|[2-4]d"
)
_TITLES: Final = frozenset(
    ["dr", "doctor", "frau", "herr", "md", "miss", "mme", "mr", "mrs", "ms", "nurse", "phys", "prof", "tech"]
)
_MODALITIES: Final = frozenset({"DR", "MR"})
_BEHIND_TITLE: Final = 2
_JOINTS: Final = frozenset(
    [
        "a",
        "an",
        "and",
        "at",
        "by",
        "de",
        "for",
        "from",
        "in",
        "of",
        "on",
        "or",
        "the",
        "to",
        "with",
        "without",
    ]
)


@cache
def vocabulary() -> frozenset[str]:
    """Return the words that ship with prodrome."""
    lines = (line.partition("#")[0] for line in table_text("vocabulary.txt").splitlines())
    return frozenset(word for line in lines for word in line.split())


def clean_text(text: str, days: int | None, more: Collection[str] = ()) -> str:
    """Return what may stay of a text.

    Parameters
    ----------
    text : str
        One value, decoded.
    days : int or None
        By how much dates are moved; None drops them.
    more : collection of str
        A site's own words, in lower case.
    """
    dated = text if days is None else shifted_text(text, days)
    parts: list[list[str]] = [[]]  # of words that stay, with what went between them
    behind_title = 0
    for match in _PIECE.finditer(dated):
        piece = match[0]
        title = _is_title(piece, dated[match.end() : match.end() + 1])
        stays = not title and behind_title == 0 and _stays(piece.casefold(), days, more)
        behind_title = _BEHIND_TITLE if title else max(behind_title - 1, 0)
        if stays:
            parts[-1].append(piece)
        else:
            parts.append([])
    if len(parts) == 1 and dated.isascii():
        return dated
    return " ".join(word for part in parts for word in _without_joints(part))


def _without_joints(part: list[str]) -> list[str]:
    """Leave out the small words at the ends of a part: what they joined it to has gone."""
    while part and part[0].casefold() in _JOINTS:
        part = part[1:]
    while part and part[-1].casefold() in _JOINTS:
        part = part[:-1]
    return part


def _is_title(piece: str, following: str) -> bool:
    return piece.casefold() in _TITLES and (piece not in _MODALITIES or following == ".")


def _stays(word: str, days: int | None, more: Collection[str]) -> bool:
    if not word.isascii() and word not in more:
        return False
    if word in vocabulary() or word in more:
        return True
    if days is not None and DATE_IN_TEXT.fullmatch(word):
        return True
    return _MEASURE.fullmatch(word) is not None
