"""Time, injected: nothing else in prodrome asks the machine what time it is.

`SystemClock` is the real one. `ManualClock` stands still until a test moves it, so that a quiet rule of
fifteen seconds or a deadline of fifteen minutes is tested in microseconds.
"""

import datetime
import time
from typing import Protocol


class Clock(Protocol):
    """What a component may ask about time."""

    def now(self) -> float:
        """Seconds since the Unix epoch; may jump. For records that people read, never for durations."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never jumps. For durations and deadlines."""

    def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""


class SystemClock:
    """The machine's clocks."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)


class ManualClock:
    """A clock that a test moves; `sleep` moves it too and returns at once."""

    def __init__(self, start: float = 1_000_000.0) -> None:
        self._now = start

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds

    advance = sleep


def seconds_of(at: datetime.datetime) -> float:
    """Return the timestamp of a row, which Cassandra's driver gives without a zone, in seconds since the epoch."""
    return at.replace(tzinfo=datetime.UTC).timestamp()
