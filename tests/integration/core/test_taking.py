"""Objects of a bucket become intakes, each once, whatever is away or cut meanwhile; on a real Cassandra."""

import json
import threading
import uuid

import pytest
from bucket_rig import Memory
from stage_rig import Outbox

from infra.cassandra import Tables
from infra.clock import ManualClock
from infra.load import mr_instance
from producers.bridge import numbers, take
from producers.bridge.bridge import Bridge
from producers.bridge.dialects import Sighting
from producers.bridge.sources import Event
from producers.bridge.take import Taking
from schemas.errors import SlowDown
from schemas.events import ReceivedInstance
from schemas.sources import Source


@pytest.fixture
def source() -> Source:
    """A source of its own, so that tests do not meet."""
    name = f"t{uuid.uuid4().hex[:12]}"
    return Source(name=name, project="core", bucket=name)


@pytest.fixture
def bucket() -> Memory:
    return Memory()


@pytest.fixture
def taking(source: Source, bucket: Memory, tables: Tables, outbox: Outbox, clock: ManualClock) -> Taking:
    return make_taking(source, bucket, tables, outbox, clock)


def make_taking(source: Source, bucket: Memory, tables: Tables, outbox: Outbox, clock: ManualClock) -> Taking:
    """Another process, as it were."""
    return Taking(
        "bridge", bucket, tables, outbox, [source], clock, threading.Event(),  # type: ignore[arg-type]
        large_bytes=1 << 20, limit_bytes=1 << 21, requests=4,
    )  # fmt: skip


def _created(source: Source, *keys: str) -> list[Sighting]:
    return [Sighting("created", source.bucket, key) for key in keys]


def _instances(outbox: Outbox, lane: str = "live") -> list[ReceivedInstance]:
    topic = "instance.received.v1" if lane == "live" else "instance.received.bulk.v1"
    return [instance for event in outbox.of(topic) for instance in getattr(event, "instances", ())]


def _fill(bucket: Memory, count: int) -> list[str]:
    return [bucket.put(f"f/{n}.dcm", mr_instance("taking", 0, n, side=8)) for n in range(count)]


def test_an_object_is_published_once(source, bucket, taking: Taking, outbox: Outbox):
    """Sighted again and again, in one batch and later: one intake, with dense numbers."""
    keys = _fill(bucket, 5)
    assert taking.take(_created(source, *keys, *keys), "live") == {"taken": 5}
    assert taking.take(_created(source, *keys), "live") == {"known": 5}
    found = _instances(outbox)
    assert sorted(i.intake.record for i in found) == [0, 1, 2, 3, 4]
    assert {i.intake.spool for i in found} == {numbers.spool_of(source.name)}
    told = outbox.of("instance.settled.v1")
    assert [(event.records, event.sealed) for event in told] == [(5, False)]


def test_what_was_cut_is_published_under_the_same_number(source, bucket, taking, tables, outbox, clock):
    """The broker is away, the process dies: the next one finds the claims and publishes those."""
    keys = _fill(bucket, 3)
    outbox.away = True
    with pytest.raises(SlowDown):
        taking.take(_created(source, *keys), "live")
    outbox.away = False
    other = make_taking(source, bucket, tables, outbox, clock)
    assert other.take(_created(source, *keys), "live") == {"taken": 3}
    first = {i.sop_instance_uid: i.intake for i in _instances(outbox)}
    assert {intake.segment for intake in first.values()} == {0}
    assert other.take(_created(source, *keys), "live", again=True) == {"taken": 3}
    assert {i.sop_instance_uid: i.intake for i in _instances(outbox)[3:]} == first


def test_processes_number_apart(source, bucket, tables, outbox, clock):
    """Each takes segments of its own; a large archive makes its segment as large as it must."""
    counted = numbers.Numbers(tables), numbers.Numbers(tables)
    spool = numbers.spool_of(source.name)
    firsts = [counted[n % 2].take(spool, numbers.SEGMENT_RECORDS) for n in range(4)]
    assert [(one.segment, one.record) for one in firsts] == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert counted[0].take(spool, 10 * numbers.SEGMENT_RECORDS).segment == 4


def test_a_segment_is_sealed_when_all_of_it_is_published(source, tables):
    """Not before: what is claimed and not published is still to come."""
    counted, spool = numbers.Numbers(tables), numbers.spool_of(source.name)
    some, rest = counted.take(spool, 1), counted.take(spool, numbers.SEGMENT_RECORDS)
    assert [t.sealed for t in counted.published([some])] == [False]
    assert list(counted.close()) == []
    intakes = [
        type(rest)(spool=spool, segment=rest.segment, record=rest.record + i)
        for i in range(numbers.SEGMENT_RECORDS)
    ]
    assert list(counted.published(intakes)) == [numbers.Told(spool, 0, numbers.SEGMENT_RECORDS + 1, True)]


