"""Several listener processes: one socket that all accept on, and a spool each.

1. The first process listens and starts the others, each with the same settings; a spool has one writer, so the n-th
   process writes to the sub-folder n of the first one's.
2. Caps hold over all of them (`slots`), and whoever has fewer connections accepts first.
3. The others tell the first one their metrics, which serves them beside its own, labelled with the process.
4. One that dies is started again; all end with the first, gracefully where that is asked to.

Python runs one thread at a time in a process: a second one pays from about ten associations that send at once on.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Final

from infra import children, logs, metrics
from infra.settings import Settings, sources
from infra.spool import Spool, SpoolLimits, files
from producers.receiver.door import STOP_SECONDS
from producers.receiver.server import listen, serve
from producers.receiver.slots import Slots

_log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 1.0


def serve_all(found: Settings, stop: threading.Event, *, ready: Callable[[int], None] | None = None) -> None:
    """Receive in as many processes as the settings say until `stop` is set.

    Parameters
    ----------
    found : Settings
        `receive` and `spool`.
    stop : threading.Event
        Ends all of them.
    ready : callable
        Called with the port once the socket listens.

    Raises
    ------
    SettingsError
        As `server.serve`, or another receiver writes to a spool.
    """
    count = found.receive.processes or os.cpu_count() or 1
    folder = Path(found.spool.path)
    with (
        contextlib.closing(_spool(found, 1, count)) as spool,
        contextlib.closing(listen(found.receive)) as listening,
    ):
        _seal_spools(found, folder, count)
        slots = Slots(folder, sources(found), 1, count)
        others = [_Other(found, number, count, listening) for number in range(2, count + 1)]
        keeper = threading.Thread(target=_keep, args=(others, stop))
        keeper.start()
        try:
            serve(found.receive, sources(found), spool, stop, ready=ready, listening=listening, slots=slots)
        finally:
            stop.set()
            keeper.join()


class _Other:
    """One further process, as the first one sees it."""

    def __init__(self, found: Settings, number: int, count: int, listening: socket.socket) -> None:
        self._arguments = (found, number, count, listening)
        self._number = number
        self._process: SpawnProcess | None = None
        self._says: Connection | None = None

    def start(self) -> None:
        """Start it, or start it anew."""
        context = multiprocessing.get_context("spawn")  # a fork would share this process' locks and threads
        self._says, tells = context.Pipe(duplex=False)
        arguments = (os.getpid(), tells, *self._arguments)
        self._process = context.Process(target=_serve_beside, args=arguments, daemon=True)
        self._process.start()
        tells.close()

    def look(self) -> None:
        """Take what it says, and start it anew where it died."""
        if self._process is None or self._process.exitcode is not None:
            if self._process is not None:
                _log.error("listener process %d ended with %s", self._number, self._process.exitcode)
            self.start()
        with contextlib.suppress(EOFError, OSError):
            while self._says is not None and self._says.poll():
                metrics.put_beside(str(self._number), self._says.recv_bytes())

    def ask_to_stop(self) -> None:
        """Let it end gracefully."""
        if self._process is not None:
            self._process.terminate()

    def join(self) -> None:
        """Wait until it has ended; kill it where that takes longer than it may."""
        if self._process is not None:
            self._process.join(STOP_SECONDS + 5)
            self._process.kill()
            self._process.join()


def _keep(others: list[_Other], stop: threading.Event) -> None:
    # A thread of the first process starts the others, and they die with the thread that started them: it stays.
    while not stop.is_set():
        for other in others:
            other.look()
        stop.wait(_LOOK_SECONDS)
    for other in others:
        other.ask_to_stop()
    for other in others:
        other.join()


def _serve_beside(
    parent: int, tells: Any, found: Settings, number: int, count: int, listening: socket.socket
) -> None:
    """Receive in this process until it is told to stop."""
    children.end_with(parent)
    logs.setup(f"receive-{number}", found.role.log_level)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    slots = Slots(Path(found.spool.path), sources(found), number, count)
    with contextlib.closing(_spool(found, number, count)) as spool:
        serve(
            found.receive,
            sources(found),
            spool,
            stop,
            listening=listening,
            slots=slots,
            tick=lambda: tells.send_bytes(metrics.snapshot()),
        )


def _spool(found: Settings, number: int, count: int) -> Spool:
    """Return the spool of a process, recovered and ready to write; space is shared out evenly."""
    limits = SpoolLimits(
        segment_bytes=found.spool.segment_bytes, limit_bytes=found.spool.limit_bytes // count
    )
    return Spool(files.process_folder(Path(found.spool.path), number), limits)


def _seal_spools(found: Settings, folder: Path, count: int) -> None:
    """Bring spools of processes that there are no more into order, so that they are relayed and freed to their end."""
    for spool in files.spools(folder)[1:]:
        if (number := int(spool.name)) > count:
            _spool(found, number, count).close()
