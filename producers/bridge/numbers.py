"""Intake numbers for what comes out of buckets: the ledger counts them as it counts the records of a spool.

A process takes a whole segment of a source's numbers for itself (by lightweight transaction), hands them out in
order, and tells how many are published. One that was killed leaves a segment half used, which harms nobody.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from infra.cassandra import Tables
from schemas.events import Intake

#: About what a segment of the spool has. A larger archive makes its segment as large as it needs.
SEGMENT_RECORDS: Final = 4096

_FIRST: Final = "INSERT INTO bucket_segments (spool, next) VALUES (?, 1) IF NOT EXISTS"
_SELECT: Final = "SELECT next FROM bucket_segments WHERE spool = ?"
_NEXT: Final = "UPDATE bucket_segments SET next = ? WHERE spool = ? IF next = ?"


def spool_of(source: str) -> str:
    """Return the name under which the intakes of a source are counted."""
    return f"s3-{source}"


class Told(NamedTuple):
    """What the ledger is told of a segment: how many of its records are published, and whether more will come."""

    spool: str
    segment: int
    records: int
    sealed: bool


class Numbers:
    """The numbers of one process; not for several threads."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._open: dict[str, tuple[int, int]] = {}  # spool -> its segment of ours, the next record
        self._given: Counter[tuple[str, int]] = Counter()
        self._published: Counter[tuple[str, int]] = Counter()

    def take(self, spool: str, count: int) -> Intake:
        """Return the first of `count` consecutive intakes."""
        segment, record = self._open.get(spool, (-1, SEGMENT_RECORDS))
        if record >= SEGMENT_RECORDS:
            segment, record = self._claim(spool), 0
        self._open[spool] = (segment, record + count)
        self._given[spool, segment] += count
        return Intake(spool=spool, segment=segment, record=record)

    def published(self, intakes: Iterable[Intake]) -> Iterator[Told]:
        """Note what is published for the first time; yield what the ledger is told of the segments it was in.

        Segments of other processes are theirs to tell.
        """
        ours = Counter((intake.spool, intake.segment) for intake in intakes)
        for key, count in ours.items():
            if key not in self._given:
                continue
            self._published[key] += count
            ended = self._ended(key)
            yield Told(*key, self._published[key], ended)
            if ended:
                del self._given[key], self._published[key]

    def close(self) -> Iterator[Told]:
        """Yield the segments that end here, as `published` does; those with numbers that nobody published stay open."""
        for key, count in list(self._published.items()):
            if count == self._given[key]:
                yield Told(*key, count, True)

    def _ended(self, key: tuple[str, int]) -> bool:
        segment, following = self._open.get(key[0], (-1, 0))
        in_use = segment == key[1] and following < SEGMENT_RECORDS
        return not in_use and self._published[key] == self._given[key]

    def _claim(self, spool: str) -> int:
        if self._tables.run_once(_FIRST, (spool,))[0]:
            return 0
        while True:
            following = self._tables.run(_SELECT, (spool,))[0].next
            if self._tables.run_once(_NEXT, (following + 1, spool, following))[0]:
                return int(following)
