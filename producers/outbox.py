"""From spool records to messages: the pure half of the relay.

1. Instances of one study become events of at most 64, in the order in which they were received.
2. Instances over the size of the live lane take the bulk topic.
3. The markers of associations that have closed follow behind the instances, with the same key.

An instance in an event has at most about 1 kB (names and UIDs are bounded), so that 64 stay far below the
256 kB of a message.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from infra.spool import AssociationClosedHeader, InstanceHeader, Kind, Record, pointer_to
from schemas.codec import MAX_INSTANCES, Message, encode
from schemas.events import (
    Arrival,
    AssociationClosed,
    InstanceReceived,
    Intake,
    ReceivedInstance,
    SegmentRelayed,
)
from schemas.ids import study_key
from schemas.topics import RECEIVED

LIVE: Final = RECEIVED["live"]
BULK: Final = RECEIVED["bulk"]
SETTLED: Final = "instance.settled.v1"
_ROLE: Final = "relay"


def messages(spool: str, records: Sequence[Record], large_bytes: int) -> list[Message]:
    """Return what to publish for these records, in this order.

    Parameters
    ----------
    spool : str
        The spool's id.
    records : sequence of Record
        In the order of the spool; kinds that are neither an instance nor a closed association say nothing.
    large_bytes : int
        An instance longer than this takes the bulk lane.
    """
    arrived = (
        Arrived(
            topic=BULK if record.payload_length > large_bytes else LIVE,
            project=record.header.project,
            study=record.header.study_instance_uid or record.header.sop_instance_uid,
            instance=received_instance(spool, record, record.header),
            trace=record.header.trace,
        )
        for record in records
        if record.kind == Kind.INSTANCE and isinstance(record.header, InstanceHeader)
    )
    events = events_of(arrived, _ROLE)
    return events + [marker for record in records for marker in _markers(record)]


class Arrived(NamedTuple):
    """An instance on its way to a topic; `study` is its UID as sent, or its own UID where it names none."""

    topic: str
    project: str
    study: str
    instance: ReceivedInstance
    trace: str


def events_of(arrived: Iterable[Arrived], role: str) -> list[Message]:
    """Return the events of these instances, at most 64 of one study in each, in their order."""
    lanes: dict[tuple[str, str, str], list[Arrived]] = {}
    for one in arrived:
        lanes.setdefault((one.topic, one.project, one.study), []).append(one)
    return [_received(*names, part, role) for names, some in lanes.items() for part in _parts(some)]


def relayed(
    spool: str, segment: int, records: int, *, sealed: bool, epoch: str | None = None, role: str = _ROLE
) -> Message:
    """Return the message that tells the ledger how many records of a segment were published, in which epoch."""
    event = SegmentRelayed(spool=spool, segment=segment, records=records, sealed=sealed, epoch=epoch)
    identity = (spool, segment, records, int(sealed), epoch or "")
    return encode(SETTLED, f"{spool}/{segment}".encode(), event, identity=identity, source=role)


def received_instance(spool: str, record: Record, header: InstanceHeader) -> ReceivedInstance:
    """Return one instance as events carry it."""
    return ReceivedInstance(
        intake=Intake(spool=spool, segment=record.segment, record=record.number),
        pointer=pointer_to(spool, record),
        sop_class_uid=header.sop_class_uid,
        sop_instance_uid=header.sop_instance_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
        source=header.source,
        arrival=Arrival(association=header.association, ordinal=header.ordinal),
        received_at=header.received_at,
        dataset_mismatch=header.dataset_mismatch,
    )


def _parts(arrived: Iterable[Arrived]) -> Iterator[tuple[Arrived, ...]]:
    rest = iter(arrived)
    while part := tuple(islice(rest, MAX_INSTANCES)):
        yield part


def _received(topic: str, project: str, study: str, part: tuple[Arrived, ...], role: str) -> Message:
    instances = tuple(one.instance for one in part)
    event = InstanceReceived(project=project, study_instance_uid=study, instances=instances)
    return encode(
        topic,
        study_key(project, study),
        event,
        identity=(str(instances[0].intake), str(instances[-1].intake)),
        source=role,
        extra={
            "traceparent": f"00-{part[0].trace}-{part[0].trace[:16]}-01"
        },  # W3C: the first instance's trace
    )


def _markers(record: Record) -> Iterator[Message]:
    if record.kind != Kind.ASSOCIATION_CLOSED or not isinstance(record.header, AssociationClosedHeader):
        return
    closed = record.header
    for study, count in closed.studies.items():
        event = AssociationClosed(
            project=closed.project,
            study_instance_uid=study,
            association=closed.association,
            instances=count,
        )
        key = study_key(closed.project, study)
        yield encode(LIVE, key, event, identity=(closed.project, study, closed.association), source=_ROLE)
