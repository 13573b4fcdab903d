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

from supervisor.states import RUNNING_STATES
from supervisor.xmlrpc import Faults, SupervisorTransport

from infra.stack import processes
from infra.stack.configuration import STOP_SECONDS, configuration_file, socket_path
from infra.stack.layout import Layout, StackError
from infra.stack.ports import read_state, write_state


def start(layout: Layout) -> "Supervisor":
    """Start the daemon, and with it the parts."""
    write_state(layout, socket=str(socket_path(layout)))
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration_file(layout))]
    # A role that sets its title would write it over its environment, and with it over the mark.
    environment = os.environ | {processes.MARK: str(layout.home), "SPT_NOENV": "1"}
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
        self._transport = SupervisorTransport(None, None, f"unix://{path}")
        # The address is a formality: the transport speaks over the socket.
        self._remote = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=self._transport)

    def answers(self) -> bool:
        """True if it runs and is not about to end."""
        try:
            state = self._ask("supervisor.getState")
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return False
        return bool(state["statename"] == "RUNNING")

    def pid(self) -> int:
        """The daemon's own process."""
        return int(self._ask("supervisor.getPID"))

    def programs(self) -> list[dict[str, Any]]:
        """What supervisord says of each program."""
        return list(self._ask("supervisor.getAllProcessInfo"))

    def running(self) -> set[str]:
        """Names of the programs that run or are about to be restarted."""
        return {row["name"] for row in self.programs() if row["state"] in RUNNING_STATES}

    def deaths(self) -> dict[str, int]:
        """How often each program ended without being told to."""
        return dict(self._ask("prodrome.deaths"))

    def hold(self, ports: Iterable[int]) -> None:
        """Keep other stacks from these ports for as long as the daemon runs."""
        self._ask("prodrome.hold", list(ports))

    def held(self) -> list[int]:
        """The ports that it keeps."""
        return list(self._ask("prodrome.held"))

    def start(self, names: Iterable[str]) -> None:
        """Start programs; one that runs, or waits to be restarted, is left alone."""
        for name in names:
            self._tell("supervisor.startProcess", name, harmless=Faults.ALREADY_STARTED)

    def stop(self, names: Sequence[str]) -> None:
        """Stop programs, all at once, and wait until they have ended."""
        for name in names:
            self._tell("supervisor.stopProcess", name, harmless=Faults.NOT_RUNNING)
        # supervisord kills what is left after `STOP_SECONDS`; ten more for it to notice.
        deadline = time.monotonic() + STOP_SECONDS + 10
        while busy := [row["name"] for row in self.programs() if row["name"] in names and row["pid"]]:
            if time.monotonic() > deadline:
                raise StackError(f"still running after {STOP_SECONDS} s and a kill: {', '.join(busy)}")
            time.sleep(0.1)

    def update(self) -> None:
        """Follow the configuration: stop what is gone, exchange what has changed, add what is new."""
        added, changed, removed = self._ask("supervisor.reloadConfig")[0]
        self.stop([*changed, *removed])
        for name in (*changed, *removed):
            self._ask("supervisor.removeProcessGroup", name)
        for name in (*changed, *added):
            self._ask("supervisor.addProcessGroup", name)

    def shut_down(self) -> None:
        """Stop everything and end; returns at once."""
        self._ask("supervisor.shutdown")

    def _tell(self, method: str, name: str, *, harmless: int) -> None:
        try:
            self._ask(method, name, False)  # not to wait for it
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != harmless:
                raise StackError(f"supervisord, of {name}: {fault.faultString}") from fault

    def _ask(self, method: str, *arguments: object) -> Any:
        try:
            return getattr(self._remote, method)(*arguments)
        finally:
            self._transport.close()
