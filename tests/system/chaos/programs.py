"""The programs of a running system, to be killed, stopped, held, multiplied, and started otherwise.

1. `pid`, `kill`, `held`, `stopped` act on what the supervisor runs.
2. `Actor` is a role as a process of the test's own, started as the supervisor would, with what a test adds:
   more of one role, another clock, a plug (`plugs`).
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from house import CHECKOUT, House, eventually

from commands.stack import layout
from infra.connections import cassandra_of, kafka_of
from infra.stack import processes, ready
from infra.stack.lifecycle import status
from infra.stack.ports import is_free
from infra.stack.supervise import Supervisor, connect

PLUG = Path(__file__).with_name("plug")
#: Restarts of the slowest part on a busy machine.
PATIENCE = 240.0


def supervisor(house: House) -> Supervisor:
    """The running system's."""
    found = connect(layout(house.settings))
    assert found is not None
    return found


def pid(house: House, program: str) -> int | None:
    """The process of a program now; None while it is down."""
    return next(row.pid for row in status(layout(house.settings)) if row.name == program)


def await_running(house: House, program: str) -> None:
    """Wait until it has been up for a while: who dies sooner is started again after a longer pause each time."""
    states = lambda: {row.name: row.state for row in status(layout(house.settings))}  # noqa: E731
    eventually(lambda: states()[program] == "running", f"{program} running", PATIENCE)


def children(house: House, program: str) -> list[int]:
    """The processes that a program has started."""
    at = pid(house, program)
    return [row.pid for row in processes.tree(at, processes.table()) if row.pid != at] if at else []


def deaths(house: House) -> dict[str, int]:
    """How often each program ended without being told to."""
    return supervisor(house).deaths()


def kill(house: House, program: str) -> None:
    """Kill a program that runs, and wait until another process of it has begun."""
    at = eventually(lambda: pid(house, program), f"process of {program}", PATIENCE)
    os.kill(at, signal.SIGKILL)
    eventually(lambda: pid(house, program) not in (None, at), f"restart of {program}", PATIENCE)


def is_ready(house: House, program: str) -> bool:
    """Whether a program answers for itself."""
    if program.startswith("kafka"):
        return ready.kafka_answers(kafka_of(house.settings.trusted), house.settings.stack.nodes)
    if program.startswith("cassandra"):
        return ready.cassandra_answers(cassandra_of(house.settings.trusted))
    port = json.loads(layout(house.settings).state.read_text())["ports"][f"metrics:{program}"]
    return ready.role_answers(program, port)


def await_ready(house: House, programs: Sequence[str]) -> None:
    """Wait until these do their work."""
    for program in programs:
        eventually(lambda program=program: is_ready(house, program), f"{program} ready", PATIENCE)


@contextmanager
def held(house: House, program: str) -> Iterator[None]:
    """Hold a program: it is there, and answers nobody."""
    at = pid(house, program)
    assert at is not None
    os.kill(at, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(at, signal.SIGCONT)


@contextmanager
def away(house: House, program: str) -> Iterator[None]:
    """Kill a program and keep it from coming back; it is started again, and ready, behind it."""
    os.kill(eventually(lambda: pid(house, program), f"process of {program}", PATIENCE), signal.SIGKILL)
    with stopped(house, program):
        yield


@contextmanager
def stopped(house: House, *programs: str) -> Iterator[None]:
    """Stop programs; they are started again, and ready, behind it."""
    supervisor(house).stop(list(programs))
    try:
        yield
    finally:
        supervisor(house).start(programs)
        await_ready(house, programs)


class Actor:
    """A role as a process of its own.

    Parameters
    ----------
    house : House
        Whose role it is; its settings are those of the supervisor's process of that role.
    role : str
        Its name.
    plug : str
        A function of `plugs` that changes it, or nothing.
    environment : mapping
        What else it is told.
    """

    _count = 0

    def __init__(
        self, house: House, role: str, plug: str = "", environment: Mapping[str, str] | None = None
    ) -> None:
        launch = json.loads((layout(house.settings).run / f"{role}.json").read_text())
        outside = {name: text for name, text in os.environ.items() if not name.startswith("PRODROME_")}
        Actor._count += 1
        self.role, self.name = role, f"{role}-actor{Actor._count}"
        self.port = next(p for p in range(29300 + 2 * Actor._count, 29999) if is_free(p))
        added = {
            "PRODROME_ROLE_METRICS_PORT": str(self.port), "CHAOS_PLUG": plug,
            "PRODROME_ROLE_CONFINE": "off",  # what a test brings lies outside of what a role may read
            "PYTHONPATH": f"{CHECKOUT}:{PLUG}", processes.MARK: str(house.home), "SPT_NOENV": "1",
        }  # fmt: skip
        environ = {**outside, **launch["env"], **added, **(environment or {})}
        with (house.home / "logs" / f"{self.name}.log").open("wb") as log:
            self.process = subprocess.Popen(
                launch["command"], env=environ, cwd=CHECKOUT, stdout=log, stderr=log, start_new_session=True
            )

    def await_ready(self) -> "Actor":
        """Wait until it does its work."""
        eventually(lambda: ready.role_answers(self.role, self.port), f"{self.name} ready", PATIENCE)
        return self

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Tell it to end; one that does not is killed."""
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.kill()
