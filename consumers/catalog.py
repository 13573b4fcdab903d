"""The catalog stage: index what is clean, assemble what is quiet. Two functions, one loop.

A batch: remember which studies are open, write the rows, say what is first or late. Between batches: close
the studies that are quiet (`consumers.quiet`, `consumers.assemble`). On assignment the open studies of the
partitions are read from Cassandra and their deadlines begin anew, so that a restart forgets none.

It sees pseudonyms only, and solely owns `study_instances`, `study_head` and `open_studies`.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final

from consumers import index
from consumers.assemble import TOGETHER, Assembler
from consumers.loop import Record
from consumers.quiet import OpenStudies, StudyKey
from infra import metrics
from infra.cassandra import Statement, Tables
from infra.clock import Clock
from infra.kafka import Producer
from infra.objects import Store
from infra.settings import Settings
from infra.together import Together
from schemas.codec import Message
from schemas.errors import BadMessage
from schemas.events import AssociationClosed, CleanInstance, InstanceDeidentified, InstanceExcluded
from schemas.topics import Zone

NAME: Final = "catalog"
#: Closed beside each other; a longer row of them would keep instances waiting.
CLOSE_AT_ONCE: Final = 40

# Opened and closed again and again, so by lightweight transaction: else a study that a process with a fast
# clock has closed could not be opened for an hour.
_OPEN: Final = (
    "INSERT INTO open_studies (partition, project, study, quiet_seconds) VALUES (?, ?, ?, ?) IF NOT EXISTS"
)
_KNOWN: Final = "SELECT sop, content_key, pixel_key, version, conflict FROM study_instances WHERE project = ? AND study = ? AND sop IN ?"
_CLOSED: Final = "DELETE FROM open_studies WHERE partition = ? AND project = ? AND study = ? IF EXISTS"


class Catalog:
    """The stage; see the module."""

    name = NAME
    zone: Zone = "clean"
    topics: Sequence[str] = ("instance.deidentified.v1",)
    group = "prodrome-catalog"
    batch = 64
    pace = 0.1

    def __init__(
        self, settings: Settings, tables: Tables, store: Store, producer: Producer, clock: Clock
    ) -> None:
        self._tables, self._producer, self._clock = tables, producer, clock
        self._assembler = Assembler(tables, store, producer)
        self._together = Together("open", TOGETHER)
        self._open = OpenStudies(settings.catalog.closed_quiet_seconds)
        self._caught_up: frozenset[int] = frozenset()

    def handle(self, records: Sequence[Record]) -> None:
        """See `consumers.loop.Stage.handle`."""
        self._caught_up = frozenset()  # until the loop says so again
        opened, messages = self._open_studies(records)
        self._write(records)
        for record in records:
            self._note(record, opened)
        if messages:
            self._producer.send(messages)
        metrics.put("prodrome_catalog_open_studies", len(self._open))

    def abandon(self, record: Record, error: BadMessage) -> None:
        """A study's other instances do not wait for what cannot be read."""

    def tick(self) -> None:
        """Close the studies that are quiet."""
        due = list(islice(self._open.due(self._clock.monotonic(), self._caught_up), CLOSE_AT_ONCE))
        dirty = {key: study.partition for key, study in due if study.dirty}
        if dirty:
            self._assembler.close(*dirty)
            self._take_turns((partition, (_CLOSED, (partition, *key))) for key, partition in dirty.items())
        for key, _ in due:
            self._open.forget(key)

    def assigned(self, partitions: frozenset[int]) -> None:
        """Read the open studies of new partitions; their quiet time begins anew."""
        self._open.keep_only(partitions)
        for partition in partitions:
            rows = self._tables.run(
                "SELECT project, study, quiet_seconds FROM open_studies WHERE partition = ?", (partition,)
            )
            for row in rows:
                key = StudyKey(row.project, row.study)
                if key not in self._open:
                    now = self._clock.monotonic()
                    self._open.arrived(key, partition, (), now, quiet_seconds=row.quiet_seconds, indexed=True)

    def caught_up(self, partitions: frozenset[int]) -> None:
        """A study never closes while its own partition lags."""
        self._caught_up = partitions

    def _open_studies(self, records: Sequence[Record]) -> tuple[set[StudyKey], list[Message]]:
        """Remember, before any row is written, which studies wait for a revision; say what is first or late."""
        found: dict[StudyKey, list[Record]] = defaultdict(list)
        for record in records:
            if isinstance(event := record.event, InstanceDeidentified):
                key = StudyKey(event.project, event.study_instance_uid)
                if not self._open.is_dirty(key):
                    found[key].append(record)
        opened: dict[StudyKey, Record] = {}
        messages = []
        for (key, waiting), head in zip(found.items(), self._assembler.heads(list(found)), strict=True):
            opened[key] = waiting[0]
            if head is None:
                messages.append(self._assembler.say(key, "first_instance"))
            elif not all(self._is_indexed(key, record.event) for record in waiting):
                messages.append(self._assembler.say(key, "late_instance", revision=head.revision))
            # else a repeat to a study that has closed: it closes again, and says again what it said
        self._take_turns((record.partition, _open_row(key, record)) for key, record in opened.items())
        return set(opened), messages

    def _take_turns(self, transactions: Iterable[tuple[int, Statement]]) -> None:
        """Run transactions by partition: those of one get in each other's way, so they go one after the other."""
        turns: dict[int, list[Statement]] = defaultdict(list)
        for partition, statement in transactions:
            turns[partition].append(statement)
        self._together(self._in_turn, turns.values())

    def _in_turn(self, statements: Sequence[Statement]) -> None:
        for statement in statements:
            self._tables.run_once(*statement)

    def _is_indexed(self, key: StudyKey, event: Any) -> bool:
        sops = [i.sop_instance_uid for i in event.instances]
        known = {tuple(row) for row in self._tables.run(_KNOWN, (*key, sops))}
        return all(
            (i.sop_instance_uid, i.content_key, i.pixel_key, i.version, i.conflict) in known
            for i in event.instances
        )

    def _write(self, records: Sequence[Record]) -> None:
        by_study: dict[StudyKey, list[InstanceDeidentified]] = defaultdict(list)
        for record in records:
            if isinstance(event := record.event, InstanceDeidentified):
                by_study[StudyKey(event.project, event.study_instance_uid)].append(event)
        self._tables.write(
            [row for event in events for row in index.rows(event)] for events in by_study.values()
        )
        # By patient and by instance: a partition a row, so they share requests.
        self._tables.write_small(
            list(
                dict.fromkeys(
                    row for events in by_study.values() for event in events for row in index.lookups(event)
                )
            )
        )

    def _note(self, record: Record, opened: set[StudyKey]) -> None:
        event, now = record.event, self._clock.monotonic()
        if not isinstance(event, InstanceDeidentified | InstanceExcluded | AssociationClosed):
            raise TypeError(f"expected an event of {self.topics}, came {type(event).__name__}")
        key = StudyKey(event.project, event.study_instance_uid)
        if isinstance(event, AssociationClosed):
            self._open.closed(key, event.association, event.instances, now)
            return
        clean = isinstance(event, InstanceDeidentified)
        quiet = _quiet(event.instances) if isinstance(event, InstanceDeidentified) else 15.0
        arrivals = [i.arrival for i in event.instances]
        waits = clean and (key in opened or self._open.is_dirty(key))
        self._open.arrived(key, record.partition, arrivals, now, quiet_seconds=quiet, indexed=waits)
        outcome = "indexed" if clean else "excluded"
        metrics.inc("prodrome_stage_instances_total", len(arrivals), stage=NAME, outcome=outcome)


def _open_row(key: StudyKey, record: Record) -> Statement:
    event = record.event
    if not isinstance(event, InstanceDeidentified):
        raise TypeError("expected clean instances")
    return _OPEN, (record.partition, *key, _quiet(event.instances))


def _quiet(instances: Sequence[CleanInstance]) -> float:
    return max(i.quiet_seconds for i in instances)
