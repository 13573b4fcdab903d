"""The checker catches builds that are broken on purpose, each, and nearly every time."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from broken import BROKEN
from checker import judge
from line import Line
from loads import small_load
from scale import LONG
from test_line import sent

pytestmark = pytest.mark.stack

#: Of twenty runs, nineteen: what a broken build does under chance, chance may hide once.
RUNS, AT_LEAST = (20, 19) if LONG else (1, 1)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_build_is_caught(
    make_line: Callable[[], Line],
    tmp_path: Path,
    chance: random.Random,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """Under its fault, as what it breaks."""
    broken = BROKEN[name]
    broken.patch(monkeypatch)
    caught = 0
    for run in range(RUNS):
        batches = small_load(tmp_path / f"files{run}", f"{chance.getrandbits(32):08x}")
        line = sent(make_line(), batches, lambda line: broken.fault(line, chance))
        verdict = judge(line.evidence())
        print(verdict.table())
        caught += verdict.breaks(*broken.caught_as)
    assert caught >= AT_LEAST, f"{name}: {caught} of {RUNS}"
