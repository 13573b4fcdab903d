"""Pausing: the last word stands while Cassandra is away, and asking is cheap."""

from types import SimpleNamespace
from typing import Any

import pytest

from infra.clock import ManualClock
from infra.control import LOOK_SECONDS, Paused
from infra.spool import files
from infra.spool.drain import draining, set_draining
from schemas.errors import SlowDown


class Rows:
    """A table that answers with one row, or is away."""

    def __init__(self) -> None:
        self.paused: bool | None = None
        self.away, self.asked = False, 0

    def run(self, _cql: str, _values: tuple[str, ...]) -> list[Any]:
        self.asked += 1
        if self.away:
            raise SlowDown("Cassandra is away")
        return [] if self.paused is None else [SimpleNamespace(paused=self.paused)]


@pytest.fixture
def rows() -> Rows:
    """The row of the stage."""
    return Rows()


def test_a_stage_hears_a_pause_and_its_end(rows: Rows) -> None:
    """No row means go on; a row is heard at the next look."""
    clock = ManualClock()
    paused = Paused(rows, "catalog", clock)  # type: ignore[arg-type]
    heard = []
    for word in (None, True, False):
        rows.paused = word
        heard.append(paused())
        clock.advance(LOOK_SECONDS)
    assert heard == [False, True, False]


def test_it_asks_at_most_every_two_seconds(rows: Rows) -> None:
    """A loop that asks between all its batches costs Cassandra nothing."""
    clock = ManualClock()
    paused = Paused(rows, "catalog", clock)  # type: ignore[arg-type]
    for _ in range(100):
        paused()
        clock.advance(LOOK_SECONDS / 50)
    assert rows.asked == 2


@pytest.mark.parametrize("word", [True, False])
def test_the_last_word_stands_while_cassandra_is_away(rows: Rows, word: bool) -> None:
    """Neither does a paused stage wake up, nor a working one stop."""
    clock = ManualClock()
    paused = Paused(rows, "catalog", clock)  # type: ignore[arg-type]
    rows.paused = word
    assert paused() == word
    rows.away = True
    clock.advance(LOOK_SECONDS)
    assert paused() == word


def test_a_drain_is_told_through_the_spool(tmp_path: Any) -> None:
    """Telling twice is telling once, further processes hear it, and a spool that is not there is an error."""
    further = files.process_folder(tmp_path, 2)
    files.make_spool(tmp_path)
    files.make_spool(further)
    for on in (True, True, False, False):
        set_draining(tmp_path, on)
        assert draining(tmp_path) == draining(further) == on
    with pytest.raises(FileNotFoundError):
        set_draining(tmp_path / "none", on=True)
