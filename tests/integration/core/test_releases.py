"""Out of the quarantine: a release is a new intake of the same bytes, a purge leaves the ledger; either may be cut."""

from pathlib import Path
from typing import Any

import pytest
from deid_door import Door
from pydicom.dataset import Dataset
from stage_rig import Outbox, record

from commands.releases import Wanted, purge, release, waiting
from consumers.kept import Kept
from consumers.ledger import Ledger, balance
from infra.cassandra import Tables
from schemas.errors import BadMessage, SlowDown
from schemas.events import InstanceReceived, Intake, Release
from schemas.topics import RECEIVED

pytestmark = pytest.mark.stack

NOTHING: frozenset[str] = frozenset()
BOTH = frozenset({"burned_in_risk", "burned_in_flag"})


class Ward:
    """An instance in quarantine, and the operator beside it."""

    def __init__(self, door: Door) -> None:
        self.door, self.outbox, self.kept = door, Outbox(), Kept(door.settings)
        self.ledger = Ledger(door.settings, door.tables, door.clock)
        self.before = balance(door.tables)

    def rows(self, **narrow: Any) -> list[Any]:
        return list(waiting(self.door.tables, Wanted(self.door.project, **narrow), self.door.clock))

    def release(self, rows: list[Any], admit: frozenset[str] = NOTHING, tables: Any = None) -> dict[str, int]:
        done = release(tables or self.door.tables, self.outbox, self.kept, rows, admit, "tester")  # type: ignore[arg-type]
        return dict(done)

    def work(self) -> None:
        """Deidentify takes what was sent to it, then the ledger what both have said."""
        for event in self.outbox.of(RECEIVED["bulk"]):
            self.door.take(event)
        for said in (self.outbox, self.door.outbox):
            self.ledger.handle([record(event) for event in said.of("instance.settled.v1")])
            said.sent.clear()

    def gained(self) -> dict[str, int]:
        now = balance(self.door.tables)
        return {name: now[name] - n for name, n in self.before.items() if now[name] != n}

    def objects(self) -> list[Path]:
        return [p for p in Path(self.door.settings.trusted.store[7:]).rglob("*") if p.is_file()]


@pytest.fixture
def ward(door: Door, views: list[Dataset]) -> Ward:
    """One instance whose flag says YES, in quarantine, accounted for."""
    ward = Ward(door)
    views[0].BurnedInAnnotation = "YES"
    door.take(door.store(views[0]))
    ward.work()
    assert ward.gained() == {"acknowledged": 1, "quarantined": 1}
    return ward


def test_a_release_that_admits_the_reason_is_clean(ward: Ward) -> None:
    """The original bytes cross as a new intake with its origin; the first intake keeps its outcome."""
    (row,) = ward.rows()
    assert ward.release([row], BOTH) == {"released": 1}
    (sent,) = ward.outbox.of(RECEIVED["bulk"])
    assert sent.instances[0].release == Release(origin=row.intake, admitted=tuple(sorted(BOTH)))
    assert sent.instances[0].intake == Intake.parse(row.intake).again
    ward.work()
    assert ward.gained() == {"acknowledged": 2, "quarantined": 1, "clean": 1}
    assert ward.rows(released=False) == []


def test_a_release_that_admits_nothing_waits_again_under_the_same_object(ward: Ward) -> None:
    """Another row, the same bytes; and that can be released in its turn."""
    (first,) = ward.rows()
    ward.release([first])
    ward.work()
    assert ward.gained() == {"acknowledged": 2, "quarantined": 2}
    (second,) = ward.rows(released=False)
    assert (second.object, second.reason) == (first.object, first.reason)
    assert len(ward.objects()) == 1
    ward.release([second], BOTH)
    ward.work()
    assert ward.gained() == {"acknowledged": 3, "quarantined": 2, "clean": 1}


@pytest.mark.parametrize("admit", [{"burned_in_risk"}, {"encapsulated_document", "burned_in_risk"}])
def test_only_what_is_admitted_passes(ward: Ward, admit: set[str]) -> None:
    """Another reason than the one it waits for, or a word that nobody may answer for, admits nothing."""
    ward.release(ward.rows(), frozenset(admit))
    ward.work()
    assert ward.gained() == {"acknowledged": 2, "quarantined": 2}


def test_a_release_twice_is_one_effect(ward: Ward) -> None:
    """On its way it is sent again with the same body; settled, not at all."""
    rows = ward.rows()
    ward.release(rows, BOTH)
    assert ward.release(rows, NOTHING) == {"sent again": 1}
    assert len(set(ward.outbox.bodies(RECEIVED["bulk"]))) == 1
    ward.work()
    assert ward.release(rows, BOTH) == {"released before": 1}
    assert ward.outbox.bodies(RECEIVED["bulk"]) == []
    assert ward.gained() == {"acknowledged": 2, "quarantined": 1, "clean": 1}


