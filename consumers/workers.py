"""Worker processes that may die: jobs run beside each other, and one that kills its worker is found.

1. Before jobs start, a small file names them (the journal).
2. They run in a pool of processes. If a worker dies or the batch is over its budget, the pool is ended.
3. What is not done then runs alone, one job a fresh process; a job that dies alone is counted in the journal.
4. The third time it is answered with `crashed_worker` (or `over_budget`) instead of being run again.

If the whole role died, the journal says at the next start which job ran alone; it is counted too. Workers die
with their parent. This module does not know what a job does.
"""

import ctypes
import json
import logging
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, NamedTuple

from schemas.errors import BadMessage

log = logging.getLogger(__name__)

#: Time for a job: start-up of a worker and a slow disk, then a rate that a loaded core keeps.
BUDGET_SECONDS: Final = 10.0
BUDGET_BYTES_PER_SECOND: Final = 20e6
CRASHES: Final = 3
_PR_SET_PDEATHSIG: Final = 1


class Job(NamedTuple):
    """One piece of work: its name in the journal, its argument, its size in bytes for the budget."""

    name: str
    argument: Any
    length: int


class Workers:
    """A pool of processes that all run one function.

    Parameters
    ----------
    function : callable
        Importable; takes a job's argument. What it raises is returned as the job's result.
    setup : callable
        Importable; called once in each worker with `setup_arguments`.
    count : int
        Processes.
    journal : Path
        The small file.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        setup: Callable[..., None],
        setup_arguments: tuple[Any, ...],
        count: int,
        journal: Path,
    ) -> None:
        self._function = function
        self._setup = (setup, setup_arguments)
        self._count = count
        self._journal = journal
        self._crashes, self._suspects = self._read_journal()
        self._pool: ProcessPoolExecutor | None = None

    def run(self, jobs: Sequence[Job]) -> list[Any]:
        """Run all jobs and return their results in order; an exception of a job is its result."""
        results: dict[int, Any] = {}
        together = [i for i, job in enumerate(jobs) if job.name not in self._suspects]
        self._write_journal([jobs[i].name for i in together], alone=False)
        self._run_together(jobs, together, results)
        for i, job in enumerate(jobs):
            if i not in results:
                results[i] = self._run_alone(job)
        return [results[i] for i in range(len(jobs))]

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            _kill(self._pool)
            self._pool = None

    def _run_together(self, jobs: Sequence[Job], which: list[int], results: dict[int, Any]) -> None:
        if not which:
            return
        if self._pool is None:
            self._pool = self._new_pool(self._count)
        try:
            futures = {i: self._pool.submit(self._function, jobs[i].argument) for i in which}
            budget = sum(_budget(jobs[i]) for i in which)
            for i, future in futures.items():
                results[i] = _result(future, budget)
        except (BrokenProcessPool, TimeoutError):
            log.error("a worker died or hung with %d jobs in work; they run one by one now", len(which))
            self.close()

    def _run_alone(self, job: Job) -> Any:
        reason = "crashed_worker"
        while self._crashes.get(job.name, 0) < CRASHES:
            self._write_journal([job.name], alone=True)
            pool = self._new_pool(1)
            try:
                result = _result(pool.submit(self._function, job.argument), _budget(job))
                self._forget(job.name)
                return result
            except BrokenProcessPool:
                reason = "crashed_worker"
            except TimeoutError:
                reason = "over_budget"
            finally:
                _kill(pool)
            self._crashes[job.name] = self._crashes.get(job.name, 0) + 1
            log.error("job %s: %s, time %d of %d", job.name, reason, self._crashes[job.name], CRASHES)
        self._forget(job.name)
        return BadMessage(reason, f"{CRASHES} times, each alone in its worker")

    def _new_pool(self, count: int) -> ProcessPoolExecutor:
        # spawn: a fork would share librdkafka's and Cassandra's threads and sockets.
        return ProcessPoolExecutor(
            count, mp_context=get_context("spawn"), initializer=_start, initargs=(os.getpid(), *self._setup)
        )

    def _read_journal(self) -> tuple[dict[str, int], set[str]]:
        try:
            found = json.loads(self._journal.read_text())
        except (OSError, ValueError):
            return {}, set()
        crashes = dict(found["crashes"])
        if found["alone"]:
            for name in found["jobs"]:
                crashes[name] = crashes.get(name, 0) + 1
        return crashes, set(found["jobs"]) | set(crashes)

    def _write_journal(self, names: list[str], *, alone: bool) -> None:
        self._journal.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"jobs": names, "alone": alone, "crashes": self._crashes})
        beside = self._journal.with_suffix(".new")
        beside.write_text(text)
        beside.replace(self._journal)

    def _forget(self, name: str) -> None:
        self._crashes.pop(name, None)
        self._suspects.discard(name)


def _budget(job: Job) -> float:
    return BUDGET_SECONDS + job.length / BUDGET_BYTES_PER_SECOND


def _result(future: Future[Any], seconds: float) -> Any:
    try:
        return future.result(timeout=seconds)
    except (BrokenProcessPool, TimeoutError):
        raise
    except Exception as error:
        return error


def _kill(pool: ProcessPoolExecutor) -> None:
    for process in list((pool._processes or {}).values()):
        process.kill()
    pool.shutdown(wait=True, cancel_futures=True)


def _start(parent: int, setup: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # died before we asked
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends us
    setup(*arguments)
