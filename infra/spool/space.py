"""How full a spool may become, and how full it is.

The capacity is the limit that the settings give, or the folder and what its disk still has free, whichever
is less: so a disk that others fill counts too.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from infra.clock import Clock
from infra.spool import files, recycling

#: The folder is measured at most this often, seconds: a segment's space is taken when it is made, so that
#: little changes between.
_MEASURE_SECONDS: Final = 1.0
#: A segment is an eighth of the space at most, so that freeing one matters on a small disk too.
_SEGMENTS_AT_LEAST: Final = 8
_SEGMENT_MINIMUM: Final = 64 << 10


class SpoolLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How a spool is cut and how full it may become.

    Attributes
    ----------
    segment_bytes : int
        A segment is sealed at this size; the unit that is freed.
    segment_seconds : float
        A segment with records is sealed at this age, so that a quiet receiver's raw bytes are freed too.
    limit_bytes : int
        The spool counts as full here; the disk's free space counts where it is less.
    refuse_ratio, full_ratio : float
        Share at which new associations, and from where instances, are refused. The gap lets open
        associations end.
    """

    segment_bytes: int = 256 << 20
    segment_seconds: float = 300.0
    limit_bytes: int = 32 << 30
    refuse_ratio: float = 0.85
    full_ratio: float = 0.95


class Space:
    """How full the folder and its disk are, measured at most once a second; many threads ask."""

    def __init__(self, folder: Path, limits: SpoolLimits, clock: Clock) -> None:
        self._folder, self._limits, self._clock = folder, limits, clock
        self._measured = self._measure()
        self._until = float("-inf")
        self._since = 0

    def ratio(self, more: int = 0) -> float:
        """Return used bytes over capacity, with `more` bytes added."""
        used, capacity = self._current()
        return (used + self._since + more) / max(capacity, 1)

    def segment_bytes(self) -> int:
        """Return how much to allocate for a new segment."""
        _, capacity = self._current()
        share = max(_SEGMENT_MINIMUM, capacity // _SEGMENTS_AT_LEAST)
        return min(self._limits.segment_bytes, share)

    def add(self, count: int) -> None:
        """Count bytes that were written beside the segments, until the next measurement sees them."""
        self._since += count

    def forget(self) -> None:
        """Measure again at the next question: a segment was made or sealed."""
        self._until = float("-inf")

    def _current(self) -> tuple[int, int]:
        now = self._clock.monotonic()
        if now >= self._until:
            self._until = now + _MEASURE_SECONDS
            self._since = 0
            self._measured = self._measure()  # whoever asks meanwhile gets the measurement before
        return self._measured

    def _measure(self) -> tuple[int, int]:
        disk = os.statvfs(self._folder)
        kept = recycling.kept_bytes(self._folder)
        free = kept + disk.f_bavail * disk.f_frsize
        used = files.used_bytes(self._folder) - kept
        return used, min(self._limits.limit_bytes, used + free)
