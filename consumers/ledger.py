"""The ledger stage: one byte a record, a row a segment; says when a segment may be freed.

A batch: add the outcomes that settled and the record counts that the relay published to the rows of their
segments. Between batches: a sealed segment whose every record is settled is marked freeable once the grace
is over and the retention policy agrees; the relay of that spool then frees it.

An outcome, once written, stays, so that a repeat changes no number; `dead` alone gives way, to the outcome of
its replay. Where a segment is published in another epoch, its outcomes are in doubt until they are said again:
they count, and nothing is freed. It frees nothing itself and reads no bytes.
"""

import datetime
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from consumers.loop import Record
from infra import metrics
from infra.cassandra import Tables
from infra.clock import Clock, seconds_of
from infra.settings import Settings
from infra.spool import InstanceHeader, SegmentFreed, SpoolReader
from schemas.errors import BadMessage, SettingsError
from schemas.events import InstanceSettled, Intake, Outcome, SegmentRelayed
from schemas.topics import Zone

log = logging.getLogger(__name__)

NAME: Final = "ledger"
#: The byte of an outcome; 0 is in flight. Only ever added to.
CODES: Final[dict[Outcome, int]] = {
    "clean": 1, "duplicate": 2, "corrected": 3, "conflict": 4, "quarantined": 5, "dead": 6,
}  # fmt: skip
_NAMES: Final = {code: name for name, code in CODES.items()}
#: Beside the code: was settled in an earlier epoch, and has to be in this one.
DOUBT: Final = 0x80
#: How often settled segments are looked at; freeing is never urgent.
FREE_SECONDS: Final = 5.0

_SELECT: Final = (
    "SELECT records, sealed, outcomes, epoch, settled_at, first_settled_at, freeable FROM ledger_segments"
    " WHERE spool = ? AND segment = ?"
)
# By lightweight transaction: a plain write of a process whose clock is behind, or of one that was asleep, would
# lose to an older row, or win over a newer one.
_FIRST: Final = (
    "INSERT INTO ledger_segments"
    " (records, sealed, outcomes, epoch, counts, settled_at, first_settled_at, freeable, spool, segment)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS"
)
_NEXT: Final = (
    "UPDATE ledger_segments SET records = ?, sealed = ?, outcomes = ?, epoch = ?, counts = ?, settled_at = ?,"
    " first_settled_at = ?, freeable = ?"
    " WHERE spool = ? AND segment = ? IF records = ? AND sealed = ? AND outcomes = ? AND epoch = ?"
)
_FREE: Final = "UPDATE ledger_segments SET freeable = true WHERE spool = ? AND segment = ? IF epoch = ?"


@dataclass
class Segment:
    """The ledger of one segment."""

    outcomes: bytearray
    records: int = 0
    sealed: bool = False
    epoch: str | None = None

    def settle(self, record: int, outcome: Outcome) -> None:
        """Note an outcome; the first one stays, but for a dead letter that was replayed and worked."""
        if record >= len(self.outcomes):
            self.outcomes.extend(bytes(record + 1 - len(self.outcomes)))
        known = self.outcomes[record] & ~DOUBT
        self.outcomes[record] = CODES[outcome] if known in (0, CODES["dead"]) else known

    def relayed(self, records: int, sealed: bool, epoch: str | None = None) -> None:
        """Note how many records there are; the number only grows.

        All that is known is in doubt in another epoch, and where one begins: with an announcement that comes again,
        what stood before it did too, and took doubts away.
        """
        self.records = max(self.records, records)
        self.sealed = self.sealed or sealed
        if epoch is not None and (epoch != self.epoch or records == 0):
            self.epoch = epoch
            self.outcomes = bytearray(known and known | DOUBT for known in self.outcomes)

    @property
    def counts(self) -> dict[str, int]:
        """Records by outcome; what is not named is in flight."""
        found = Counter(self.outcomes)
        counts = {name: found[code] + found[code | DOUBT] for code, name in _NAMES.items()}
        return {name: count for name, count in counts.items() if count}

    @property
    def settled(self) -> bool:
        """Whether no more records come and each has its outcome, in this epoch."""
        certain = max(self.outcomes, default=0) < DOUBT
        return self.sealed and certain and sum(self.counts.values()) >= self.records


