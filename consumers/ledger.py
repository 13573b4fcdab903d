"""The ledger stage: one byte a record, a row a segment; says when a segment may be freed.

A batch: add the outcomes that settled and the record counts that the relay published to the rows of their
segments. Between batches: a sealed segment whose every record is settled is marked freeable once the grace
is over and the retention policy agrees; the relay of that spool then frees it.

An outcome, once written, stays, so that a repeat changes no number; `dead` alone gives way, to the outcome of
its replay. It frees nothing itself and reads no bytes.
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
from infra.clock import Clock
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
#: How often settled segments are looked at; freeing is never urgent.
FREE_SECONDS: Final = 5.0

_SELECT: Final = "SELECT records, sealed, outcomes, settled_at, freeable FROM ledger_segments WHERE spool = ? AND segment = ?"
# By lightweight transaction: a plain write of a process whose clock is behind, or of one that was asleep, would
# lose to an older row, or win over a newer one.
_FIRST: Final = (
    "INSERT INTO ledger_segments (records, sealed, outcomes, counts, settled_at, spool, segment)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS"
)
_NEXT: Final = (
    "UPDATE ledger_segments SET records = ?, sealed = ?, outcomes = ?, counts = ?, settled_at = ?"
    " WHERE spool = ? AND segment = ? IF records = ? AND sealed = ? AND outcomes = ?"
)
_FREE: Final = "UPDATE ledger_segments SET freeable = true WHERE spool = ? AND segment = ?"


@dataclass
class Segment:
    """The ledger of one segment."""

    outcomes: bytearray
    records: int = 0
    sealed: bool = False

    def settle(self, record: int, outcome: Outcome) -> None:
        """Note an outcome; the first one stays, but for a dead letter that was replayed and worked."""
        if record >= len(self.outcomes):
            self.outcomes.extend(bytes(record + 1 - len(self.outcomes)))
        if self.outcomes[record] in (0, CODES["dead"]):
            self.outcomes[record] = CODES[outcome]

    def relayed(self, records: int, sealed: bool) -> None:
        """Note how many records there are; the number only grows."""
        self.records = max(self.records, records)
        self.sealed = self.sealed or sealed

    @property
    def counts(self) -> dict[str, int]:
        """Records by outcome; what is not named is in flight."""
        found = Counter(self.outcomes)
        return {name: found[code] for code, name in _NAMES.items() if found[code]}

    @property
    def settled(self) -> bool:
        """Whether no more records come and each has its outcome."""
        return self.sealed and sum(self.counts.values()) >= self.records


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
        self._settled: dict[tuple[str, int], float] = {}
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
        wait = max(self._grace, self._retention)
        for key, since in list(self._settled.items()):
            if self._clock.now() - since >= wait:
                self._tables.run(_FREE, key)
                del self._settled[key]
                metrics.inc("prodrome_ledger_segments_total")
                log.info("segment %s/%d is settled and may be freed", *key)

    def assigned(self, partitions: frozenset[int]) -> None:
        """Find the settled segments again; marking one twice is harmless, so all are looked at."""
        del partitions
        if self._retention is None:
            return
        for spool in self._tables.run("SELECT spool FROM ledger_spools WHERE one = 'all'"):
            rows = self._tables.stream(
                "SELECT segment, settled_at, freeable FROM ledger_segments WHERE spool = ?", (spool.spool,)
            )
            for row in rows:
                if row.settled_at is not None and not row.freeable:
                    self._settled[spool.spool, row.segment] = _seconds(row.settled_at)

    def caught_up(self, partitions: frozenset[int]) -> None:
        """Waits for nobody."""

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
        segment = (
            Segment(bytearray(row.outcomes or b""), row.records or 0, bool(row.sealed))
            if row
            else Segment(bytearray())
        )
        for event in events:
            if isinstance(event, SegmentRelayed):
                segment.relayed(event.records, event.sealed)
            else:
                for settled in event.records:
                    segment.settle(settled.record, settled.outcome)
        at = row.settled_at if row else None
        if segment.settled and at is None:
            at = datetime.datetime.fromtimestamp(self._clock.now(), datetime.UTC)
            if self._retention is not None:
                self._settled[key] = self._clock.now()
        now = (segment.records, segment.sealed, bytes(segment.outcomes), segment.counts, at)
        if row is None:
            return self._tables.run_once(_FIRST, (*now, *key))[0]
        if (row.records, row.sealed, row.outcomes) == now[:3]:
            return True
        return self._tables.run_once(_NEXT, (*now, *key, row.records, row.sealed, row.outcomes))[0]


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
    rows = tables.run(_SELECT, (intake.spool, intake.segment))
    outcomes = rows[0].outcomes or b"" if rows else b""
    return _NAMES.get(outcomes[intake.record]) if intake.record < len(outcomes) else None


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


def _seconds(at: datetime.datetime) -> float:
    return at.replace(tzinfo=datetime.UTC).timestamp()
