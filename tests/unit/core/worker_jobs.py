"""What the workers of test_workers.py and test_worker.py run; apart from it, so that a spawned process imports little.

Run as a program with the path of a journal, it is a parent whose worker tells its process id.
"""

import os
import signal
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from schemas.errors import BadMessage, SlowDown

_factor = 0


def setup(factor: int, broken: str = "") -> None:
    """Called once in each worker; fails as long as the file `broken` is there."""
    global _factor
    if broken and Path(broken).exists():
        raise SlowDown("the store is away")
    _factor = factor


def work(argument: Any) -> Any:
    """Multiply, or do what the word says."""
    if argument == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if argument == "hang":
        time.sleep(3600)
    if argument == "raise":
        raise BadMessage("raw_corrupt", "as told")
    if argument == "time out":
        raise TimeoutError
    if argument == "unsendable":
        raise RuntimeError(lambda: None)
    return os.getpid() if argument == "pid" else argument * _factor


class Unreadable(Exception):
    """Is sent, and cannot be made again on the other side."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


def prepare(factor: int) -> None:
    """Called first in a worker of test_worker.py."""
    global _factor
    _factor = factor + 0


def answer(question: Any) -> Any:
    """Multiply, or do what the word says."""
    if question == "raise":
        raise LookupError("as told")
    if question == "unreadable":
        raise Unreadable("one", "two")
    if question == "unsendable":
        return lambda: None
    if question == "child":
        child = get_context("spawn").Process(target=prepare, args=(1,))
        child.start()
        child.join()
        return child.exitcode
    return bytes(100_000_000) if question == "large" else question * _factor


if __name__ == "__main__":
    from worker_jobs import work as importable

    from consumers.workers import Job, Workers

    pool = Workers(importable, setup, (10,), 1, Path(sys.argv[1]))
    print(pool.run([Job("s/0/0", "pid", 0)])[0], flush=True)
    time.sleep(60)