def test_an_object_that_does_not_answer_is_asked_again_alone(source, bucket, taking, outbox):
    """The others of its batch are not asked for twice."""
    keys = _fill(bucket, 20)
    bucket.away["f/7.dcm"] = 1
    assert taking.take(_created(source, *keys), "live") == {"taken": 20}
    assert bucket.asked["f/7.dcm"] == 2
    assert sum(bucket.asked.values()) == 21


def test_other_bytes_under_a_key_are_another_object(source, bucket, taking, outbox):
    """Each has its intake, and a pointer that names its version."""
    for n in range(2):
        bucket.put("k", mr_instance("over", 0, n, side=8))
        assert taking.take(_created(source, "k"), "live") == {"taken": 1}
    assert len({i.pointer.uri for i in _instances(outbox)}) == 2


def test_a_large_object_takes_the_bulk_lane_and_a_larger_one_is_refused(source, bucket, taking, outbox):
    """So that nobody waits behind it; the limit is the settings'."""
    bucket.put("large", mr_instance("large", 0, 0, side=900))
    bucket.put("larger", mr_instance("large", 0, 1, side=1400))
    assert taking.take(_created(source, "large", "larger"), "live") == {"taken": 1, "too_large": 1}
    assert not _instances(outbox)
    assert len(_instances(outbox, "bulk")) == 1


_META_ONLY = bytes(128) + b"DICM\x08\x00\x05\x00CS\x0a\x00ISO_IR 100"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not_dicom"),
        (b"text", "not_dicom"),
        (b"\xff\xd8\xff\xe0" + bytes(9000), "not_dicom"),
        (_META_ONLY, "no_usable_uid"),
        (b"PK\x05\x06" + bytes(18), "bad_archive"),
        (b"PK\x03\x04" + bytes(99), "bad_archive"),
    ],
)
def test_what_holds_no_instance_is_refused_and_known(source, bucket, taking, outbox, data, reason):
    """By its first kilobytes; the next time nothing is read but its version."""
    bucket.put("k", data)
    assert taking.take(_created(source, "k"), "live") == {reason: 1}
    assert taking.take(_created(source, "k"), "live") == {"known": 1}
    assert not outbox.sent


def test_a_defect_of_ours_is_one_objects_affair(source, bucket, taking, outbox, monkeypatch):
    """The others of its batch pass; it is not noted, so that a release that is mended finds it."""
    keys = _fill(bucket, 3)
    read = take.instance_of

    def defective(begin, size, more):
        found = read(begin, size, more)
        if begin == bucket.objects[keys[1]][0][: len(begin)]:
            raise ZeroDivisionError
        return found

    monkeypatch.setattr(take, "instance_of", defective)
    assert taking.take(_created(source, *keys), "live") == {"taken": 2, "edge_failed": 1}
    monkeypatch.setattr(take, "instance_of", read)
    assert taking.take(_created(source, *keys), "live") == {"taken": 1, "known": 2}


def test_objects_that_no_source_names_are_not_asked_for(source, bucket, taking):
    """Whatever an event says, the store hears nothing of them."""
    sighted = [
        Sighting(kind, other, "k")
        for kind in ("created", "removed")
        for other in ("elsewhere", "169.254.169.254")
    ]
    assert taking.take(sighted, "live") == {"unknown_source": 4}
    assert not bucket.asked


def test_a_removed_object_is_said_once_and_only_if_it_is_gone(source, bucket, taking, outbox):
    """The store is asked; an event that comes late, or twice, says nothing more."""
    (key,) = _fill(bucket, 1)
    taking.take(_created(source, key), "live")
    gone = Sighting("removed", source.bucket, key)
    assert taking.take([gone], "live") == {"known": 1}
    del bucket.objects[key]
    for _ in range(2):
        taking.take([gone], "live")
    assert [type(event).__name__ for event in outbox.of("instance.received.v1")] == [
        "InstanceReceived",
        "ObjectDeleted",
    ]


class _Events:
    """A source of events whose end is noted."""

    name = "test"

    def __init__(self) -> None:
        self.done_with = 0

    def done(self, events) -> None:
        self.done_with += len(events)


def test_events_are_done_with_only_after_everything_is_confirmed(source, bucket, taking, outbox):
    """A broker that is away keeps them where they are; a bad one is a letter and holds up no other."""
    (key,) = _fill(bucket, 1)
    told = {"bucket": {"name": source.bucket}, "object": {"key": key}}
    good = json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": told}]})
    events = [Event(value, ("t", 0, n), None) for n, value in enumerate((good.encode(), b"bad"))]
    given = _Events()
    bridge = Bridge(given, taking, outbox)  # type: ignore[arg-type]
    outbox.away = True
    with pytest.raises(SlowDown):
        bridge.handle(events)
    assert given.done_with == 0
    outbox.away = False
    bridge.handle(events)
    assert given.done_with == 2
    assert len(_instances(outbox)) == 1
    assert [letter.reason for letter in outbox.of("deadletter.trusted.v1")] == ["malformed_message"]
