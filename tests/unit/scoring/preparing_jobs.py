"""Preparations that go wrong for the task named `poisoned`; importable, so that real processes can run them."""

import os
import time

from consumers.preparing import Result, Task, _prepare
from schemas.errors import SlowDown


class poison:  # noqa: N801  a namespace
    """One a kind."""

    @staticmethod
    def crash(task: Task) -> Result:
        """Die as a decoder dies of a bad file."""
        if task.name == "poisoned":
            os.kill(os.getpid(), 11)
        return _prepare(task)

    @staticmethod
    def hang(task: Task) -> Result:
        """Never come back."""
        if task.name == "poisoned":
            time.sleep(3600)
        return _prepare(task)

    @staticmethod
    def greed(task: Task) -> Result:
        """Ask for a terabyte."""
        if task.name == "poisoned":
            bytearray(1 << 40)
        return _prepare(task)

    @staticmethod
    def away(task: Task) -> Result:
        """Find no store."""
        if task.name == "poisoned":
            raise SlowDown("the store is away")
        return _prepare(task)
