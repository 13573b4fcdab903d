"""Start supervisord and speak with it over its unix socket.

`start` starts the daemon, `connect` finds a running one, `Supervisor` is the connection. What it runs is
written by `configuration`; when a program is ready is known by `ready`.
"""

import http.client
import os
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable, Sequence
from typing import Any

from supervisor.xmlrpc import Faults, SupervisorTransport

from infra.stack import processes
from infra.stack.configuration import STOP_SECONDS, configuration_file, socket_path
from infra.stack.layout import Layout, StackError
from infra.stack.ports import read_state, write_state


def start(layout: Layout) -> "Supervisor":
    """Start the daemon, and with it the parts."""
    write_state(layout, socket=str(socket_path(layout)))
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration_file(layout))]
    environment = os.environ | {processes.MARK: str(layout.home)}
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
    )
    if done.returncode:
        raise StackError(f"supervisord does not start: {(done.stdout + done.stderr).strip()[-600:]}")
    # It listens before it becomes a daemon, so this is for a machine that is very busy.
    deadline = time.monotonic() + 10
    while (supervisor := connect(layout)) is None:
        if time.monotonic() > deadline:
            raise StackError(f"supervisord does not answer; see {layout.log('supervisord')}")
        time.sleep(0.05)
    return supervisor


def connect(layout: Layout) -> "Supervisor | None":
    """A connection to the stack's supervisord; None if there is none."""
    path = read_state(layout).get("socket")
    if path is None:
        return None
    supervisor = Supervisor(path)
    return supervisor if supervisor.answers() else None


class Supervisor:
    """A connection to a running supervisord."""

    def __init__(self, path: str) -> None:
        transport = SupervisorTransport(None, None, f"unix://{path}")
        # The address is a formality: the transport speaks over the socket.
        self._remote = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)

    def answers(self) -> bool:
        """True if it runs and is not about to end."""
        try:
            state: Any = self._remote.supervisor.getState()
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return False
        return bool(state["statename"] == "RUNNING")

    def pid(self) -> int:
        """The daemon's own process."""
        pid: Any = self._remote.supervisor.getPID()
        return int(pid)

    def programs(self) -> list[dict[str, Any]]:
        """What supervisord says of each program."""
        answer: Any = self._remote.supervisor.getAllProcessInfo()
        return list(answer)

    def deaths(self) -> dict[str, int]:
        """How often each program ended without being told to."""
        answer: Any = self._remote.prodrome.deaths()
        return dict(answer)

    def start(self, names: Iterable[str]) -> None:
        """Start programs; one that runs, or waits to be restarted, is left alone."""
        for name in names:
            self._call(self._remote.supervisor.startProcess, name, Faults.ALREADY_STARTED)

    def stop(self, names: Sequence[str]) -> None:
        """Stop programs, all at once, and wait until they have ended."""
        for name in names:
            self._call(self._remote.supervisor.stopProcess, name, Faults.NOT_RUNNING)
        # supervisord kills what is left after `STOP_SECONDS`; ten more for it to notice.
        deadline = time.monotonic() + STOP_SECONDS + 10
        while busy := [row["name"] for row in self.programs() if row["name"] in names and row["pid"]]:
            if time.monotonic() > deadline:
                raise StackError(f"still running after {STOP_SECONDS} s and a kill: {', '.join(busy)}")
            time.sleep(0.1)

    def update(self) -> None:
        """Follow the configuration: stop what is gone, exchange what has changed, add what is new."""
        answer: Any = self._remote.supervisor.reloadConfig()
        added, changed, removed = answer[0]
        self.stop([*changed, *removed])
        for name in (*changed, *removed):
            self._remote.supervisor.removeProcessGroup(name)
        for name in (*changed, *added):
            self._remote.supervisor.addProcessGroup(name)

    def shut_down(self) -> None:
        """Stop everything and end; returns at once."""
        self._remote.supervisor.shutdown()

    def _call(self, method: Any, name: str, harmless: int) -> None:
        try:
            method(name, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != harmless:
                raise StackError(f"supervisord, of {name}: {fault.faultString}") from fault
