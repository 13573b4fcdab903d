"""One worker process and the pipe that is its own: whoever kills it, the other end sees it at once.

The pools of `concurrent.futures` share one pipe for all results. A process that is killed while it writes leaves half
a message there, and the reader waits for the rest for ever: a stage that hangs [seen, by `kill -9`]. Here the pipe
ends with its process, and what happens to one is no other's affair.
"""

import atexit
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Final

from infra import children

#: To import what is asked for, models among it, on a machine that does much else.
START_SECONDS: Final = 120.0
#: For the rest of a message of which a part is there: a process that stands still in the midst of it is lost too.
MESSAGE_SECONDS: Final = 10.0
#: Until one that was killed is reaped: longer only where the kernel holds it, and then nobody waits.
REAP_SECONDS: Final = 5.0


class WorkerEnded(Exception):
    """The process is gone, or has stopped in the midst of a message."""


class Worker:
    """A process that answers, one question after the other.

    spawn, not fork: a fork would share librdkafka's and Cassandra's threads and sockets.

    Parameters
    ----------
    serve : callable
        Importable; takes a question. What it raises is its answer.
    prepare : callable
        Importable; called first in the process, with `arguments`.
    arguments : tuple
        For `prepare`.

    Attributes
    ----------
    connection : Connection
        For `multiprocessing.connection.wait`: there is an answer, or the process has ended.
    pid : int
        Its process id.
    """

    def __init__(
        self, serve: Callable[[Any], Any], prepare: Callable[..., None], arguments: tuple[Any, ...] = ()
    ) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        _limit_waiting(self.connection)
        # Not daemonic: those may have no processes of their own, and pixels are searched in one.
        self._process = context.Process(target=_main, args=(theirs, os.getpid(), serve, prepare, arguments))
        self._process.start()
        theirs.close()  # else its end would never be seen
        self.pid = self._process.pid or 0
        atexit.register(self.end)  # before multiprocessing waits for it

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.is_alive()

    def wait_until_ready(self, seconds: float = START_SECONDS) -> None:
        """Return once the process has prepared itself; raise `WorkerEnded`, or `TimeoutError` after a while."""
        if not self.connection.poll(seconds):
            raise TimeoutError
        self.receive()

    def ask(self, question: Any) -> None:
        """Send a question; raise `WorkerEnded` where nobody takes it."""
        try:
            self.connection.send(question)
        except OSError as error:
            raise WorkerEnded from error

    def receive(self) -> Any:
        """Return the answer, or the error that `serve` raised; raise `WorkerEnded` where none comes any more."""
        try:
            return self.connection.recv()
        except (OSError, EOFError) as error:
            raise WorkerEnded from error
        except (
            Exception
        ) as error:  # an error of a library may be one that cannot be read back: then this one says so
            return error

    def end(self) -> None:
        """Kill the process."""
        atexit.unregister(self.end)
        self._process.kill()
        self._process.join(REAP_SECONDS)
        self.connection.close()


def _limit_waiting(connection: Connection) -> None:
    seconds = struct.pack("@ll", int(MESSAGE_SECONDS), 0)
    with socket.socket(fileno=os.dup(connection.fileno())) as end:  # the same socket by another number
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)


def _main(
    connection: Connection,
    parent: int,
    serve: Callable[[Any], Any],
    prepare: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    children.end_with(parent)
    prepare(*arguments)
    connection.send(None)
    with suppress(EOFError):
        while True:
            answer = _answer(serve, connection.recv())
            try:
                connection.send(answer)
            except Exception as error:  # nothing was written yet: a lambda in it, an open file
                connection.send(RuntimeError(f"an answer that cannot be sent: {type(error).__name__}"))


def _answer(serve: Callable[[Any], Any], question: Any) -> Any:
    try:
        return serve(question)
    except Exception as error:
        return error
