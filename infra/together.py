"""A few things at once: steps that wait for a server more than they compute."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Together:
    """Runs a step for many items on threads of its own.

    Parameters
    ----------
    name : str
        Of the threads.
    size : int
        How many there are at most; they are started when they are needed.
    """

    def __init__(self, name: str, size: int) -> None:
        self._threads = ThreadPoolExecutor(size, thread_name_prefix=name)

    def __call__(self, step: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return what the step makes of each, in order.

        It returns, or raises the first error, when every step has ended: nothing goes on behind the caller.
        """
        some = list(items)
        if len(some) < 2:
            return [step(item) for item in some]
        futures = [self._threads.submit(step, item) for item in some]
        wait(futures)
        return [future.result() for future in futures]
