"""What deidentify says of a batch: clean events, exclusions, markers, settlements, lifecycle, dead letters. Pure.

A `Decided` is one instance with how it crossed and what it is beside earlier arrivals; each function turns
some of them into messages. The same batch gives the same messages.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from consumers.boundary import Crossing
from consumers.identity import Version
from schemas.codec import MAX_INSTANCES, MAX_MESSAGE_BYTES, Message, b64, body, encode
from schemas.errors import BadMessage
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
    LifecycleKind,
    ObjectDeleted,
    ReceivedInstance,
    SettledRecord,
    Value,
)
from schemas.ids import study_key
from schemas.topics import RECEIVED

NAME: Final = "deidentify"
CLEAN: Final = "instance.deidentified.v1"
#: Left for an event's other fields beside its instances.
_FRAME_BYTES: Final = 4096


class Decided(NamedTuple):
    """One instance of a batch and everything that was found out about it.

    `study` is the UID as sent, `clean_study` and `clean_sop` the pseudonymous ones. `result` is a `Crossing`
    or the `BadMessage` that it ended as; `version` is None unless it crossed clean. `trace` is the W3C
    traceparent that it came with.
    """

    project: str
    study: str
    clean_study: str
    clean_sop: str
    instance: ReceivedInstance
    result: Crossing | BadMessage
    trace: str = ""
    version: Version | None = None

    @property
    def settled(self) -> SettledRecord:
        """How the intake ended."""
        record = self.instance.intake.record
        if isinstance(self.result, BadMessage):
            return SettledRecord(record=record, outcome="dead", reason=self.result.reason)
        if self.version is None:
            return SettledRecord(record=record, outcome="quarantined", reason=self.result.quarantine)
        return SettledRecord(record=record, outcome=self.version.outcome)


def clean_events(decided: Iterable[Decided]) -> Iterator[Message]:
    """Yield the clean instances of each study, and those that nobody should wait for."""
    studies: dict[tuple[str, str], list[Decided]] = defaultdict(list)
    for one in decided:
        studies[one.project, one.clean_study].append(one)
    for (project, study), members in studies.items():
        trace = members[0].trace
        patients: dict[str, list[CleanInstance]] = defaultdict(list)
        excluded: list[ExcludedInstance] = []
        for one in members:
            if one.version is None or one.version.outcome == "duplicate":
                excluded.append(_excluded(one))
            else:
                patients[one.result.patient].append(_clean_instance(one))  # type: ignore[union-attr]
        for patient, instances in patients.items():
            for some in _chunks(instances):
                event = InstanceDeidentified(
                    project=project, study_instance_uid=study, patient_id=patient, instances=tuple(some)
                )
                yield _message(CLEAN, project, study, event, _names(some), trace)
        for left_out in _chunks(excluded):
            gone = InstanceExcluded(project=project, study_instance_uid=study, instances=tuple(left_out))
            yield _message(CLEAN, project, study, gone, _names(left_out), trace)


def marker(event: AssociationClosed, clean_study: str) -> Message:
    """Return the marker of a closed association for the clean side."""
    closed = AssociationClosed(
        project=event.project,
        study_instance_uid=clean_study,
        association=event.association,
        instances=event.instances,
    )
    return _message(CLEAN, event.project, clean_study, closed, (event.association, "closed"))


def deleted(event: ObjectDeleted, clean_study: str, clean_sop: str) -> Message:
    """Return what subscribers are told of an object that is gone from its bucket; what came of it stays."""
    said = Lifecycle(
        project=event.project,
        study_instance_uid=clean_study,
        kind="source_deleted",
        sop_instance_uid=clean_sop,
    )
    names = ("source_deleted", clean_sop, str(event.intake))
    return _message("lifecycle.v1", event.project, clean_study, said, names)


def settlements(decided: Iterable[Decided]) -> Iterator[Message]:
    """Yield the outcomes of intakes, a message a segment."""
    segments: dict[tuple[str, int], list[SettledRecord]] = defaultdict(list)
    for one in decided:
        intake = one.instance.intake
        segments[intake.spool, intake.segment].append(one.settled)
    for (spool, segment), outcomes in segments.items():
        event = InstanceSettled(spool=spool, segment=segment, records=tuple(outcomes))
        identity: tuple[str | int, ...] = (spool, segment, *(o.record for o in outcomes))
        yield encode(
            "instance.settled.v1", f"{spool}/{segment}".encode(), event, identity=identity, source=NAME
        )


def doubts(decided: Iterable[Decided]) -> Iterator[Message]:
    """Yield the lifecycle words of quarantined and conflicting instances, and the letters of dead ones."""
    for one in decided:
        if isinstance(one.result, BadMessage):
            yield _dead_letter(one, one.result)
        elif one.version is None:
            yield _lifecycle(one, "quarantined", one.result.quarantine)
        elif one.version.outcome == "conflict":
            yield _lifecycle(one, "uid_conflict", None)


def _clean_instance(one: Decided) -> CleanInstance:
    crossing, version = one.result, one.version
    if not isinstance(crossing, Crossing) or version is None:
        raise TypeError("expected a clean crossing")
    if crossing.clean_object is None or crossing.facts is None:
        raise TypeError("expected a clean crossing with its object")
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
        arrival=one.instance.arrival,
        quiet_seconds=crossing.quiet_seconds,
        metadata=crossing.metadata,
        metadata_object=crossing.metadata_object,
        manifest=crossing.manifest,
    )


def _excluded(one: Decided) -> ExcludedInstance:
    reason = one.settled.outcome  # the words agree: duplicate, quarantined, dead
    return ExcludedInstance(sop_instance_uid=one.clean_sop, arrival=one.instance.arrival, reason=reason)


def _lifecycle(one: Decided, kind: LifecycleKind, reason: str | None) -> Message:
    event = Lifecycle(
        project=one.project,
        study_instance_uid=one.clean_study,
        kind=kind,
        sop_instance_uid=one.clean_sop,
        reason=reason,
    )
    names = (kind, one.clean_sop, str(one.instance.intake))
    return _message("lifecycle.v1", one.project, one.clean_study, event, names, one.trace)


def _dead_letter(one: Decided, error: BadMessage) -> Message:
    # The letter holds an event of this one instance, so that a replay repeats nothing else.
    event = InstanceReceived(project=one.project, study_instance_uid=one.study, instances=(one.instance,))
    key, identity = study_key(one.project, one.study), (str(one.instance.intake),)
    again = encode(RECEIVED["live"], key, event, identity=identity, source="relay")
    letter = DeadLetter(
        stage=NAME,
        topic=RECEIVED["live"],
        partition=-1,
        offset=-1,
        reason=error.reason,
        detail=error.detail,
        attempts=1,
        key=b64(key),
        value=b64(again.value),
        headers={name: b64(data) for name, data in again.headers},
    )
    return encode("deadletter.trusted.v1", identity[0].encode(), letter, identity=identity, source=NAME)


def _message(
    topic: str, project: str, study: str, event: Value, names: Iterable[str], trace: str = ""
) -> Message:
    key, identity = study_key(project, study), (project, study, *names)
    extra = {"traceparent": trace} if trace else None
    return encode(topic, key, event, identity=identity, source=NAME, subject=study, extra=extra)


def _names(instances: Sequence[CleanInstance] | Sequence[ExcludedInstance]) -> list[str]:
    return [f"{i.arrival.association}/{i.arrival.ordinal}" for i in instances]


def _chunks(instances: Sequence[Any]) -> Iterator[list[Any]]:
    """Yield the instances in messages of at most 64 and 256 kB."""
    some: list[Any] = []
    size = 0
    for instance in instances:
        length = len(body(instance)) + 1
        if some and (len(some) == MAX_INSTANCES or size + length > MAX_MESSAGE_BYTES - _FRAME_BYTES):
            yield some
            some, size = [], 0
        some.append(instance)
        size += length
    if some:
        yield some
