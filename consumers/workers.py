"""Worker processes that may die: jobs run beside each other, and one that kills its worker is found.

1. Before jobs start, a small file names them (the journal).
2. They run in some processes (`infra.worker`), a share at a time. Where one dies or is over its budget, its share is
   left; the others go on.
3. What is left then runs alone, one job after the other; a job that dies alone is counted in the journal,
   and a fresh process goes on. For one that hangs alone, the time when it hung among others counts too.
4. The third time it is answered with `crashed_worker` (or `over_budget`) instead of being run again.

If the whole role died, the journal says at the next start which job ran alone; it is counted too. Workers die
with their parent. This module does not know what a job does.
"""

import fcntl
import itertools
import json
import logging
import os
import resource
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Final, NamedTuple

from infra.worker import Worker, WorkerEnded
from schemas.errors import BadMessage, SlowDown

log = logging.getLogger(__name__)

#: Time for a job: start-up of a worker and a slow disk, then a rate that a loaded core keeps.
BUDGET_SECONDS: Final = 10.0
BUDGET_BYTES_PER_SECOND: Final = 20e6
CRASHES: Final = 3
#: Jobs that go to a worker together: the way there and back costs about as much as half a small image.
SHARE_JOBS: Final = 16


class Job(NamedTuple):
    """One piece of work: its name in the journal, its argument, its size in bytes for the budget.

    `waits` are seconds that it may wait for another machine; they are added to the budget.
    """

    name: str
    argument: Any
    length: int
    waits: float = 0.0


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
    expect : callable, optional
        Importable; told in a worker the arguments of the jobs that it is about to run, to begin what takes a while.
    memory : int, optional
        Bytes that one process may use for its data; what asks for more gets a MemoryError, or dies.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        setup: Callable[..., None],
        setup_arguments: tuple[Any, ...],
        count: int,
        journal: Path,
        expect: Callable[[list[Any]], None] | None = None,
        memory: int | None = None,
    ) -> None:
        self._prepare = partial(_prepare, function, expect, memory, setup, setup_arguments)
        self._count = count
        self._journal = journal
        self._crashes, self._suspects = self._read_journal()
        self._hung: set[str] = set()
        self._workers: list[Worker] = []

    def run(self, jobs: Sequence[Job]) -> list[Any]:
        """Run all jobs and return their results in order; an exception of a job is its result."""
        results: dict[int, Any] = {}
        together = [i for i, job in enumerate(jobs) if job.name not in self._suspects]
        self._write_journal([jobs[i].name for i in together], alone=False)
        try:
            self._run_together(jobs, together, results)
            for i, job in enumerate(jobs):
                if i not in results:
                    results[i] = self._run_alone(job)
        except BaseException:
            self.close()  # whoever has jobs in work would answer the next question with them
            raise
        self._write_journal([], alone=False)  # what ends the role from here on was none of these
        return [results[i] for i in range(len(jobs))]

    def close(self) -> None:
        """End the workers."""
        while self._workers:
            self._workers.pop().end()

    def _run_together(self, jobs: Sequence[Job], which: list[int], results: dict[int, Any]) -> None:
        shares = deque(_shares(which, self._count))
        free = list(self._up(self._count)) if shares else []
        busy: dict[Any, _Share] = {}  # by connection
        while busy or shares:
            if not busy and not free:
                free = list(self._up(self._count))
            while free and shares:
                worker, some = free.pop(), shares.popleft()
                share = _Share(worker, some, time.monotonic() + _budget([jobs[i] for i in some]))
                try:
                    worker.ask([jobs[i].argument for i in some])
                except WorkerEnded:
                    self._lose(share, "died")
                else:
                    busy[worker.connection] = share
            first = min((share.deadline for share in busy.values()), default=0.0)
            for connection in wait(list(busy), max(0.0, first - time.monotonic())):
                share = busy.pop(connection)
                try:
                    found = share.worker.receive()
                except WorkerEnded:
                    self._lose(share, "died")
                    continue
                free.append(share.worker)
                if isinstance(found, list):  # else something in it could not be sent back: alone, then
                    results.update(zip(share.jobs, found, strict=True))
            for share in [share for share in busy.values() if share.deadline <= time.monotonic()]:
                del busy[share.worker.connection]
                self._hung |= {jobs[i].name for i in share.jobs}
                self._lose(share, "hung")

    def _lose(self, share: "_Share", how: str) -> None:
        log.error("a worker %s with %d jobs; they run one by one now", how, len(share.jobs))
        self._end(share.worker)

    def _run_alone(self, job: Job) -> Any:
        reason = "crashed_worker"
        while self._crashes.get(job.name, 0) < CRASHES:
            self._write_journal([job.name], alone=True)
            worker = self._up(1)[0]
            try:
                worker.ask([job.argument])
                if worker.connection.poll(_budget([job])):
                    found = worker.receive()
                    self._forget(job.name)
                    return found[0] if isinstance(found, list) else found
                reason = "over_budget"
            except WorkerEnded:
                reason = "crashed_worker"
            self._end(worker)
            # That its share hung was the first time, then: nobody waits longer than three budgets.
            shared = reason == "over_budget" and job.name in self._hung
            self._hung.discard(job.name)
            self._crashes[job.name] = self._crashes.get(job.name, 0) + 1 + shared
            log.error("job %s: %s, time %d of %d", job.name, reason, self._crashes[job.name], CRASHES)
        self._forget(job.name)
        return BadMessage(reason, f"{CRASHES} times in its worker")

    def _up(self, count: int) -> list[Worker]:
        """Return the workers, at least so many; raise `SlowDown` where one does not start."""
        for worker in [worker for worker in self._workers if not worker.is_alive]:
            self._end(worker)
        old = len(self._workers)
        try:
            for _ in range(count - old):
                self._workers.append(Worker(_call_each, self._prepare))
            for worker in self._workers[old:]:  # budgets are for work: they begin when the workers are up
                worker.wait_until_ready()
        except (WorkerEnded, OSError) as error:  # a TimeoutError too
            for worker in self._workers[old:]:
                self._end(worker)
            raise SlowDown(f"workers do not start: {type(error).__name__}") from None
        return self._workers

    def _end(self, worker: Worker) -> None:
        self._workers.remove(worker)
        worker.end()

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
        self._hung.discard(name)


