"""`kill -9` of every program in turn while 1,000 instances are sent: nothing acknowledged is lost, no hand needed.

Method: the sender keeps its own ledger of what was acknowledged (promises P1, P3, P4). A sender whose
response was lost sends again, which is a duplicate; so acknowledged may exceed the files, and clean may not.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from house import PACKAGE, House, eventually

from commands.query import predictions_of
from commands.stack import layout
from infra.demo_reference import read_weights, reference
from infra.load import study_uid_of, write_exams, write_mr
from infra.stack.lifecycle import status
from producers.send import Result, send

PROGRAMS = ("cassandra", "kafka", "receive", "relay", "deidentify", "catalog", "ledger", "score")
INSTANCES = 1000
EXAMS = 4
#: Kafka's and Cassandra's restarts together, on a machine that is busy with both.
PATIENCE = 400.0

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]


def kill_soon(house: House, program: str, after: float) -> threading.Thread:
    """Kill a program from a thread, `after` seconds from now."""

    def kill() -> None:
        time.sleep(after)
        pid = next(p.pid for p in status(layout(house.settings)) if p.name == program)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


@pytest.fixture(scope="module")
def killed(
    house: House, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Result], dict[str, int], list[dict[str, Path]]]:
    """The sender's ledger, what the balance gained, and the exams among the files."""
    seed = f"kill-{time.time_ns()}"
    folder = tmp_path_factory.mktemp("kills")
    exams = write_exams(folder, seed, EXAMS)
    files = write_mr(folder, seed, INSTANCES - 4 * EXAMS) + [path for exam in exams for path in exam.values()]
    chance = random.Random(seed)
    print(f"seed {seed}")
    chance.shuffle(files)
    before = house.balance()
    results: list[Result] = []
    for number, program in enumerate(PROGRAMS):
        killer = kill_soon(house, program, chance.uniform(0.0, 0.6))
        part = files[number :: len(PROGRAMS)]
        results += send(part, house.destination(), associations=4, retry_seconds=120)
        killer.join()
    eventually(lambda: _is_settled(house, before), "settlement of all", PATIENCE)
    after = house.balance()
    return results, {name: after[name] - before[name] for name in after}, exams


def _is_settled(house: House, before: dict[str, int]) -> bool:
    try:
        now = house.balance()
    except Exception:  # Cassandra is on its way back
        return False
    return now["in_flight"] == 0 and now["clean"] - before["clean"] >= INSTANCES


def test_every_acknowledged_instance_settles_once(
    killed: tuple[list[Result], dict[str, int], list[dict[str, Path]]],
) -> None:
    """Each of the 1,000 files is acknowledged and clean once; what was sent twice is a duplicate."""
    results, gained, _ = killed
    assert all(result.stored for result in results)
    assert gained["clean"] == INSTANCES
    assert gained["acknowledged"] == INSTANCES + gained["duplicate"]
    assert {gained[name] for name in ("corrected", "conflict", "quarantined", "dead", "in_flight")} == {0}


def test_the_predictions_are_right(
    house: House, killed: tuple[list[Result], dict[str, int], list[dict[str, Path]]]
) -> None:
    """Every exam has one effective prediction, equal to the reference on the sent pixels."""
    weights = read_weights(PACKAGE / "weights.npz")
    for files in killed[2]:
        study = house.keys().pseudonymous_uid(study_uid_of(files["L-CC"]))
        found = eventually(lambda study=study: _effective(house, study), "prediction of an exam", PATIENCE)
        expected = reference({view: path.read_bytes() for view, path in files.items()}, weights)
        assert found["probabilities"] == pytest.approx(expected, abs=1e-6)


def _effective(house: House, study: str) -> dict[str, object] | None:
    found = [p for p in predictions_of(house.clean, "default", study) if p["effective"]]
    assert len(found) <= 1
    return next((p for p in found if p["outcome"] == "predicted"), None)


def test_the_ledger_agrees_with_the_catalog_and_every_program_is_back(
    house: House, killed: tuple[list[Result], dict[str, int], list[dict[str, Path]]]
) -> None:
    """`prodrome reconcile` finds no difference, and every program was restarted by the supervisor."""
    agrees: Callable[[], bool] = lambda: house.prodrome("reconcile").returncode == 0  # noqa: E731
    eventually(agrees, "agreement of ledger and catalog", PATIENCE)
    programs = {p["name"]: p for p in house.json("status", "--json")["programs"]}
    assert all(programs[name]["restarts"] >= 1 for name in PROGRAMS)
    assert all(program["state"] == "running" for program in programs.values())
