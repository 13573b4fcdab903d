"""Read /proc: what a program's process tree uses, and which processes belong to a stack.

A stack's processes carry its home in their environment, from the supervisor down. So those that outlived
a supervisor that was killed are found and ended without a list that could be out of date.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Not `PRODROME_*`: those are settings.
MARK: Final = "_PRODROME_STACK_HOME"
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
TICK: Final = os.sysconf("SC_CLK_TCK")
#: The kind of clock that clock_getcpuclockid(3) gives for another process; Python has no call for it.
_CPU_OF_PROCESS: Final = 2


@dataclass(frozen=True, kw_only=True)
class Process:
    """One row of /proc."""

    pid: int
    parent: int
    state: str
    cpu_seconds: float
    rss_bytes: int
    threads: int
    read_bytes: int
    written_bytes: int

    @property
    def alive(self) -> bool:
        """False once it holds nothing any more; a process whose first thread has ended may still do."""
        return self.state not in "ZX" or self.threads > 1


def table() -> dict[int, Process]:
    """All processes of the machine, by pid."""
    rows = (_read(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return {row.pid: row for row in rows if row is not None}


def tree(pid: int, processes: dict[int, Process]) -> list[Process]:
    """The process and its descendants."""
    children: dict[int, list[int]] = {}
    for row in processes.values():
        children.setdefault(row.parent, []).append(row.pid)
    found, open_ends = [], [pid]
    while open_ends:
        at = open_ends.pop()
        if at in processes:
            found.append(processes[at])
            open_ends += children.get(at, [])
    return found


def of_stack(home: Path) -> set[int]:
    """The live processes that belong to the stack of `home`, this one aside."""
    mark = f"{MARK}={home}".encode()
    pids = {row.pid for row in table().values() if row.alive and row.pid != os.getpid()}
    return {pid for pid in pids if mark in _environment(pid)}


def end(find: Callable[[], set[int]], grace: float) -> None:
    """End the processes that `find` names: TERM, and KILL for what is left after `grace` seconds."""
    deadline = time.monotonic() + grace
    seen = find()
    signal_all(seen, signal.SIGTERM)
    # One that is ending has no environment any more, and still its ports: so those seen are waited for.
    while left := {pid for pid in seen if is_alive(pid)}:
        if time.monotonic() > deadline:
            signal_all(left, signal.SIGKILL)
        time.sleep(0.1)
        seen |= find()


def is_alive(pid: int) -> bool:
    """True until the process has given back what it held."""
    row = _read(pid)
    return row is not None and row.alive


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each; one that is gone already is no error."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _read(pid: int) -> Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:  # it ended while we looked
        return None
    # The name stands in brackets and may hold anything, brackets too; the fields follow the last one.
    fields = text.rpartition(")")[2].split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        state=fields[0],
        cpu_seconds=_cpu_seconds(pid, int(fields[11]) + int(fields[12])),
        rss_bytes=int(fields[21]) * _PAGE,
        threads=int(fields[17]),
        **_transferred(pid),
    )


def _cpu_seconds(pid: int, ticks: int) -> float:
    # By the scheduler's clock, in nanoseconds: a tick is 10 ms, in which a fast machine takes thirty instances.
    try:
        return time.clock_gettime((~pid << 3) | _CPU_OF_PROCESS)
    except OSError:  # it ended while we looked
        return ticks / TICK


def _transferred(pid: int) -> dict[str, int]:
    """Bytes through read and write calls, files and sockets; zero for a process of another account."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return {"read_bytes": 0, "written_bytes": 0}
    counts = dict(line.split(": ") for line in lines)
    return {"read_bytes": int(counts["rchar"]), "written_bytes": int(counts["wchar"])}


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # ended, or somebody else's
        return []
