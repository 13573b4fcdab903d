"""Which acquisition came later, told without saying when.

Basic removes every time, and "the latest of several views" needs an order. From one instance alone:

1. The best time the instance has (acquisition, then content, then series) becomes the second within eight
   days about the study date (`OFFSET_BITS`).
2. A keyed random binary split of [0, 2^62), other for every study, maps that second to an integer: at every
   halving of the time range the rank range is cut at a pseudo-random place. Order is kept, distance is not.

What it leaks: the order, and which instances share one second. Not the day, not the time of day. An interval
shows only as a cell whose size is a product of random cuts: for a known interval the rank distance varies by
orders of magnitude from study to study; one who knows the distribution learns at most its rough magnitude.
A rank given by the trusted side from its state (`VaultEntry.acquisition_time`) would leak the order alone; it
needs the whole study, and ranks that may move when a late instance comes between.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Final

from consumers.deid.keys import mac

OFFSET_BITS: Final = 20  # 2^20 s are twelve days; days before and after the study date are clamped to it
RANK_BITS: Final = 62  # fits a signed 64-bit integer
_DAYS_BEFORE: Final = 2  # exams over midnight, and study dates typed a day late

#: (date, time) or (datetime,) in order of preference
_SOURCES: Final = (
    (0x0008002A,),
    (0x00080022, 0x00080032),
    (0x00080023, 0x00080033),
    (0x00080021, 0x00080031),
)
_DATE: Final = re.compile(r"(\d{4})[.]?(\d{2})[.]?(\d{2})")
_TIME: Final = re.compile(r"(\d{2}):?(\d{2})?:?(\d{2})?(\.\d{1,6})?")


def acquisition_time(values: Mapping[int, str]) -> str | None:
    """Return the best acquisition time of an instance as `YYYYMMDDHHMMSS[.f]`, or None. Trusted."""
    for tags in _SOURCES:
        texts = [values.get(tag, "").strip() for tag in tags]
        if len(tags) == 1:
            texts = [texts[0][:8], texts[0][8:]]
        date, time = _DATE.match(texts[0]), _TIME.match(texts[1])
        if date and time:
            hour, minute, second = (time[n] or "00" for n in (1, 2, 3))
            return "".join(date.groups()) + hour + minute + second + (time[4] or "")
    return None


def acquisition_rank(time: str | None, study_date: str, study_instance_uid: str, key: bytes) -> int:
    """Return a rank that orders the acquisitions of one study; 0 where no time is known.

    Parameters
    ----------
    time : str or None
        As `acquisition_time` gives it.
    study_date : str
        `YYYYMMDD`; where it is absent or wrong, only the time of day counts.
    study_instance_uid : str
        Original UID: other studies have another mapping.
    key : bytes
        The project's order key.
    """
    seconds = _seconds(time, study_date)
    if seconds is None:
        return 0
    return _cell(seconds, 0, mac(key, study_instance_uid.encode()))[0]


def _seconds(time: str | None, study_date: str) -> int | None:
    if time is None:
        return None
    clock = min(int(time[8:10]), 24) * 3600 + min(int(time[10:12]), 59) * 60 + min(int(time[12:14]), 60)
    return max(0, min(_days(time[:8], study_date) * 86400 + clock, (1 << OFFSET_BITS) - 1))


@lru_cache(maxsize=1024)
def _days(day: str, study_date: str) -> int:
    try:
        start = datetime.strptime(study_date.replace(".", "")[:8], "%Y%m%d")
        return (datetime.strptime(day, "%Y%m%d") - start).days + _DAYS_BEFORE
    except ValueError:
        return _DAYS_BEFORE


@lru_cache(maxsize=1 << 16)  # the instances of a study share most of their way down
def _cell(prefix: int, bit: int, key: bytes) -> tuple[int, int]:
    """Return the ranks, from and up to, of all seconds that are `prefix` but for their last `bit` bits."""
    if bit == OFFSET_BITS:
        return 1, 1 << RANK_BITS
    low, high = _cell(prefix >> 1, bit + 1, key)
    cells = 1 << bit  # each half still has to hold this many different ranks
    drawn = mac(key, f"{bit}:{prefix >> 1}".encode())[:8]
    cut = low + cells + (high - low - 2 * cells) * int.from_bytes(drawn, "big") // (1 << 64)
    return (cut, high) if prefix & 1 else (low, cut)
