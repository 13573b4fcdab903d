"""Wait until a part or a role does its work, and say what went wrong when it does not.

An open port says little: Kafka listens before it has a leader. So each is asked for an answer. The clients
are imported where they are used: `status` and `down` need neither.
"""

import http.client
import socket
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from infra.connections import CassandraConnection, KafkaConnection
from infra.stack.layout import LOOPBACK, Layout, StackError
from infra.stack.supervise import Supervisor
from schemas.errors import SlowDown

#: Ready after 3 to 5 s here; ten times that for a busy machine with a log to recover.
KAFKA_SECONDS: Final = 90.0
#: Ready after 12 s here; longer when up to 256 MiB of commit log are replayed.
CASSANDRA_SECONDS: Final = 180.0
#: A role imports, connects, and warms its models up.
ROLE_SECONDS: Final = 120.0
#: A program that died this often while we waited will not come up by waiting.
_HOPELESS: Final = 4
_TAIL: Final = 12


@dataclass(frozen=True)
class Awaited:
    """A program, how to ask whether it is ready, and for how long."""

    name: str
    answers: Callable[[], bool]
    seconds: float


def wait(layout: Layout, supervisor: Supervisor, awaited: Awaited) -> None:
    """Return when the program is ready.

    Raises
    ------
    StackError
        Past the deadline, or when it keeps dying; with the last lines of its log.
    """
    before = supervisor.deaths().get(awaited.name, 0)
    deadline = time.monotonic() + awaited.seconds
    while not awaited.answers():
        if supervisor.deaths().get(awaited.name, 0) - before >= _HOPELESS:
            raise StackError(_explain(layout, awaited.name, f"died {_HOPELESS} times"))
        if time.monotonic() > deadline:
            raise StackError(_explain(layout, awaited.name, f"is not ready after {awaited.seconds:.0f} s"))
        time.sleep(0.2)


def kafka_answers(kafka: KafkaConnection, brokers: int = 1) -> bool:
    """True if so many brokers are there, let us in and list their topics: a stranger's on our port does not."""
    from infra.kafka import wait_ready

    try:
        # Long enough for a broker under load, short enough to notice one that comes up.
        wait_ready(kafka, 0, brokers)
    except SlowDown:
        return False
    return True


def cassandra_answers(cassandra: CassandraConnection) -> bool:
    """True if a node lets us in and answers a query: a stranger's on our port does not."""
    from infra.cassandra import wait_ready

    places = [place.rpartition(":") for place in cassandra.servers.split(",")]
    if not all(
        listens(host, int(port)) for host, _, port in places
    ):  # the driver would log a warning each time
        return False
    try:
        wait_ready(cassandra, 0)
    except SlowDown:
        return False
    return True


def role_answers(name: str, port: int) -> bool:
    """True if the role says of itself that it is ready."""
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/metrics", timeout=2) as answer:
            lines = answer.read().decode(errors="replace").splitlines()
    except (OSError, http.client.HTTPException):
        return False
    return f'prodrome_role_ready{{role="{name}"}} 1.0' in lines


def answers_ok(port: int, path: str) -> bool:
    """True if a server that is not ours answers this path with 200."""
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}{path}", timeout=2) as answer:
            return bool(answer.status == http.HTTPStatus.OK)
    except (OSError, http.client.HTTPException):
        return False


def listens(host: str, port: int) -> bool:
    """True if somebody listens there: a Cassandra node does once it has joined its cluster."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def _explain(layout: Layout, name: str, what: str) -> str:
    log = layout.log(name)
    try:
        lines = log.read_text(errors="replace").splitlines()[-_TAIL:]
    except FileNotFoundError:
        lines = ["(it wrote nothing)"]
    return "\n  ".join([f"{name} {what}; its log is {log}, which ends:", *lines])
