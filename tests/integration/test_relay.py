"""The outbox over a real spool: nothing skipped whatever stops, nothing published that is not durable."""

import itertools
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from infra.connections import KafkaConnection
from infra.kafka import Producer, create_topics, read
from infra.spool import InstanceHeader, Kind, Spool, SpoolLimits, SpoolStore
from infra.spool.files import lock_folder, segment_path
from producers.relay import Relay, relay
from schemas.codec import Message, decode
from schemas.errors import SettingsError, SlowDown
from schemas.events import (
    EVENT_TYPES,
    AssociationClosed,
    InstanceReceived,
    ReceivedInstance,
    SegmentRelayed,
    Value,
)
from schemas.topics import BY_NAME

_LIMITS = SpoolLimits(segment_bytes=64 << 10, limit_bytes=1 << 30)


class FakeBroker:
    """Keeps what is sent; refuses every `fails`-th time, after it has kept half of it."""

    def __init__(self, fails: int = 0) -> None:
        self.messages: list[Message] = []
        self._fails, self._calls = fails, itertools.count(1)

    def send(self, messages: Sequence[Message]) -> None:
        if self._fails and next(self._calls) % self._fails == 0:
            self.messages += messages[: len(messages) // 2]
            raise SlowDown("injected")
        self.messages += messages

    def events(self) -> list[Value]:
        return [decode(one.value, one.headers, accepts=tuple(EVENT_TYPES)) for one in self.messages]

    def instances(self) -> list[ReceivedInstance]:
        found = (event for event in self.events() if isinstance(event, InstanceReceived))
        return [instance for event in found for instance in event.instances]

    def told(self) -> dict[int, SegmentRelayed]:
        return {event.segment: event for event in self.events() if isinstance(event, SegmentRelayed)}


def _fill(
    spool: Spool, count: int, *, association: str = "a0", size: int = 2000, start: int = 0
) -> list[bytes]:
    payloads = [b"%d " % n * (size // 4) for n in range(start, start + count)]
    for n, payload in enumerate(payloads, start):
        header = InstanceHeader(
            project="default",
            source="local",
            association=association,
            ordinal=n,
            calling_ae_title="A",
            called_ae_title="B",
            address="127.0.0.1",
            trace="ab" * 16,
            received_at=1.0,
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            sop_instance_uid=f"1.9.{n}",
            transfer_syntax_uid="1.2.840.10008.1.2",
            study_instance_uid=f"1.2.{n % 3}",
        )
        spool.store(header, payload)
    return payloads


def _outbox(folder: Path, broker: FakeBroker, **options: object) -> Relay:
    return Relay(folder, broker, large_bytes=1 << 20, **options)  # type: ignore[arg-type]


def _drain(outbox: Relay) -> None:
    for _ in range(10_000):
        try:
            if not outbox.step():
                return
        except SlowDown:
            continue
    raise AssertionError("the relay never came to an end")


def test_everything_is_published_once_in_order(tmp_path: Path) -> None:
    """Each record is published once, its pointer leads to its bytes, its markers come last."""
    spool, broker = Spool(tmp_path, _LIMITS), FakeBroker()
    payloads = _fill(spool, 100)
    spool.close_association("a0", "released")
    outbox = _outbox(tmp_path, broker)
    _drain(outbox)
    _drain(outbox)
    instances = {int(one.sop_instance_uid.rpartition(".")[2]): one for one in broker.instances()}
    store = SpoolStore.of(tmp_path)
    assert [store.read(instances[n].pointer) for n in range(100)] == payloads
    assert len(broker.instances()) == 100
    closed = [event for event in broker.events() if isinstance(event, AssociationClosed)]
    assert sorted((event.study_instance_uid, event.instances) for event in closed) == [
        ("1.2.0", 34),
        ("1.2.1", 33),
        ("1.2.2", 33),
    ]
    assert sum(event.records for event in broker.told().values()) == 100
    spool.close()


def test_sealed_segments_are_told_with_their_counts(tmp_path: Path) -> None:
    """The ledger learns of every segment how many records it has, and when there will be no more."""
    spool, broker = Spool(tmp_path, _LIMITS), FakeBroker()
    _fill(spool, 100)
    outbox = _outbox(tmp_path, broker)
    _drain(outbox)
    told = broker.told()
    assert [event.sealed for event in told.values()] == [True] * (len(told) - 1) + [False]
    spool.close()
    _drain(outbox)
    assert all(event.sealed for event in broker.told().values())
    assert sum(event.records for event in broker.told().values()) == 100
    assert not outbox.step()


@pytest.mark.parametrize("fails", [2, 3, 5])
def test_a_broker_that_fails_and_restarts_skip_nothing(tmp_path: Path, fails: int) -> None:
    """With every n-th send refused and a new relay after each, all is published; repeats are identical."""
    spool, broker = Spool(tmp_path, _LIMITS), FakeBroker(fails)
    for round_ in range(5):
        _fill(spool, 40, start=round_ * 40)
        _drain(_outbox(tmp_path, broker))
    spool.close()
    seen = {str(one.intake): one for one in broker.instances()}
    assert {one.sop_instance_uid for one in seen.values()} == {f"1.9.{n}" for n in range(200)}
    assert all(seen[str(one.intake)] == one for one in broker.instances())


def test_what_is_not_durable_is_not_published(tmp_path: Path) -> None:
    """A record that no sync has covered yet is left alone, and published once it is durable."""
    spool, broker = Spool(tmp_path), FakeBroker()
    _fill(spool, 1)
    assert spool._active is not None
    header = next(iter(_headers(tmp_path)))
    spool._active.append(Kind.INSTANCE, header, [b"unsynced"])
    outbox = _outbox(tmp_path, broker)
    _drain(outbox)
    assert len(broker.instances()) == 1
    _fill(spool, 1, start=1)
    _drain(outbox)
    assert len(broker.instances()) == 3
    spool.close()


def test_after_a_power_loss_all_kept_segments_are_published_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another boot id: the broker may have lost what it confirmed, so everything kept is sent again."""
    spool, broker = Spool(tmp_path, _LIMITS), FakeBroker()
    _fill(spool, 50)
    spool.close()
    _drain(_outbox(tmp_path, broker))
    _drain(_outbox(tmp_path, broker))
    assert len(broker.instances()) == 50
    monkeypatch.setattr("infra.spool.files.boot_id", lambda: "another boot")
    _drain(_outbox(tmp_path, broker))
    assert len(broker.instances()) == 100
    assert len({str(one.intake) for one in broker.instances()}) == 50


def test_a_segment_is_announced_in_its_epoch_before_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what settles at once would be in doubt behind that. A restart is no new epoch, a power loss is."""
    spool, broker = Spool(tmp_path, _LIMITS), FakeBroker()
    _fill(spool, 100)
    spool.close()
    _drain(_outbox(tmp_path, broker))
    _drain(_outbox(tmp_path, broker))
    monkeypatch.setattr("infra.spool.files.boot_id", lambda: "another boot")
    _drain(_outbox(tmp_path, broker))
    told = [event for event in broker.events() if isinstance(event, SegmentRelayed)]
    assert len({event.epoch for event in told}) == 2
    announced: set[tuple[str | None, int]] = set()
    epoch = None
    for event in broker.events():
        if isinstance(event, SegmentRelayed):
            epoch = event.epoch
            if event.records == 0:
                announced.add((epoch, event.segment))
        elif isinstance(event, InstanceReceived):
            assert (epoch, event.instances[0].intake.segment) in announced
    assert len(announced) == 2 * len({event.segment for event in told})


def test_a_position_of_the_first_release_goes_on(tmp_path: Path) -> None:
    """It has no epoch, as the rows of its segments have none: an update publishes nothing again."""
    spool, broker = Spool(tmp_path, _LIMITS), FakeBroker()
    _fill(spool, 50)
    _drain(_outbox(tmp_path, broker))
    path = tmp_path / "relay" / "position.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "epoch"}))
    before = len(broker.messages)
    outbox = _outbox(tmp_path, broker, freeable=lambda epoch, first: [first] if epoch is None else [])
    _fill(spool, 50, start=50)
    _drain(outbox)
    outbox.free_segments()
    spool.close()
    assert len(broker.instances()) == 100
    assert not segment_path(tmp_path, 1).exists()
    later = [decode(m.value, m.headers, accepts=tuple(EVENT_TYPES)) for m in broker.messages[before:]]
    assert {event.epoch for event in later if isinstance(event, SegmentRelayed)} == {None}


def test_a_garbled_position_starts_again(tmp_path: Path) -> None:
    """A position that cannot be read publishes from the first kept segment: repeated, never skipped."""
    spool, broker = Spool(tmp_path, _LIMITS), FakeBroker()
    _fill(spool, 10)
    _drain(_outbox(tmp_path, broker))
    (tmp_path / "relay" / "position.json").write_bytes(b"")
    _drain(_outbox(tmp_path, broker))
    assert len(broker.instances()) == 20
    spool.close()


def test_segments_are_freed_only_when_published_and_allowed(tmp_path: Path) -> None:
    """The ledger's word frees a published segment; one that is not published, and the newest, stay."""
    spool, broker = Spool(tmp_path, _LIMITS), FakeBroker()
    _fill(spool, 100)
    outbox = _outbox(tmp_path, broker, freeable=lambda _, first: range(first, 100))
    outbox.free_segments()
    assert segment_path(tmp_path, 1).exists()
    _drain(outbox)
    outbox.free_segments()
    spool.close()
    assert not segment_path(tmp_path, 1).exists()
    assert segment_path(tmp_path, max(broker.told())).exists()
    assert len(broker.instances()) == 100


def test_what_comes_meanwhile_is_published_together(tmp_path: Path) -> None:
    """The first instance goes at once; those that come within the pace after it go in one chunk."""
    spool, broker, stop = Spool(tmp_path), FakeBroker(), threading.Event()
    runner = threading.Thread(target=_outbox(tmp_path, broker).run, args=(stop, 0.001, 1.0))
    runner.start()
    for number in range(5):
        _fill(spool, 1, start=number)
        assert _eventually(lambda: bool(broker.instances()))
    assert _eventually(lambda: len(broker.instances()) == 5)
    stop.set()
    runner.join()
    spool.close()
    chunks = [event.records for event in broker.events() if isinstance(event, SegmentRelayed)]
    assert chunks == [0, 1, 5]  # a segment is announced before its records


def test_unrelayed_is_counted(tmp_path: Path) -> None:
    """What waits for the broker is counted over all segments, and zero when all is published."""
    spool, broker = Spool(tmp_path, _LIMITS), FakeBroker()
    _fill(spool, 100)
    outbox = _outbox(tmp_path, broker)
    assert outbox.unrelayed() == 100
    _drain(outbox)
    assert outbox.unrelayed() == 0
    spool.close()


def test_the_relay_may_start_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started before the receiver has made a spool, it waits, and publishes when there is one."""
    monkeypatch.setattr("producers.relay.SLOW_SECONDS", 0.05)
    folder, broker, stop = tmp_path / "spool", FakeBroker(), threading.Event()
    thread = threading.Thread(
        target=relay, args=(folder, broker, stop), kwargs={"poll_seconds": 0.01, "large_bytes": 1 << 20}
    )
    thread.start()
    spool = Spool(folder, _LIMITS)
    _fill(spool, 5)
    assert _eventually(lambda: len(broker.instances()) == 5)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    spool.close()


def test_who_is_told_to_stop_ends_without_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told so right behind the look that says go on, its workers have ended already: that is no failure of theirs."""

    class Ending(threading.Thread):
        def start(self) -> None:
            super().start()
            self.join(10)

    class Late(threading.Event):
        looks = 0

        def is_set(self) -> bool:
            self.looks += 1
            return self.looks > 1

    Spool(tmp_path, _LIMITS).close()
    monkeypatch.setattr("producers.relay.threading.Thread", Ending)
    stop = Late()
    stop.set()
    relay(tmp_path, FakeBroker(), stop, poll_seconds=0.01, large_bytes=1 << 20)
    assert stop.looks > 2


def test_a_spool_has_one_relay(tmp_path: Path) -> None:
    """A second one is refused before it reads the position, and stops those that it has started meanwhile."""
    for folder in (tmp_path, tmp_path / "2"):
        Spool(folder, _LIMITS).close()
    held, threads = lock_folder(tmp_path / "2" / "relay", "relay"), threading.active_count()
    with pytest.raises(SettingsError, match="has a relay already"):
        relay(tmp_path, FakeBroker(), threading.Event(), poll_seconds=0.01, large_bytes=1 << 20)
    assert threading.active_count() == threads
    os.close(held)
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    relay(tmp_path, FakeBroker(), stop, poll_seconds=0.01, large_bytes=1 << 20)
    for folder in (tmp_path, tmp_path / "2"):
        os.close(lock_folder(folder / "relay", "relay"))  # given back by the call that took it


@pytest.mark.stack
def test_a_real_broker_gets_everything(tmp_path: Path, kafka_at: KafkaConnection) -> None:
    """Over a real Kafka every instance and marker of a study is read from one partition, markers last."""
    prefix = "test-relay-"

    class Renaming(Producer):
        def send(self, messages: Sequence[Message]) -> None:
            super().send([message._replace(topic=prefix + message.topic) for message in messages])

    names = ("instance.received.v1", "instance.settled.v1")
    create_topics(kafka_at, [BY_NAME[name]._replace(name=prefix + name) for name in names], 1)
    spool = Spool(tmp_path, _LIMITS)
    _fill(spool, 100)
    spool.close_association("a0", "released")
    spool.close()
    _drain(Relay(tmp_path, Renaming(kafka_at), large_bytes=1 << 20))
    got = list(read(kafka_at, prefix + names[0], from_start=True, follow=False))
    by_key: dict[bytes, list[tuple[int, Value]]] = {}
    for one in got:
        event = decode(one.value, one.headers, accepts=tuple(EVENT_TYPES))
        by_key.setdefault(one.key, []).append((one.partition, event))
    assert (
        sum(len(e.instances) for rows in by_key.values() for _, e in rows if isinstance(e, InstanceReceived))
        == 100
    )
    for rows in by_key.values():
        assert len({partition for partition, _ in rows}) == 1
        assert isinstance(rows[-1][1], AssociationClosed)


def _headers(folder: Path) -> list[InstanceHeader]:
    from infra.spool import SpoolReader

    reader = SpoolReader(folder)
    found = (record.header for number in reader.segments() for record in reader.records(number))
    return [header for header in found if isinstance(header, InstanceHeader)]


def _eventually(check: Callable[[], bool], seconds: float = 15.0) -> bool:
    stop = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if check():
            return True
        stop.wait(0.02)
    return False
