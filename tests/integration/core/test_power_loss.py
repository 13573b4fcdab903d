"""Relay and ledger after a power loss: nothing that the broker or a store may have lost is freed before its repeat."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from deid_door import Door
from pydicom.dataset import Dataset
from stage_rig import Outbox, record

from commands.roles import Freeable
from consumers.ledger import Ledger, balance
from infra.cassandra import Tables
from infra.clock import ManualClock
from infra.demo import VIEWS
from infra.spool import SpoolReader
from infra.spool.files import segment_path
from producers.relay import Relay
from schemas.codec import decode
from schemas.events import InstanceReceived, InstanceSettled, SegmentRelayed
from schemas.topics import BY_NAME

pytestmark = pytest.mark.stack


class System:
    """A spool with its relay, the deidentify stage and the ledger, one message after the other."""

    def __init__(self, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
        self.door, self._boots, self._monkeypatch = door, itertools.count(), monkeypatch
        self.id = SpoolReader(door.folder).id
        self.boot()

    def boot(self) -> None:
        """The machine has lost its memory; every process is a new one. The topics are empty: the worst."""
        boot = f"boot {next(self._boots)}"
        self._monkeypatch.setattr("infra.spool.files.boot_id", lambda: boot)
        self.published = Outbox()
        self.ledger = Ledger(self.door.settings, self.door.tables, self.door.clock)
        self.ledger.assigned(frozenset({0}))
        freeable = Freeable(self.door.tables)
        self.relay = Relay(
            self.door.folder,
            self.published,  # type: ignore[arg-type]
            large_bytes=1 << 30,
            freeable=lambda epoch, first: freeable(self.id, epoch, first),
            clock=self.door.clock,
        )
        self.door.start()

    def publish(self) -> None:
        while self.relay.step():
            pass

    def tell(self) -> None:
        """The ledger takes what the relay has told it."""
        self._take(SegmentRelayed)

    def work(self) -> None:
        """Deidentify takes what is published; the ledger what that says."""
        self.door.outbox.sent.clear()
        self.door.take(*(e for e in self._events() if isinstance(e, InstanceReceived)))
        said = [e for e in self.door.outbox.of("instance.settled.v1") if isinstance(e, InstanceSettled)]
        self.ledger.handle([record(event) for event in said])

    def wait(self, seconds: float) -> None:
        self.door.clock.advance(seconds)
        self.ledger.tick()
        self.relay.free_segments()

    def _take(self, kind: type) -> None:
        self.ledger.handle([record(event) for event in self._events() if isinstance(event, kind)])

    def _events(self) -> list[Any]:
        found = self.published.sent
        return [decode(m.value, m.headers, accepts=BY_NAME[m.topic].types) for m in found]


@pytest.fixture
def system(door: Door, views: list[Dataset], monkeypatch: pytest.MonkeyPatch) -> System:
    """One sealed segment with four views, all settled, and a second one that keeps the numbering."""
    door.store(*views)
    door.spool.close()
    door.spool = type(door.spool)(door.folder)
    system = System(door, monkeypatch)
    system.publish()
    system.tell()
    system.work()
    return system


def kept(system: System) -> bool:
    return segment_path(system.door.folder, 1).exists()


GRACE = 600.0


def test_what_settled_is_freed_after_the_grace(system: System) -> None:
    """So that the tests below show something."""
    system.wait(GRACE - 10)
    assert kept(system)
    system.wait(20)
    assert not kept(system)


def test_a_machine_that_was_off_for_an_hour_frees_nothing_before_it_has_settled_again(system: System) -> None:
    """The grace is over by the clock, and yet nothing has had the time to reach the disk."""
    system.boot()
    system.wait(3600.0)
    assert kept(system)
    system.publish()
    system.wait(3600.0)  # the ledger has not heard of the repeat yet
    assert kept(system)
    system.tell()
    system.wait(3600.0)  # a long queue stands before it
    assert kept(system)
    system.work()
    assert system.door.settled() == dict.fromkeys(range(len(VIEWS)), "clean")
    system.wait(GRACE - 10)
    assert kept(system)
    system.wait(20)
    assert not kept(system)


def test_a_ledger_that_hears_of_the_epoch_twice_frees_nothing(system: System) -> None:
    """It was killed before it committed: what it handled comes again, an outcome of the epoch before among it."""
    before = [record(event) for event in system.door.outbox.of("instance.settled.v1")]
    system.boot()
    system.publish()
    system.ledger.handle(before)
    system.tell()
    system.ledger.handle(before)
    system.tell()
    system.wait(3600.0)
    assert kept(system)
    system.work()
    system.wait(GRACE - 10)
    assert kept(system)
    system.wait(20)
    assert not kept(system)


def test_a_segment_that_was_marked_is_in_doubt_again_where_its_epoch_begins_again(system: System) -> None:
    """The relay was killed behind the announcement: the mark goes, and comes when all has settled once more."""
    system.boot()
    system.publish()
    system.tell()
    system.work()
    system.door.clock.advance(GRACE)
    system.ledger.tick()
    freeable = Freeable(system.door.tables)
    assert set(freeable(system.id, system.relay.state.epoch, 1)) == {1}
    system.tell()
    assert set(freeable(system.id, system.relay.state.epoch, 1)) == set()
    system.work()
    system.wait(GRACE)
    assert not kept(system)


def test_clean_objects_that_were_lost_are_made_again(system: System, tmp_path: Path) -> None:
    """That is what the kept segment is for."""
    lost = sorted(tmp_path.rglob("clean/**/*.dcm"))
    assert len(lost) == len(VIEWS)
    for path in lost:
        path.unlink()
    system.boot()
    system.wait(3600.0)
    system.publish()
    system.tell()
    system.work()
    assert sorted(tmp_path.rglob("clean/**/*.dcm")) == lost


def test_the_balance_does_not_move(system: System, tables: Tables, clock: ManualClock) -> None:
    """An outcome in doubt counts: nothing that was acknowledged is in flight a second time."""
    before = balance(tables)
    system.boot()
    system.publish()
    system.tell()
    assert balance(tables) == before
    system.work()
    assert balance(tables) == before
