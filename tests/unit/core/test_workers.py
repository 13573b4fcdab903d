"""Worker processes may die or hang: the one job that does it is found, and no other suffers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from worker_jobs import setup, work

from consumers import workers
from consumers.workers import Job, Workers, own_journal
from schemas.errors import BadMessage, SlowDown


def jobs(*arguments: Any) -> list[Job]:
    return [Job(f"s/0/{i}", argument, 100) for i, argument in enumerate(arguments)]


@pytest.fixture(autouse=True)
def _plain_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spawned processes import the main module of their parent; ours is pytest, which takes long."""
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "work" / "jobs.json"


@pytest.fixture
def pool(journal: Path) -> Iterator[Workers]:
    made = Workers(work, setup, (10,), 2, journal)
    yield made
    made.close()


def write_journal(journal: Path, names: list[str], *, alone: bool, crashes: dict[str, int]) -> None:
    journal.parent.mkdir()
    journal.write_text(json.dumps({"jobs": names, "alone": alone, "crashes": crashes}))


def reason(result: Any) -> str:
    assert isinstance(result, BadMessage)
    return result.reason


def test_results_come_in_the_order_of_the_jobs_and_an_error_is_a_result(pool: Workers) -> None:
    """What a job raises is its own result; even a `TimeoutError` is no hanging worker."""
    one, bad, late, four = pool.run(jobs(1, "raise", "time out", 4))
    assert (one, reason(bad), type(late), four) == (10, "raw_corrupt", TimeoutError, 40)


def test_jobs_go_to_the_workers_in_shares(pool: Workers) -> None:
    """Neighbours share a way, so far fewer ways than jobs; both workers have work, and all have results."""
    which = list(range(200))
    shares = list(workers._shares(which, 2))
    assert [i for some in shares for i in some] == which
    assert 4 <= len(shares) <= 20
    assert list(workers._shares([5], 2)) == [[5]]
    assert pool.run(jobs(*which)) == [10 * i for i in which]


def test_an_error_that_cannot_be_sent_back_harms_no_neighbour(pool: Workers) -> None:
    """The share it was in has no results; its jobs run alone, and each has its own."""
    results = pool.run(jobs(*range(8), "unsendable", *range(9, 40)))
    assert isinstance(results.pop(8), Exception)
    assert results == [10 * i for i in (*range(8), *range(9, 40))]


def test_a_job_that_always_kills_its_worker_is_answered_and_the_others_are_right(
    pool: Workers, journal: Path
) -> None:
    """Three deaths alone are `crashed_worker`; the others have their results, and nobody stays a suspect."""
    results = pool.run(jobs(1, 2, "die", 4, 5))
    assert reason(results.pop(2)) == "crashed_worker"
    assert results == [10, 20, 40, 50]
    assert json.loads(journal.read_text()) == {"jobs": [], "alone": False, "crashes": {}}
    assert pool.run(jobs(7)) == [70]


def test_a_hanging_job_is_over_budget_and_the_others_are_right(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No job's end within the longest budget means that those at work hang: their first time of `CRASHES`."""
    pool = Workers(work, setup, (10,), 1, journal)
    assert pool.run(jobs(0)) == [0]  # its worker is up, so that the small budget is enough
    monkeypatch.setattr(workers, "BUDGET_SECONDS", 1.0)
    monkeypatch.setattr(workers, "CRASHES", 2)
    tried: list[str] = []
    right = pool._write_journal

    def write_journal(names: list[str], *, alone: bool) -> None:
        tried.extend(names if alone else ())
        right(names, alone=alone)

    monkeypatch.setattr(pool, "_write_journal", write_journal)
    results = pool.run(jobs(2, 3, "hang"))
    assert tried == ["s/0/2"]
    assert reason(results.pop()) == "over_budget"
    assert results == [20, 30]
    pool.close()


def test_jobs_of_a_journal_run_one_by_one_in_one_process(journal: Path) -> None:
    """After a crash of the role nobody knows which job it was, so each runs alone; a good one costs no process."""
    write_journal(journal, ["s/0/0", "s/0/1"], alone=False, crashes={})
    pool = Workers(work, setup, (10,), 2, journal)
    first, second, third = pool.run(jobs("pid", "pid", "pid"))
    assert first == second != third
    pool.close()


def test_a_job_that_ran_alone_when_the_role_died_is_counted(journal: Path) -> None:
    """The third death of the whole role is `crashed_worker` too, without another try."""
    write_journal(journal, ["s/0/1"], alone=True, crashes={"s/0/1": 2})
    pool = Workers(work, setup, (10,), 2, journal)
    one, two = pool.run(jobs(1, 2))
    assert (one, reason(two)) == (10, "crashed_worker")
    pool.close()


@pytest.mark.parametrize("text", ["", "{", "\x00"])
def test_a_journal_that_cannot_be_read_names_nobody(journal: Path, text: str) -> None:
    """A torn journal after a power loss stops nothing."""
    journal.parent.mkdir()
    journal.write_text(text)
    pool = Workers(work, setup, (10,), 1, journal)
    assert pool.run(jobs(1)) == [10]
    pool.close()


def test_a_set_up_that_fails_is_the_jobs_error_and_heals(journal: Path, tmp_path: Path) -> None:
    """A store that is down while workers start is no crash of every job in the batch."""
    broken = tmp_path / "broken"
    broken.touch()
    pool = Workers(work, setup, (10, str(broken)), 1, journal)
    assert isinstance(pool.run(jobs(1))[0], SlowDown)
    broken.unlink()
    assert pool.run(jobs(1)) == [10]
    pool.close()


def test_each_process_has_a_journal_of_its_own(tmp_path: Path) -> None:
    """Two roles of one home do not write over each other's; who has ended leaves its journal to the next."""
    folder = tmp_path / "work"
    claim = f"from consumers.workers import own_journal; print(own_journal(Path({str(folder)!r}), 'jobs'))"
    command = [sys.executable, "-c", f"from pathlib import Path; {claim}"]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = [subprocess.run(command, env=environ, capture_output=True, text=True).stdout for _ in range(2)]
    assert ended == [f"{folder / 'jobs.json'}\n"] * 2
    assert [own_journal(folder, "jobs").name for _ in range(3)] == ["jobs.json", "jobs-2.json", "jobs-3.json"]


def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    """No orphan goes on writing objects after `kill -9` of the role."""
    here = Path(__file__).with_name("worker_jobs.py")
    command = [sys.executable, str(here), str(tmp_path / "jobs.json")]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    worker.wait(timeout=10)


def test_a_batch_that_is_broken_off_leaves_no_answer_for_the_next(
    pool: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that still has a share of it in work would answer the next question with that."""
    assert pool.run(jobs(1)) == [10]

    def broken(*_: object) -> list[Any]:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(workers, "wait", broken)
        with pytest.raises(MemoryError):
            pool.run(jobs(*range(64)))
    assert pool.run(jobs(5, 6)) == [50, 60]
