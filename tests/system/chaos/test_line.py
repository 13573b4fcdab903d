"""The right build, killed between any two of its effects: every time all of it comes out, once."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from checker import judge
from line import Killed, Line
from loads import small_load

from infra.cassandra import Tables
from schemas.errors import SlowDown

pytestmark = pytest.mark.stack


def test_nothing_is_wrong_where_nothing_happens(make_line: Callable[[], Line], tmp_path: Path) -> None:
    """Clean, duplicate, corrected, conflicting and quarantined instances without any fault: all zeros."""
    line = make_line()
    for paths in small_load(tmp_path / "files", "calm"):
        line.send(*paths)
    line.run()
    evidence = line.evidence()
    verdict = judge(evidence)
    print(verdict.table())
    assert verdict.zero
    assert {end.outcome for end in evidence.ended} == {
        "clean", "duplicate", "corrected", "conflict", "quarantined"
    }  # fmt: skip


@pytest.mark.parametrize("error", [Killed, SlowDown])
def test_a_fault_at_any_effect_changes_nothing(
    make_line: Callable[[], Line],
    tmp_path: Path,
    chance: random.Random,
    scaled: Callable[[int, int], int],
    error: type[BaseException],
) -> None:
    """Killed, or refused by a dependency, before or behind the n-th effect."""
    batches = small_load(tmp_path / "files", "count")
    effects = sent(make_line(), batches).fuse.count
    every = [(at, before) for at in range(effects) for before in (True, False)]
    for at, before in chance.sample(every, min(scaled(4, len(every)), len(every))):
        line = sent(make_line(), batches, lambda line, at=at, before=before: line.fuse.set(  # type: ignore[misc]
            at, before=before, error=error))  # fmt: skip
        verdict = judge(line.evidence())
        assert verdict.zero, f"effect {at} of {effects}, before {before}: {verdict.table()}"
        assert line.kills == (error is Killed)


def sent(line: Line, batches: list[list[Path]], fault: Callable[[Line], object] = lambda line: None) -> Line:
    """Set the fault, send, and run to the end, so that some come while others are on their way."""
    line.fuse.count = 0
    fault(line)
    for paths in batches:
        line.send(*paths)
        line.run(rounds=2)
    line.run()
    return line


@pytest.mark.parametrize("first", [3600.0, -3600.0])
def test_no_row_loses_to_one_with_a_later_time(
    make_line: Callable[[], Line], tmp_path: Path, line_tables: Tables, first: float
) -> None:
    """F13 at its smallest: a process an hour ahead or behind, then one that is right, then the first again."""
    line = make_line()
    cluster = line_tables._connected().cluster
    right = cluster.timestamp_generator
    try:
        for off, paths in zip(
            (first, 0.0, first, -first), small_load(tmp_path / "files", "skew"), strict=True
        ):
            cluster.timestamp_generator = lambda off=off: right() + int(1e6 * off)
            line.start()
            line.send(*paths)
            line.run()
    finally:
        cluster.timestamp_generator = right
    verdict = judge(line.evidence())
    assert verdict.zero, verdict.table()
    assert not any(row.project == line.project for row in line_tables.run("SELECT project FROM open_studies"))
