"""Waiting instead of polling: pynetdicom's two threads an association sleep until there is something to do.

As they come, both look at their queues and the socket a thousand times a second. Here

1. the provider's thread waits for what is due next: for an answer, where one is owed, else for the peer, and
   while the association is established `takeover` reads what that sends;
2. the association's thread waits until something was put into one of its queues.

Nothing is handled here, and each wait is bounded by `LOOK_SECONDS`, so that a kill, a time-out or an abort is
noticed as well. The names used are private to pynetdicom, which is pinned; a test notices when they change.
"""

import queue
import select
import threading
import time
from collections.abc import Callable
from typing import Any, Final

#: How late a kill, a time-out or an abort of ours may be noticed; a store is never that late.
LOOK_SECONDS: Final = 0.25
#: For a peer to close a connection that was aborted; what it still sends until then is read and forgotten.
CLOSING_SECONDS: Final = 1.0
#: States of the upper layer (PS3.8 9.2) in which the next move is ours, not the peer's.
_OURS: Final = {"Sta3", "Sta8"}
_ESTABLISHED: Final = "Sta6"
_CLOSING: Final = "Sta13"


def wait_for_events(assoc: Any, established: Callable[[], bool]) -> None:
    """Let both threads of an association wait; called before it starts.

    Parameters
    ----------
    assoc : pynetdicom Association
        Of the pinned version: `takeover.fits` says so.
    established : callable
        Reads while the association is established; returns whether an event was queued.
    """
    told = threading.Event()
    assoc.dul.to_user_queue = _Telling(told)
    assoc.dimse.msg_queue = _Telling(told)
    assoc._reactor_checkpoint = _Checkpoint(told)
    assoc.dul._is_transport_event = _Provider(assoc, established).is_transport_event


class _Telling(queue.Queue[Any]):
    """A queue that says so when something was put into it, and counts."""

    def __init__(self, told: threading.Event) -> None:
        super().__init__()
        self._told = told
        self.count = 0

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put, then tell."""
        super().put(item, block, timeout)
        self.count += 1
        self._told.set()


class _Checkpoint(threading.Event):
    """Where the association's thread passes in each of its rounds: here it waits for the next reason for one."""

    def __init__(self, told: threading.Event) -> None:
        super().__init__()
        self.set()
        self.idle = False
        self._told = told

    def wait(self, timeout: float | None = None) -> bool:
        """Return when something was told, or after a while; and not while the round is held up."""
        self.idle = True
        self._told.wait(LOOK_SECONDS)
        self._told.clear()  # what was put before is in its queue, and looked at now
        self.idle = False
        return super().wait(timeout)


class _Provider:
    """The provider thread's look at what comes next."""

    def __init__(self, assoc: Any, established: Callable[[], bool]) -> None:
        self._assoc, self._dul, self._established = assoc, assoc.dul, established
        self._look = assoc.dul._is_transport_event
        self._answered = 0

    def is_transport_event(self) -> bool:
        """Wait, then look as pynetdicom does; True where there is an event."""
        state = self._dul.state_machine.current_state
        if state == _ESTABLISHED:
            return self._in_association()
        if state in _OURS:
            if self._answer_comes():
                return bool(self._dul._process_recv_primitive())
        elif state == _CLOSING:
            self._dul.artim_timer.timeout = CLOSING_SECONDS
        else:
            self._wait_for_socket()
        return bool(self._look())

    def _in_association(self) -> bool:
        if self._assoc.dimse.msg_queue.count > self._answered:
            if not self._answer_comes():
                return False
            self._answered += 1
            return bool(self._dul._process_recv_primitive())
        if not self._assoc.is_established:  # accepted, and the other thread is about to say so
            time.sleep(0.001)
            return False
        return self._established()

    def _answer_comes(self) -> bool:
        answers = self._dul.to_provider_queue
        with answers.not_empty:
            if not answers.queue:
                answers.not_empty.wait(LOOK_SECONDS)
            if answers.queue:
                return True
        messages = self._assoc.dimse.msg_queue
        if self._assoc._reactor_checkpoint.idle and not messages.queue:
            self._answered = messages.count  # a message that pynetdicom drops has no answer
        return False

    def _wait_for_socket(self) -> None:
        sock = self._dul.socket.socket if self._dul.socket else None
        if (
            sock is None or getattr(sock, "pending", int)()
        ):  # TLS may hold bytes that the socket does not show
            return
        try:
            select.select([sock], [], [], LOOK_SECONDS)
        except (OSError, ValueError):
            return  # closed meanwhile: pynetdicom's look finds out
