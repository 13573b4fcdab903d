"""The deidentify stage: from `instance.received` to clean events, settled intakes and a filled vault.

For each batch

1. every instance crosses the boundary in a worker process (`consumers.boundary`);
2. what each is beside earlier arrivals is decided from the identities table (`consumers.identity`);
3. identities and vault rows are written, quarantine listed;
4. clean events, exclusions, markers, settlements and dead letters are published and confirmed together.

An instance that cannot be worked on (its bytes are gone, its worker died three times) settles as `dead`: its
bytes are kept in the quarantine store where there are any, and a dead letter of it alone can be replayed.

If the process dies anywhere, the batch comes again and does the same: objects and rows have the same keys,
decisions are remembered by intake, messages have the same bodies. It does not assemble or index.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from consumers import boundary
from consumers.app import Record
from consumers.boundary import Crossing
from consumers.identity import Arrived, Version, decide
from consumers.vault import Vault
from consumers.workers import Job, Workers
from infra import metrics
from infra.cassandra import Statement, Tables
from infra.clock import Clock
from infra.kafka import Producer
from infra.settings import Settings, master_key
from schemas.codec import MAX_INSTANCES, MAX_MESSAGE_BYTES, Message, b64, body, encode
from schemas.errors import BadMessage, SlowDown
from schemas.events import (
    AssociationClosed,
    CleanInstance,
    DeadLetter,
    ExcludedInstance,
    InstanceDeidentified,
    InstanceExcluded,
    InstanceReceived,
    InstanceSettled,
    Lifecycle,
    Pointer,
    ReceivedInstance,
    SettledRecord,
    Value,
)
from schemas.ids import study_key
from schemas.topics import Zone

log = logging.getLogger(__name__)

NAME: Final = "deidentify"
LANES: Final = {"live": "instance.received.v1", "bulk": "instance.received.bulk.v1"}

_SELECT: Final = (
    "SELECT sop_uid, content_id, pixel_id, transfer_syntax, intake, outcome, version FROM identities"
    " WHERE project = ? AND study_uid = ? AND sop_uid IN ?"
)
_INSERT: Final = (
    "INSERT INTO identities (project, study_uid, sop_uid, content_id, pixel_id, transfer_syntax, intake, outcome,"
    " version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_QUARANTINE: Final = (
    "INSERT INTO quarantine (project, day, intake, reason, detail, sop_class, object, length)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_INTAKE: Final = "INSERT INTO study_intakes (project, study_uid, sop_uid, intake, outcome, reason) VALUES (?, ?, ?, ?, ?, ?)"
_QUARANTINE_DAY: Final = "INSERT INTO quarantine_days (project, day) VALUES (?, ?)"

#: One instance of a batch: its project and study as sent, the instance, and how it went over the boundary.
Item = tuple[str, str, ReceivedInstance, Any]


class Deidentify:
    """The stage; see the module."""

    zone: Zone = "trusted"

    def __init__(
        self,
        settings: Settings,
        tables: Tables,
        producer: Producer,
        clock: Clock,
        lane: str = "live",
        must_yield: Callable[[], bool] = lambda: False,
    ) -> None:
        self.name = NAME if lane == "live" else f"{NAME}-{lane}"
        self.topics: Sequence[str] = (LANES[lane],)
        self.group = f"prodrome-deidentify-{lane}"
        self.batch = settings.deidentify.batch
        self._tables, self._producer, self._clock = tables, producer, clock
        self._vault = Vault(tables, master_key(settings), settings.deidentify.key_id)
        self._must_yield = must_yield
        self._crossed: tuple[Sequence[Record], list[Item]] = ((), [])
        self._boundary = boundary.Boundary(settings)
        self._workers = Workers(
            boundary.cross, boundary.setup, (settings,), settings.deidentify.workers,
            settings.home / "work" / f"deidentify-{lane}.json",
        )  # fmt: skip

    def tick(self) -> None:
        """No deadlines of its own."""

    def assigned(self, partitions: frozenset[int]) -> None:
        """No state by partition."""

    def caught_up(self, partitions: frozenset[int]) -> None:
        """Waits for nobody."""

    def handle(self, records: Sequence[Record]) -> None:
        """See `consumers.app.Stage.handle`."""
        if self._must_yield():
            raise SlowDown("the live lane lags")
        if self._crossed[0] != records:  # else a dependency was down behind the boundary: not all again
            self._crossed = (records, self._cross(records))
        decided = self._decide(self._crossed[1])
        self._producer.send([*self._clean(decided), *self._markers(records), *self._said(decided)])
        self._crossed = ((), [])
        self._count(decided)

    def abandon(self, record: Record, error: BadMessage) -> None:
        """Settle the instances of a message that becomes a dead letter whole, and let nobody wait for them."""
        event = record.event
        if isinstance(event, InstanceReceived):
            items = [(event.project, event.study_instance_uid, i, error) for i in event.instances]
            decided = self._decide(items)
            self._producer.send([*self._clean(decided), *self._settled(decided)])
            self._count(decided)

    # 1. over the boundary

    def _cross(self, records: Sequence[Record]) -> list[Item]:
        arrived = [
            (event.project, event.study_instance_uid, instance)
            for record in records
            if isinstance(event := record.event, InstanceReceived)
            for instance in event.instances
        ]
        jobs = [Job(str(instance.intake), (project, study, instance), instance.pointer.length)
                for project, study, instance in arrived]  # fmt: skip
        items = []
        for (project, study, instance), result in zip(arrived, self._workers.run(jobs), strict=True):
            if isinstance(result, SlowDown):
                raise result
            if isinstance(result, Exception) and not isinstance(result, BadMessage):
                log.error("intake %s: %s", instance.intake, type(result).__name__)
                result = BadMessage("stage_failed", type(result).__name__)
            items.append((project, study, instance, result))
        return items

    # 2. and 3. decisions, written before anything is said

    def _decide(self, items: Sequence[Item]) -> list[tuple[Item, Version | None]]:
        by_study: dict[tuple[str, str], list[int]] = defaultdict(list)
        for i, (project, study, _, result) in enumerate(items):
            if isinstance(result, Crossing) and result.quarantine is None:
                by_study[project, study].append(i)
        versions: dict[int, Version] = {}
        for (project, study), which in by_study.items():
            versions |= self._decide_study(project, study, {i: items[i] for i in which})
        self._list_quarantined(items)
        decided = [(item, versions.get(i)) for i, item in enumerate(items)]
        self._note_intakes(decided)
        return decided

    def _decide_study(self, project: str, study: str, items: dict[int, Item]) -> dict[int, Version]:
        sops = sorted({item[2].sop_instance_uid for item in items.values()})
        known: dict[str, list[Version]] = defaultdict(list)
        for row in self._tables.run(_SELECT, (project, study, sops)):
            known[row.sop_uid].append(Version(
                row.content_id.hex(), row.pixel_id.hex(), row.transfer_syntax, row.intake, row.outcome, row.version,
            ))  # fmt: skip
        decided, rows = {}, []
        for i, (_, _, instance, crossing) in items.items():
            arrived = Arrived(
                crossing.content_id, crossing.pixel_id, instance.transfer_syntax_uid, str(instance.intake)
            )
            version = decided[i] = decide(arrived, known[instance.sop_instance_uid])
            if version.outcome != "duplicate" and version not in known[instance.sop_instance_uid]:
                known[instance.sop_instance_uid].append(version)
                rows.append(_identity_row(project, study, instance.sop_instance_uid, version))
        new = [items[i][3] for i, version in decided.items() if version.outcome != "duplicate"]
        self._vault.write(project, new)
        self._tables.write_partition(rows)
        return decided

    def _note_intakes(self, decided: Sequence[tuple[Item, Version | None]]) -> None:
        rows: dict[tuple[str, str], list[Statement]] = defaultdict(list)
        for (project, study, instance, result), version in decided:
            end = _settlement(instance.intake.record, result, version)
            values = (
                project,
                study,
                instance.sop_instance_uid,
                str(instance.intake),
                end.outcome,
                end.reason,
            )
            rows[project, study].append((_INTAKE, values))
        for statements in rows.values():
            self._tables.write_partition(statements)

    def _list_quarantined(self, items: Sequence[Item]) -> None:
        day = _day(self._clock.now())
        rows: dict[str, list[Statement]] = defaultdict(list)
        for project, _, instance, result in items:
            if isinstance(result, BadMessage):
                reason, detail, kept = result.reason, result.detail, self._keep_dead(project, instance)
            else:
                reason, detail, kept = result.quarantine, result.detail, result.kept
            if kept is not None:
                where = (project, day, str(instance.intake))
                what = (reason, detail, instance.sop_class_uid, kept.uri, kept.length)
                rows[project].append((_QUARANTINE, (*where, *what)))
        for project, statements in rows.items():
            self._tables.write_partition(statements)
            self._tables.run(_QUARANTINE_DAY, (project, day))

    def _keep_dead(self, project: str, instance: ReceivedInstance) -> Pointer | None:
        """Copy what can still be read of a dead intake, so that no segment waits for a person."""
        try:
            return self._boundary.keep(project, instance.intake, self._boundary.read(instance))
        except BadMessage:
            return None

    # 4. what is said

    def _clean(self, decided: Sequence[tuple[Item, Version | None]]) -> Iterator[Message]:
        by_study: dict[tuple[str, str], list[tuple[Item, Version | None]]] = defaultdict(list)
        for item, version in decided:
            by_study[item[0], self._study(item)].append((item, version))
        for (project, study), members in by_study.items():
            patients: dict[str, list[CleanInstance]] = defaultdict(list)
            excluded = []
            for (_, _, instance, result), version in members:
                if version is None or version.outcome == "duplicate":
                    excluded.append(self._excluded(project, instance, result))
                else:
                    patients[result.patient].append(_clean_instance(instance, result, version))
            for patient, instances in patients.items():
                for some in _chunks(instances):
                    event = InstanceDeidentified(
                        project=project, study_instance_uid=study, patient_id=patient, instances=tuple(some)
                    )
                    yield self._message("instance.deidentified.v1", project, study, event, _names(some))
            for left_out in _chunks(excluded):
                gone = InstanceExcluded(project=project, study_instance_uid=study, instances=tuple(left_out))
                yield self._message("instance.deidentified.v1", project, study, gone, _names(left_out))

    def _markers(self, records: Sequence[Record]) -> Iterator[Message]:
        for record in records:
            if isinstance(event := record.event, AssociationClosed):
                study = self._boundary.pseudonymous_uid(event.project, event.study_instance_uid)
                marker = AssociationClosed(
                    project=event.project,
                    study_instance_uid=study,
                    association=event.association,
                    instances=event.instances,
                )
                yield self._message(
                    "instance.deidentified.v1", event.project, study, marker, (event.association, "closed")
                )

    def _settled(self, decided: Sequence[tuple[Item, Version | None]]) -> Iterator[Message]:
        by_segment: dict[tuple[str, int], list[SettledRecord]] = defaultdict(list)
        for (_, _, instance, result), version in decided:
            intake = instance.intake
            by_segment[intake.spool, intake.segment].append(_settlement(intake.record, result, version))
        for (spool, segment), outcomes in by_segment.items():
            event = InstanceSettled(spool=spool, segment=segment, records=tuple(outcomes))
            yield encode(
                "instance.settled.v1",
                f"{spool}/{segment}".encode(),
                event,
                identity=(spool, segment, *(o.record for o in outcomes)),
                source=NAME,
            )

    def _said(self, decided: Sequence[tuple[Item, Version | None]]) -> Iterator[Message]:
        """What is said beside the clean events: settlements, lifecycle of doubtful instances, dead letters."""
        yield from self._settled(decided)
        for (project, study, instance, result), version in decided:
            if isinstance(result, BadMessage):
                yield _dead_letter(project, study, instance, result)
            elif result.quarantine is not None:
                yield self._lifecycle(project, result, "quarantined", result.quarantine)
            elif version is not None and version.outcome == "conflict":
                yield self._lifecycle(project, result, "uid_conflict", None)

    def _lifecycle(self, project: str, result: Crossing, kind: Any, reason: str | None) -> Message:
        event = Lifecycle(
            project=project,
            study_instance_uid=result.study_instance_uid,
            kind=kind,
            sop_instance_uid=result.sop_instance_uid,
            reason=reason,
        )
        names = (kind, result.sop_instance_uid, str(result.intake))
        return self._message("lifecycle.v1", project, result.study_instance_uid, event, names)

    def _message(self, topic: str, project: str, study: str, event: Value, names: Iterable[str]) -> Message:
        key = study_key(project, study)
        return encode(topic, key, event, identity=(project, study, *names), source=NAME, subject=study)

    def _study(self, item: Item) -> str:
        return self._boundary.pseudonymous_uid(item[0], item[1])

    def _excluded(self, project: str, instance: ReceivedInstance, result: Any) -> ExcludedInstance:
        reason = (
            "dead" if isinstance(result, BadMessage) else "quarantined" if result.quarantine else "duplicate"
        )
        sop = self._boundary.pseudonymous_uid(project, instance.sop_instance_uid)
        return ExcludedInstance(sop_instance_uid=sop, arrival=instance.arrival, reason=reason)

    def _count(self, decided: Sequence[tuple[Item, Version | None]]) -> None:
        for (_, _, instance, result), version in decided:
            settled = _settlement(instance.intake.record, result, version)
            metrics.inc("prodrome_stage_instances_total", stage=NAME, outcome=settled.outcome)
            if settled.outcome == "quarantined":
                metrics.inc("prodrome_deidentify_quarantined_total", reason=settled.reason or "")


def _settlement(record: int, result: Any, version: Version | None) -> SettledRecord:
    if isinstance(result, BadMessage):
        return SettledRecord(record=record, outcome="dead", reason=result.reason)
    if version is None:
        return SettledRecord(record=record, outcome="quarantined", reason=result.quarantine)
    return SettledRecord(record=record, outcome=version.outcome)


def _clean_instance(instance: ReceivedInstance, crossing: Crossing, version: Version) -> CleanInstance:
    if crossing.clean_object is None or crossing.facts is None:
        raise ValueError("expected a clean crossing")
    return CleanInstance(
        sop_instance_uid=crossing.sop_instance_uid,
        series_instance_uid=crossing.series_instance_uid,
        sop_class_uid=crossing.sop_class_uid,
        transfer_syntax_uid=crossing.transfer_syntax_uid,
        content_key=crossing.content_key,
        pixel_key=crossing.pixel_key,
        version=version.version,
        conflict=version.outcome == "conflict",
        object=crossing.clean_object,
        facts=crossing.facts,
        arrival=instance.arrival,
        quiet_seconds=crossing.quiet_seconds,
        metadata=crossing.metadata,
        metadata_object=crossing.metadata_object,
    )


def _identity_row(project: str, study: str, sop: str, version: Version) -> Statement:
    return _INSERT, (
        project, study, sop, bytes.fromhex(version.content_id), bytes.fromhex(version.pixel_id),
        version.transfer_syntax_uid, version.intake, version.outcome, version.version,
    )  # fmt: skip


def _dead_letter(project: str, study: str, instance: ReceivedInstance, error: BadMessage) -> Message:
    # The letter holds an event of this one instance, so that a replay repeats nothing else.
    event = InstanceReceived(project=project, study_instance_uid=study, instances=(instance,))
    key = study_key(project, study)
    again = encode(LANES["live"], key, event, identity=(str(instance.intake),), source="relay")
    letter = DeadLetter(
        stage=NAME,
        topic=LANES["live"],
        partition=-1,
        offset=-1,
        reason=error.reason,
        detail=error.detail,
        attempts=1,
        key=b64(key),
        value=b64(again.value),
        headers={name: b64(data) for name, data in again.headers},
    )
    return encode("deadletter.trusted.v1", key, letter, identity=(str(instance.intake),), source=NAME)


def _names(instances: Sequence[CleanInstance] | Sequence[ExcludedInstance]) -> list[str]:
    return [f"{i.arrival.association}/{i.arrival.ordinal}" for i in instances]


def _chunks(instances: Sequence[Any]) -> Iterator[list[Any]]:
    """Yield the instances in messages of at most 64 and 256 kB."""
    some: list[Any] = []
    size = 0
    for instance in instances:
        length = len(body(instance)) + 1
        if some and (len(some) == MAX_INSTANCES or size + length > MAX_MESSAGE_BYTES - 4096):
            yield some
            some, size = [], 0
        some.append(instance)
        size += length
    if some:
        yield some


def _day(now: float) -> str:
    import datetime

    return datetime.datetime.fromtimestamp(now, datetime.UTC).date().isoformat()
