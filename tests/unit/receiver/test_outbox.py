"""From records to messages: batches of one study, order kept, markers behind, lanes by size."""

from infra.spool import AssociationClosedHeader, InstanceHeader, Kind, Record
from producers.outbox import BULK, LIVE, SETTLED, messages, relayed
from schemas.codec import MAX_MESSAGE_BYTES, Message, decode
from schemas.events import EVENT_TYPES, AssociationClosed, InstanceReceived, SegmentRelayed, Value

_SPOOL = "0b0c3a4e-0000-4000-8000-000000000000"
_LARGE = 1000


def _instance(
    number: int, study: str | None = "1.2.3", *, length: int = 10, association: str = "a0"
) -> Record:
    header = InstanceHeader(
        project="default",
        source="local",
        association=association,
        ordinal=number,
        calling_ae_title="A",
        called_ae_title="B",
        address="127.0.0.1",
        trace="ab" * 16,
        received_at=1.0,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid=f"1.9.{number}",
        transfer_syntax_uid="1.2.840.10008.1.2",
        study_instance_uid=study,
    )
    return Record(Kind.INSTANCE, header, 7, number, 4096, 5000, length, 5, 6000)


def _closed(studies: dict[str, int]) -> Record:
    header = AssociationClosedHeader(association="a0", project="default", studies=studies, cause="released")
    return Record(Kind.ASSOCIATION_CLOSED, header, 7, 0xFFFFFFFF, 6000, 6100, 0, 0, 6100)


def _event(message: Message) -> Value:
    return decode(message.value, message.headers, accepts=tuple(EVENT_TYPES))


def test_instances_of_a_study_are_batched_in_order() -> None:
    """Interleaved studies become batches of at most 64 each, in the order of receipt, one key a study."""
    made = messages(_SPOOL, [_instance(n, f"1.2.{n % 2}") for n in range(200)], _LARGE)
    events = [_event(message) for message in made]
    assert [len(event.instances) for event in events if isinstance(event, InstanceReceived)] == [
        64,
        36,
        64,
        36,
    ]
    first = [i.intake.record for event in events[:2] for i in event.instances]  # type: ignore[attr-defined]
    assert first == list(range(0, 200, 2))
    assert {message.key for message in made} == {b"default/1.2.0", b"default/1.2.1"}
    assert all(len(message.value) < MAX_MESSAGE_BYTES // 2 for message in made)


def test_an_event_says_where_the_bytes_are() -> None:
    """The pointer names spool, segment and range, and the checksum; no path of a host."""
    event = _event(messages(_SPOOL, [_instance(3)], _LARGE)[0])
    assert isinstance(event, InstanceReceived)
    pointer = event.instances[0].pointer
    assert (pointer.uri, pointer.offset, pointer.length) == (f"spool://{_SPOOL}/7", 5000, 10)
    assert pointer.digest == "xxh3:0000000000000005"
    assert str(event.instances[0].intake) == f"{_SPOOL}/7/3"


def test_an_instance_without_a_study_is_keyed_by_itself() -> None:
    """Where the scan found no study, the SOP Instance UID keeps the message apart."""
    (message,) = messages(_SPOOL, [_instance(3, None)], _LARGE)
    assert message.key == b"default/1.9.3"


def test_large_instances_take_the_bulk_lane() -> None:
    """An instance over the size goes to the bulk topic, its small neighbours stay in the live one."""
    made = messages(_SPOOL, [_instance(0), _instance(1, length=1001), _instance(2)], _LARGE)
    assert [(message.topic, len(_event(message).instances)) for message in made] == [  # type: ignore[attr-defined]
        (LIVE, 2),
        (BULK, 1),
    ]


def test_markers_follow_the_instances_they_close() -> None:
    """The marker of an association stands behind its instances, with the study's key."""
    made = messages(
        _SPOOL, [_instance(0), _instance(1), _closed({"1.2.3": 2, "1.2.4": 1}), _instance(2)], _LARGE
    )
    assert [type(_event(message)) for message in made] == [
        InstanceReceived,
        AssociationClosed,
        AssociationClosed,
    ]
    assert [message.key for message in made[1:]] == [b"default/1.2.3", b"default/1.2.4"]
    closed = _event(made[1])
    assert isinstance(closed, AssociationClosed)
    assert closed.instances == 2


def test_a_repeat_is_identical() -> None:
    """The same records give the same messages, ids included: a repeat is recognised as one."""
    records = [*(_instance(n) for n in range(70)), _closed({"1.2.3": 70})]
    assert messages(_SPOOL, records, _LARGE) == messages(_SPOOL, records, _LARGE)


def test_the_ledger_is_told_the_count() -> None:
    """How many records a segment has goes to the ledger's topic under the segment's key."""
    message = relayed(_SPOOL, 7, 12, sealed=True, epoch="e")
    assert (message.topic, message.key) == (SETTLED, f"{_SPOOL}/7".encode())
    assert _event(message) == SegmentRelayed(spool=_SPOOL, segment=7, records=12, sealed=True, epoch="e")
    assert relayed(_SPOOL, 7, 12, sealed=True, epoch="f").headers != message.headers
