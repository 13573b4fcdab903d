"""Connections whose peers have not said yet who they are: bounded, whoever opens how many.

A sender says so within milliseconds. So at the bound the oldest connection of the address that has most goes: whoever
floods loses its own, and a sender from elsewhere gets in.
"""

import contextlib
import socket
import threading
from collections import Counter
from typing import Any, Final

#: Two threads each, and a socket.
MAX_STRANGERS: Final = 128


class Strangers:
    """Associations (pynetdicom's) that were not requested yet, oldest first; many threads come."""

    def __init__(self, limit: int = MAX_STRANGERS) -> None:
        self._limit = limit
        self._waiting: dict[Any, str] = {}
        self._lock = threading.Lock()

    def add(self, assoc: Any) -> None:
        """Count a new connection; another one ends where there are too many."""
        with self._lock:
            self._waiting[assoc] = assoc.requestor.address
            gone = self._drop() if len(self._waiting) > self._limit else None
        if gone is not None:
            _end(gone)

    def __len__(self) -> int:
        return len(self._waiting)

    def discard(self, assoc: Any) -> None:
        """It has said who it is, or is gone."""
        with self._lock:
            self._waiting.pop(assoc, None)

    def sweep(self) -> int:
        """Forget those that went without a word; return how many are left."""
        with self._lock:
            gone = [assoc for assoc in self._waiting if assoc.ident is not None and _closed(assoc)]
            for assoc in gone:
                del self._waiting[assoc]
            left = len(self._waiting)
        for assoc in gone:
            _end(assoc)
        return left

    def _drop(self) -> Any:
        ((most, _),) = Counter(self._waiting.values()).most_common(1)
        oldest = next(assoc for assoc, address in self._waiting.items() if address == most)
        del self._waiting[oldest]
        return oldest


def _closed(assoc: Any) -> bool:
    connection = assoc.dul.socket
    return not assoc.is_alive() or connection is None or connection.socket is None


def _end(assoc: Any) -> None:
    connection = assoc.dul.socket
    sock = connection.socket if connection is not None else None
    if sock is not None:
        with contextlib.suppress(OSError):  # closed meanwhile
            sock.shutdown(socket.SHUT_RDWR)
    assoc.dul.to_user_queue.put(None)  # as if it had waited in vain: both threads end, and clean up