class Ledger:
    """The stage; see the module."""

    name = NAME
    zone: Zone = "trusted"
    topics: Sequence[str] = ("instance.settled.v1",)
    group = "prodrome-ledger"
    batch = 1024
    #: A segment's row is written whole: seldom, then; nobody waits for it.
    pace = 0.5

    def __init__(self, settings: Settings, tables: Tables, clock: Clock) -> None:
        self._tables, self._clock = tables, clock
        self._grace = settings.ledger.grace_seconds
        self._retention = retention_seconds(settings.ledger.raw_retention)
        self._due: dict[tuple[str, int], tuple[float, str | None]] = {}  # what settled: when, in which epoch
        self._looked = clock.monotonic()
        self._spools: set[str] = set()

    def handle(self, records: Sequence[Record]) -> None:
        """See `consumers.loop.Stage.handle`."""
        by_segment: dict[tuple[str, int], list[Any]] = defaultdict(list)
        for record in records:
            if isinstance(event := record.event, InstanceSettled | SegmentRelayed):
                by_segment[event.spool, event.segment].append(event)
        for key, events in by_segment.items():
            self._know_spool(key[0])
            self._update(key, events)

    def abandon(self, record: Record, error: BadMessage) -> None:
        """Nobody waits for a ledger entry but the segment that it is about."""

    def tick(self) -> None:
        """Mark the segments whose time has come."""
        if self._retention is None or self._clock.monotonic() - self._looked < FREE_SECONDS:
            return
        self._looked = self._clock.monotonic()
        for key, (due, epoch) in list(self._due.items()):
            if self._clock.now() >= due:
                marked, _ = self._tables.run_once(_FREE, (*key, epoch))
                del self._due[key]
                if marked:  # else it is of another epoch by now, and settles again
                    metrics.inc("prodrome_ledger_segments_total")
                    log.info("segment %s/%d is settled and may be freed", *key)

    def assigned(self, partitions: frozenset[int]) -> None:
        """Find the settled segments again; marking one twice is harmless, so all are looked at."""
        del partitions
        if self._retention is None:
            return
        query = "SELECT segment, epoch, settled_at, first_settled_at, freeable FROM ledger_segments WHERE spool = ?"
        for spool in self._tables.run("SELECT spool FROM ledger_spools WHERE one = 'all'"):
            for row in self._tables.stream(query, (spool.spool,)):
                if row.settled_at is not None and not row.freeable:
                    self._wait((spool.spool, row.segment), row.epoch, row.settled_at, row.first_settled_at)

    def caught_up(self, partitions: frozenset[int]) -> None:
        """Waits for nobody."""

    def _wait(
        self,
        key: tuple[str, int],
        epoch: str | None,
        settled: datetime.datetime,
        first: datetime.datetime | None,
    ) -> None:
        """Note when a settled segment may be freed: the grace counts anew in each epoch, the retention does not."""
        if self._retention is not None:
            kept = seconds_of(first or settled) + self._retention
            self._due[key] = (max(kept, seconds_of(settled) + self._grace), epoch)

    def _know_spool(self, spool: str) -> None:
        if spool not in self._spools:
            self._tables.run("INSERT INTO ledger_spools (one, spool) VALUES ('all', ?)", (spool,))
            self._spools.add(spool)

    def _update(self, key: tuple[str, int], events: Sequence[InstanceSettled | SegmentRelayed]) -> None:
        while not self._add(key, events):
            log.info("another ledger wrote segment %s/%d first; reading again", *key)

    def _add(self, key: tuple[str, int], events: Sequence[InstanceSettled | SegmentRelayed]) -> bool:
        found = self._tables.run(_SELECT, key)
        row = found[0] if found else None
        segment = Segment(bytearray())
        if row:
            segment = Segment(bytearray(row.outcomes or b""), row.records or 0, bool(row.sealed), row.epoch)
        before = (segment.records, segment.sealed, bytes(segment.outcomes), segment.epoch)
        for event in events:
            if isinstance(event, SegmentRelayed):
                segment.relayed(event.records, event.sealed, event.epoch)
            else:
                for settled in event.records:
                    segment.settle(settled.record, settled.outcome)
        after = (segment.records, segment.sealed, bytes(segment.outcomes), segment.epoch)
        same = row if row and row.epoch == segment.epoch and segment.settled else None
        at = same.settled_at if same else None
        if at is None and segment.settled:
            at = datetime.datetime.fromtimestamp(self._clock.now(), datetime.UTC)
        first = (row and (row.first_settled_at or row.settled_at)) or at
        freeable = bool(same and same.freeable)
        values = (*after, segment.counts, at, first, freeable, *key)
        write = (_NEXT, (*values, *before)) if row else (_FIRST, values)
        # Where nothing is new it may be that we wrote it and were not told: the rest is done all the same.
        if (row is None or after != before) and not self._tables.run_once(*write)[0]:
            return False
        self._due.pop(key, None)
        if at is not None and not freeable:
            self._wait(key, segment.epoch, at, first)
        return True


