"""The ledger on a real Cassandra: the balance, and when a segment may be freed."""

import random
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from stage_rig import record

from consumers.ledger import Ledger, balance
from infra.cassandra import Tables
from infra.clock import ManualClock
from infra.settings import Settings
from schemas.errors import SlowDown
from schemas.events import InstanceSettled, SegmentRelayed, SettledRecord

pytestmark = pytest.mark.stack

GRACE = 600.0


@pytest.fixture
def spool() -> str:
    return uuid.uuid4().hex[:16]


@pytest.fixture
def ledger(settings: Settings, tables: Tables, clock: ManualClock) -> Ledger:
    return Ledger(settings, tables, clock)


def settled(spool: str, *outcomes: str, segment: int = 0) -> InstanceSettled:
    records = tuple(SettledRecord(record=i, outcome=o) for i, o in enumerate(outcomes))  # type: ignore[arg-type]
    return InstanceSettled(spool=spool, segment=segment, records=records)


def relayed(spool: str, records: int, sealed: bool = True, segment: int = 0) -> SegmentRelayed:
    return SegmentRelayed(spool=spool, segment=segment, records=records, sealed=sealed)


def freeable(tables: Tables, spool: str) -> list[int]:
    rows = tables.run("SELECT segment, freeable FROM ledger_segments WHERE spool = ?", (spool,))
    return [row.segment for row in rows if row.freeable]


def wait(ledger: Ledger, clock: ManualClock, seconds: float) -> None:
    clock.advance(seconds)
    ledger.tick()


def test_the_balance_is_exact_whatever_the_order_and_repetition(
    ledger: Ledger, tables: Tables, spool: str
) -> None:
    """Acknowledged is the sum of all outcomes and what is in flight; batches come twice and mixed."""
    before = balance(tables)
    events = [
        settled(spool, "clean", "duplicate", "quarantined"),
        settled(spool, "clean", segment=1),
        relayed(spool, 4),
        *(relayed(spool, n, False, segment=1) for n in range(3)),
    ]
    shuffled = 3 * events
    random.Random(7).shuffle(shuffled)
    for start in range(0, len(shuffled), 4):
        ledger.handle([record(event) for event in shuffled[start : start + 4]])
    after = balance(tables)
    change = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert change == {"acknowledged": 6, "clean": 2, "duplicate": 1, "quarantined": 1, "in_flight": 2}


def test_a_settled_segment_may_be_freed_after_the_grace(
    ledger: Ledger, tables: Tables, clock: ManualClock, spool: str
) -> None:
    """Not sooner: after a power loss its records would be published again."""
    ledger.handle([record(relayed(spool, 2)), record(settled(spool, "clean", "clean"))])
    wait(ledger, clock, GRACE - 1)
    assert freeable(tables, spool) == []
    wait(ledger, clock, 10)
    assert freeable(tables, spool) == [0]


def test_a_segment_with_a_record_in_flight_is_kept(
    ledger: Ledger, tables: Tables, clock: ManualClock, spool: str
) -> None:
    """However long it takes."""
    ledger.handle([record(relayed(spool, 3)), record(settled(spool, "clean", "clean"))])
    wait(ledger, clock, 100 * GRACE)
    assert freeable(tables, spool) == []


def test_a_restart_finds_what_was_settled(
    ledger: Ledger, settings: Settings, tables: Tables, clock: ManualClock, spool: str
) -> None:
    """The time of settling is in the row."""
    ledger.handle([record(relayed(spool, 1)), record(settled(spool, "dead"))])
    restarted = Ledger(settings, tables, clock)
    restarted.assigned(frozenset({0}))
    wait(restarted, clock, GRACE + 10)
    assert freeable(tables, spool) == [0]


class Deaf:
    """Tables whose lightweight transactions are made, and of which nobody is told the first time."""

    def __init__(self, tables: Tables) -> None:
        self._tables, self._deaf = tables, True

    def run_once(self, cql: str, values: Sequence[Any]) -> tuple[bool, Any]:
        answer = self._tables.run_once(cql, values)
        if self._deaf:
            self._deaf = False
            raise SlowDown("the time is over")
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tables, name)


def test_a_write_that_was_made_and_not_confirmed_is_freed_too(
    settings: Settings, tables: Tables, clock: ManualClock, spool: str
) -> None:
    """Cassandra's answer came too late: the batch is handled again, and finds its own row."""
    ledger = Ledger(settings, Deaf(tables), clock)  # type: ignore[arg-type]
    events = [record(event) for event in (relayed(spool, 1), settled(spool, "clean"))]
    with pytest.raises(SlowDown):
        ledger.handle(events)
    ledger.handle(events)
    wait(ledger, clock, GRACE)
    assert freeable(tables, spool) == [0]


def test_a_retention_of_for_ever_frees_nothing(tables: Tables, clock: ManualClock, spool: str) -> None:
    """The policy has the last word."""
    from infra.settings import load

    kept = Ledger(load({"PRODROME_LEDGER_RAW_RETENTION": "forever"}), tables, clock)
    kept.handle([record(relayed(spool, 1)), record(settled(spool, "clean"))])
    wait(kept, clock, 1000 * GRACE)
    assert freeable(tables, spool) == []