def test_a_release_on_its_way_is_in_flight(ward: Ward, views: list[Dataset]) -> None:
    """Each of a segment by itself, from when it is sent until it has its outcome."""
    views[1].BurnedInAnnotation = "YES"
    ward.door.take(ward.door.store(views[1]))
    ward.work()
    for row in ward.rows():
        ward.release([row], BOTH)
    ward.ledger.handle([record(event) for event in ward.outbox.of("instance.settled.v1")])
    assert ward.gained() == {"acknowledged": 4, "quarantined": 2, "in_flight": 2}
    ward.work()
    assert ward.gained() == {"acknowledged": 4, "quarantined": 2, "clean": 2}


class Dying:
    """Tables of a process that is killed before its n-th statement of a release or a purge."""

    def __init__(self, tables: Tables, left: int) -> None:
        self._tables, self._left = tables, left

    def __getattr__(self, name: str) -> Any:
        if name in ("run", "run_once", "run_all"):
            if self._left == 0:
                raise KeyboardInterrupt
            self._left -= 1
        return getattr(self._tables, name)


@pytest.mark.parametrize("statement", [*range(3), "sending"])
def test_a_release_that_is_cut_is_finished_by_the_next(ward: Ward, statement: int | str) -> None:
    """Before its row, before the count, before the messages, before the mark: one intake, one outcome."""
    tables: Any = ward.door.tables if statement == "sending" else Dying(ward.door.tables, int(statement))
    ward.outbox.away = statement == "sending"
    with pytest.raises((KeyboardInterrupt, SlowDown)):
        ward.release(ward.rows(), BOTH, tables)
    ward.outbox.away = False
    ward.release(ward.rows(released=False), BOTH)
    ward.work()
    assert ward.gained() == {"acknowledged": 2, "quarantined": 1, "clean": 1}
    assert ward.rows(released=False) == []


def test_a_purge_removes_the_bytes_and_every_row(ward: Ward) -> None:
    """Of the intake and of its releases; the ledger keeps how they ended."""
    ward.release(ward.rows())
    ward.work()
    assert len(ward.rows()) == 2
    assert purge(ward.door.tables, ward.kept, ward.rows(released=False)) == {"purged": 1}
    assert (ward.rows(), ward.objects()) == ([], [])
    assert ward.gained() == {"acknowledged": 2, "quarantined": 2}


def test_a_purge_that_is_cut_is_finished_by_the_next(ward: Ward) -> None:
    """Between the object and the rows."""
    with pytest.raises(KeyboardInterrupt):
        purge(Dying(ward.door.tables, 1), ward.kept, ward.rows())  # type: ignore[arg-type]
    assert (len(ward.rows()), ward.objects()) == (1, [])
    assert purge(ward.door.tables, ward.kept, ward.rows()) == {"purged": 1}
    assert ward.rows() == []


def test_a_purge_waits_for_a_release_on_its_way(ward: Ward) -> None:
    """The bytes that deidentify is about to read stay."""
    ward.release(ward.rows(), BOTH)
    assert purge(ward.door.tables, ward.kept, ward.rows()) == {"on its way": 1}
    assert len(ward.objects()) == 1
    ward.work()
    assert purge(ward.door.tables, ward.kept, ward.rows()) == {"purged": 1}
    assert ward.gained() == {"acknowledged": 2, "quarantined": 1, "clean": 1}


def test_a_dead_intake_is_released_too(ward: Ward, views: list[Dataset]) -> None:
    """What killed its worker is kept with its event, and crosses when the cause is mended."""
    ward.door.workers.errors[0] = BadMessage("crashed_worker")
    ward.door.take(ward.door.store(views[1]))
    ward.door.workers.errors.clear()
    assert ward.release(ward.rows(reason="crashed_worker")) == {"released": 1}
    ward.work()
    assert ward.gained() == {"acknowledged": 3, "quarantined": 1, "dead": 1, "clean": 1}


def test_a_row_without_its_event_is_said_and_left(ward: Ward) -> None:
    """Rows of an older release lack what an event needs."""
    (row,) = ward.rows()
    assert ward.release([row._replace(received=None)], BOTH) == {"without its event": 1}
    assert len(ward.rows(released=False)) == 1


def test_the_event_of_one_row_does_not_open_as_anothers(ward: Ward) -> None:
    """It is bound to its project and intake."""
    (row,) = ward.rows()
    intake = Intake.parse(row.intake)
    event = ward.kept.event_of(row.project, intake, row.received)
    assert isinstance(event, InstanceReceived)
    with pytest.raises(BadMessage, match="raw_corrupt"):
        ward.kept.event_of(row.project, intake.again, row.received)


def test_waiting_narrows(ward: Ward) -> None:
    """By reason, age and intake."""
    (row,) = ward.rows()
    assert ward.rows(reason="burned_in_risk") == []
    assert ward.rows(intakes=(row.intake,)) == [row]
    assert ward.rows(intakes=("nobody/0/0",)) == []
    assert ward.rows(older_than_days=1) == []
    ward.door.clock.advance(2 * 86400)
    assert ward.rows(older_than_days=1) == [row]
