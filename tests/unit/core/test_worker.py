"""One worker process: whoever ends it, and whenever, the other side sees it and does not wait."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from worker_jobs import answer, prepare

from infra import worker as module
from infra.worker import Worker, WorkerEnded


@pytest.fixture(autouse=True)
def _plain_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spawned processes import the main module of their parent; ours is pytest, which takes long."""
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setattr(module, "MESSAGE_SECONDS", 1.0)
    made = Worker(answer, prepare, (3,))
    made.wait_until_ready(60.0)
    yield made
    made.end()


def ask(worker: Worker, question: Any) -> Any:
    worker.ask(question)
    assert worker.connection.poll(30.0)
    return worker.receive()


def test_it_answers_what_it_was_prepared_for(worker: Worker) -> None:
    """One question after the other; an error is an answer, also one that cannot be sent or read back."""
    assert ask(worker, 5) == 15
    assert isinstance(ask(worker, "raise"), LookupError)
    assert isinstance(ask(worker, "unsendable"), RuntimeError)
    assert isinstance(ask(worker, "unreadable"), TypeError)
    assert ask(worker, 6) == 18


def test_it_may_have_processes_of_its_own(worker: Worker) -> None:
    """Pixels are searched in one."""
    assert ask(worker, "child") == 0


def test_it_ends_with_a_parent_that_just_ends() -> None:
    """Nobody has told it to; the parent does not wait for it."""
    code = (
        "from worker_jobs import answer, prepare; from infra.worker import Worker\n"
        "if __name__ == '__main__': w = Worker(answer, prepare, (3,)); w.wait_until_ready(60); print(w.pid)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[3]}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert not psutil.pid_exists(int(done.stdout))


def test_one_that_is_killed_while_it_answers_has_ended(worker: Worker) -> None:
    """Half a message is there, and the rest will never come."""
    worker.ask("large")
    assert worker.connection.poll(30.0)
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerEnded):
        worker.receive()
    worker.end()
    assert not worker.is_alive


def test_one_that_stands_still_while_it_answers_has_ended(worker: Worker) -> None:
    """It is not dead, and yet nobody waits for it."""
    worker.ask("large")
    assert worker.connection.poll(30.0)
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(WorkerEnded):
        worker.receive()


def test_one_that_is_dead_is_asked_in_vain(worker: Worker) -> None:
    """It is told by an error, not by a signal to us."""
    os.kill(worker.pid, signal.SIGKILL)
    worker._process.join(10)
    with pytest.raises(WorkerEnded):
        ask(worker, 5)


def test_others_that_are_started_later_do_not_hold_its_pipe(worker: Worker) -> None:
    """Else its end would not be seen while they live."""
    later = Worker(answer, prepare, (4,))
    later.wait_until_ready(60.0)
    worker.ask("large")
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerEnded):
        worker.receive()
    assert ask(later, 5) == 20
    later.end()


def test_one_that_cannot_prepare_does_not_get_ready() -> None:
    """It ends."""
    made = Worker(answer, prepare, ("no number",))
    with pytest.raises(WorkerEnded):
        made.wait_until_ready(60.0)
    made.end()