def balance(tables: Tables, kept: Mapping[tuple[str, int], int] | None = None) -> dict[str, int]:
    """Return the balance of promise P4 over all spools.

    Parameters
    ----------
    tables : Tables
        The trusted keyspace; the numbers are its rows' alone.
    kept : mapping, optional
        Durable instances by (spool, segment) of the spools at hand, so that what was acknowledged and not
        relayed yet counts too.

    Returns
    -------
    dict
        ``acknowledged``, each outcome, ``in_flight``.
    """
    acknowledged = dict(kept or {})
    total: Counter[str] = Counter()
    for spool in tables.run("SELECT spool FROM ledger_spools WHERE one = 'all'"):
        for row in tables.stream(
            "SELECT segment, records, counts FROM ledger_segments WHERE spool = ?", (spool.spool,)
        ):
            counts = row.counts or {}
            total.update(counts)
            key = (spool.spool, row.segment)
            acknowledged[key] = max(acknowledged.get(key, 0), row.records or 0, sum(counts.values()))
    settled: dict[str, int] = {name: total[name] for name in CODES}
    received = sum(acknowledged.values())
    return {"acknowledged": received, **settled, "in_flight": received - sum(settled.values())}


def outcome_of(tables: Tables, intake: Intake) -> Outcome | None:
    """Return how an intake ended; None while it is in flight."""
    return _outcome(tables.run(_SELECT, (intake.spool, intake.segment)), intake)


def _outcome(rows: Sequence[Any], intake: Intake) -> Outcome | None:
    outcomes = rows[0].outcomes or b"" if rows else b""
    return _NAMES.get(outcomes[intake.record] & ~DOUBT) if intake.record < len(outcomes) else None


def was_freed(tables: Tables, intake: Intake) -> bool:
    """Return whether the bytes of a spool's intake may be gone because its segment had settled, and this not as dead."""
    rows = tables.run(_SELECT, (intake.spool, intake.segment))
    return bool(rows and rows[0].freeable) and _outcome(rows, intake) not in (None, "dead")


def unsettled(tables: Tables, reader: SpoolReader) -> Iterator[tuple[Intake, InstanceHeader]]:
    """Yield the instances of a spool that have no outcome yet, oldest segment first; settled ones are not opened."""
    numbers = reader.segments()
    query = "SELECT segment, settled_at FROM ledger_segments WHERE spool = ? AND segment >= ?"
    rows = tables.stream(query, (reader.id, min(numbers, default=0)))
    done = {row.segment for row in rows if row.settled_at}
    for number in numbers:
        if number in done:
            continue
        found = tables.run(_SELECT, (reader.id, number))
        known = found[0].outcomes or b"" if found else b""
        try:
            for record in reader.records(number):
                settled = record.number < len(known) and known[record.number]
                if isinstance(record.header, InstanceHeader) and not settled:
                    yield Intake(spool=reader.id, segment=number, record=record.number), record.header
        except SegmentFreed:
            continue


def retention_seconds(policy: str) -> float | None:
    """Return how long settled raw bytes are kept, in seconds; None for ever.

    Raises
    ------
    SettingsError
        Not ``none``, ``forever`` or a number of days.
    """
    if policy == "none":
        return 0.0
    if policy == "forever":
        return None
    try:
        return float(policy) * 86400
    except ValueError:
        raise SettingsError(
            f"PRODROME_LEDGER_RAW_RETENTION: expected none, forever or a number of days, came {policy!r}"
        ) from None
