"""The lister finds what events have lost, and looks no closer than it must; on a real Cassandra."""

import threading
import uuid

import pytest
from bucket_rig import Memory
from stage_rig import Outbox

from consumers.ledger import Ledger
from infra.cassandra import Tables
from infra.clock import ManualClock
from infra.load import mr_instance, uid
from infra.settings import Settings
from infra.spool import files
from producers.bridge.numbers import SEGMENT_RECORDS
from producers.bridge.take import Taking
from producers.lister import OPEN_SECONDS, UNSETTLED_SECONDS, WRITTEN_SECONDS, Lister
from schemas.errors import SlowDown
from schemas.events import InstanceSettled, SettledRecord
from schemas.sources import Source

from stage_rig import record  # isort: skip

BULK = "instance.received.bulk.v1"


IMAGE = mr_instance("lister", 0, 0, side=8)
SOP = uid("lister", 0, 0).encode()


def _image(number: int) -> bytes:
    return IMAGE.replace(SOP, SOP[:-6] + f"{number:06d}".encode())


class House:
    """A bucket, the lister over it, and a ledger that settles what was published."""

    def __init__(self, tables: Tables, outbox: Outbox, clock: ManualClock, settings: Settings) -> None:
        name = f"t{uuid.uuid4().hex[:12]}"
        self.source = Source(name=name, project="core", bucket=name)
        self.bucket, self.outbox, self.clock, self.stop = Memory(), outbox, clock, threading.Event()
        self.tables = tables
        self._ledger = Ledger(settings, tables, clock)
        self.start()

    def start(self) -> None:
        """A new process."""
        taking = Taking(
            "lister", self.bucket, self.tables, self.outbox, [self.source], self.clock, self.stop,  # type: ignore[arg-type]
            large_bytes=1 << 20, limit_bytes=1 << 21, requests=4,
        )  # fmt: skip
        self.lister = Lister(self.bucket, self.tables, taking, self.clock, 60.0, self.stop)  # type: ignore[arg-type]

    def put(self, count: int, first: int = 0) -> None:
        for n in range(first, first + count):
            self.bucket.put(f"f/{n:05d}", _image(n), self.clock.now() - 100)

    def look(self):
        return self.lister.look("look", self.source)

    def settle(self) -> None:
        for told in self.outbox.of("instance.settled.v1"):
            self._ledger.handle([record(told)])
        segments: dict[tuple[str, int], list[SettledRecord]] = {}
        for event in self.outbox.of(BULK):
            for one in event.instances:
                done = SettledRecord(record=one.intake.record, outcome="clean")
                segments.setdefault((one.intake.spool, one.intake.segment), []).append(done)
        for (spool, segment), some in segments.items():
            self._ledger.handle([record(InstanceSettled(spool=spool, segment=segment, records=tuple(some)))])

    def published(self) -> int:
        return sum(len(event.instances) for event in self.outbox.of(BULK))


@pytest.fixture
def house(tables: Tables, outbox: Outbox, clock: ManualClock, settings: Settings) -> House:
    return House(tables, outbox, clock, settings)


def test_what_no_event_told_is_found_once(house: House):
    """The first look takes it in, the second waits for its outcome, the third keeps its digest, the fourth rests."""
    house.put(1500)
    assert house.look().outcomes == {"taken": 1500}
    assert house.look().outcomes == {"waiting": 1500}
    house.settle()
    third, fourth = house.look(), house.look()
    assert (third.outcomes, third.resting) == ({}, 0)
    assert fourth.resting == fourth.runs > 1
    assert house.published() == 1500


def test_a_new_object_wakes_its_own_run_alone(house: House):
    """The keys themselves say where a run ends."""
    house.put(3000)
    house.look()
    house.settle()
    house.look()
    house.bucket.put("f/01500 new", _image(900_000), house.clock.now() - 100)
    look = house.look()
    assert look.outcomes == {"taken": 1}
    assert look.runs - look.resting == 1


def test_young_objects_are_left_to_their_events(house: House):
    """Their event is on its way; a minute later they are found."""
    house.bucket.put("f/young", _image(0), house.clock.now() - 10)
    assert house.look().outcomes == {"waiting": 1}
    house.clock.sleep(60)
    assert house.look().outcomes == {"taken": 1}


def test_what_has_no_outcome_for_long_is_published_again_under_its_intake(house: House):
    """Whatever Kafka lost, a power loss or retention: the same number, so that nothing happens twice."""
    house.put(3)
    house.look()
    house.clock.sleep(UNSETTLED_SECONDS + 1)
    assert house.look().outcomes == {"taken": 3}
    intakes = [str(one.intake) for event in house.outbox.of(BULK) for one in event.instances]
    assert sorted(intakes) == sorted(2 * intakes[:3])