def _shares(which: list[int], workers: int) -> Iterator[list[int]]:
    """Yield jobs in shares: large enough to pay for the way to a worker and back, small enough to even out."""
    size = max(1, min(SHARE_JOBS, len(which) // (2 * workers)))
    return (which[start : start + size] for start in range(0, len(which), size))


def _budget(jobs: Sequence[Job]) -> float:
    """Return the seconds for jobs that one worker does one after the other."""
    rate = sum(job.length for job in jobs) / BUDGET_BYTES_PER_SECOND
    return BUDGET_SECONDS + rate + max(job.waits for job in jobs)


def own_journal(folder: Path, name: str) -> Path:
    """Return the first journal `name`, `name-2`... that no other process of this machine has; it is ours from now.

    The claim is a lock that ends with the process, so that the next start takes the same one.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = folder / (f"{name}.json" if number == 1 else f"{name}-{number}.json")
        descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        return path
    raise AssertionError("the numbers do not end")


class _Share(NamedTuple):
    """Jobs that one worker has in work, and when they should have ended."""

    worker: Worker
    jobs: list[int]
    deadline: float


class _Served(NamedTuple):
    """What a worker process was made for; `setup` is called by the first job."""

    function: Callable[[Any], Any]
    expect: Callable[[list[Any]], None] | None
    setup: Callable[[], None]


def _prepare(
    function: Callable[[Any], Any],
    expect: Callable[[list[Any]], None] | None,
    memory: int | None,
    setup: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    global _served
    _served = _Served(function, expect, partial(setup, *arguments))


def _call_each(arguments: list[Any]) -> list[Any]:
    function, expect, _ = _served
    if expect is not None:
        with suppress(Exception):  # what it could not begin is each job's own affair
            _call(expect, arguments)
    results = []
    for argument in arguments:
        try:
            results.append(_call(function, argument))
        except Exception as error:  # of one job: its result
            results.append(error)
    return results


def _call(function: Callable[[Any], Any], argument: Any) -> Any:
    # Set up by the first job, so that a set-up that fails (a store is down) is that job's error, not a death,
    # and the next job tries again.
    global _is_set_up
    if not _is_set_up:
        _served.setup()
        _is_set_up = True
    return function(argument)


_served: _Served
_is_set_up = False
