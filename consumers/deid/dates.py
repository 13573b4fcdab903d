"""Dates moved by a number of days: the same for every date of a patient, so that intervals stay.

Times of day stay as they are. What is no valid date is None: it cannot be moved, and what cannot be moved
does not stay. Reduced dates of a DateTime (year, or year and month) are moved from their first day and
reduced again.
"""

import re
from datetime import date, timedelta
from typing import Final

DATE: Final = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_DATETIME: Final = re.compile(r"(\d{4})(\d{2})?(\d{2})?(\d{0,6}(?:\.\d{1,6})?)([+-]\d{4})?")
#: dates inside text whose order of day and month is beyond doubt
_IN_TEXT: Final = re.compile(
    r"(?<!\d)(?:(?P<y>(?:19|20)\d{2})(?P<s>[-./]?)(?P<m>\d{2})(?P=s)(?P<d>\d{2})"
    r"|(?P<D>\d{1,2})\.(?P<M>\d{1,2})\.(?P<Y>(?:19|20)\d{2}))(?!\d)"
)
#: YYYYMMDD, as it is written in place of a date inside text
DATE_IN_TEXT: Final = re.compile(r"(?<!\d)(?:19|20)\d{6}(?!\d)")


def shifted_date(text: str, days: int) -> str | None:
    """Move a DA value (PS3.5 6.2), also one of the old form with points."""
    match = DATE.fullmatch(text.strip())
    return _moved(match[1], match[2], match[3], days) if match else None


def shifted_datetime(text: str, days: int) -> str | None:
    """Move a DT value; its time and offset from UTC stay."""
    match = _DATETIME.fullmatch(text.strip())
    if match is None or (match[4] and match[3] is None):
        return None
    year, month, day, time, zone = match.groups()
    moved = _moved(year, month or "01", day or "01", days)
    if moved is None:
        return None
    length = 8 if day else 6 if month else 4
    return moved[:length] + time + (zone or "")


def shifted_text(text: str, days: int) -> str:
    """Move each date inside text that is one beyond doubt; it is written as YYYYMMDD."""

    def moved(match: re.Match[str]) -> str:
        parts = (match["y"], match["m"], match["d"]) if match["y"] else (match["Y"], match["M"], match["D"])
        return _moved(*parts, days) or match[0]

    return _IN_TEXT.sub(moved, text)


def has_date(text: str) -> bool:
    """Tell whether text holds a date that `shifted_text` would move."""
    return _IN_TEXT.search(text) is not None


def _moved(year: str, month: str, day: str, days: int) -> str | None:
    try:
        moved = date(int(year), int(month), int(day)) + timedelta(days=days)
    except (ValueError, OverflowError):
        return None
    return moved.strftime("%Y%m%d") if moved.year >= 1000 else None