def test_a_look_that_was_cut_goes_on(house: House):
    """What lies before is not listed again; the look after that begins anew."""
    house.put(3000)
    house.bucket.away["f/02500"] = 1000
    threading.Timer(5.0, house.stop.set).start()
    with pytest.raises(SlowDown):
        house.look()
    house.stop.clear()
    house.bucket.away.clear()
    before = house.published()
    assert before > 0
    look = house.look()
    assert look.listed < 3000
    assert house.published() == 3000
    assert house.look().listed == 3000


def test_another_boot_voids_what_was_kept(house: House, monkeypatch: pytest.MonkeyPatch):
    """What was settled may have been lost with the power, in Kafka, Cassandra or the store: all is looked up."""
    house.put(600)
    house.look()
    house.settle()
    house.look()
    assert house.look().resting > 0
    monkeypatch.setattr(files, "boot_id", lambda: "another")
    assert house.look().resting == 0


def test_what_settled_just_before_the_power_failed_is_published_again_once(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    """Its clean object or its messages may be lost; what settled long before has been written."""
    house.put(3)
    house.look()
    house.settle()
    house.clock.sleep(120)
    house.look()
    house.clock.sleep(3600)  # the machine was off
    reboot(house, monkeypatch)
    house.clock.sleep(7200)  # nobody started the lister for two hours
    assert house.look().outcomes == {"taken": 3}
    assert house.look().outcomes == {}
    assert house.published() == 6
    assert len({str(one.intake) for event in house.outbox.of(BULK) for one in event.instances}) == 3


def test_a_look_that_was_cut_keeps_its_doubts(house: House, monkeypatch: pytest.MonkeyPatch):
    """The power fails again before all was looked up behind the first time: what was not reached is not forgotten."""
    house.put(SEGMENT_RECORDS)  # some eight runs
    house.look()
    house.settle()
    reboot(house, monkeypatch)
    house.clock.sleep(7200)
    house.stop.set()
    with pytest.raises(SlowDown):
        house.look()
    house.stop.clear()
    first = house.published() - SEGMENT_RECORDS
    house.settle()
    house.clock.sleep(2 * WRITTEN_SECONDS)
    reboot(house, monkeypatch)
    assert house.look().outcomes == {"taken": SEGMENT_RECORDS}
    assert 0 < first < SEGMENT_RECORDS


def test_what_was_repeated_is_repeated_after_a_second_power_loss(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    """When the repeat settled stands nowhere: the segment had settled before."""
    house.put(SEGMENT_RECORDS)
    house.look()
    house.settle()
    reboot(house, monkeypatch)
    assert house.look().outcomes == {"taken": SEGMENT_RECORDS}
    house.clock.sleep(3 * WRITTEN_SECONDS)
    house.settle()
    assert house.look().outcomes == {}
    reboot(house, monkeypatch)
    assert house.look().outcomes == {"taken": SEGMENT_RECORDS}
    for _ in range(2):
        house.clock.sleep(OPEN_SECONDS)
        assert house.look().outcomes == {}
    reboot(house, monkeypatch)
    assert house.look().outcomes == {}


def reboot(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine starts now, and later the lister."""
    house.clock.sleep(60)
    booted, name = house.clock.now(), uuid.uuid4().hex
    monkeypatch.setattr(files, "boot_id", lambda: name)
    monkeypatch.setattr(files, "uptime", lambda: house.clock.now() - booted)
    house.start()


def test_what_settled_long_before_the_power_failed_rests(house: House, monkeypatch: pytest.MonkeyPatch):
    """A bucket of years is not taken in again after each boot, but for the numbers that were not used up."""
    house.put(SEGMENT_RECORDS + 2)
    house.look()
    house.settle()
    house.clock.sleep(WRITTEN_SECONDS + 60)
    house.look()
    reboot(house, monkeypatch)
    assert house.look().outcomes == {"taken": 2}
    house.clock.sleep(OPEN_SECONDS + WRITTEN_SECONDS + 60)
    house.look()
    reboot(house, monkeypatch)
    assert house.look().outcomes == {}


def test_a_deleted_object_that_comes_back_is_taken_again(house: House):
    """The same bytes under the same key: the same intake, so that nothing happens twice."""
    house.put(1)
    house.look()
    house.tables.run(
        "INSERT INTO bucket_objects (bucket, folder, part, key, version, state) VALUES (?, ?, ?, ?, ?, 'deleted')",
        _row(house),
    )
    assert house.look().outcomes == {"taken": 1}
    intakes = {str(one.intake) for event in house.outbox.of(BULK) for one in event.instances}
    assert len(intakes) == 1


def _row(house: House) -> tuple:
    from producers.bridge.take import partition_of

    version = house.bucket.look(house.source.bucket, "f/00000")
    return (*partition_of(house.source.bucket, "f/00000"), "f/00000", version.version)
