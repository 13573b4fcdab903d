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
_TICK: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """One row of /proc."""

    pid: int
    parent: int
    state: str
    cpu_seconds: float
    rss_bytes: int


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
    pids = {row.pid for row in table().values() if row.state not in "ZX" and row.pid != os.getpid()}
    return {pid for pid in pids if mark in _environment(pid)}


def end(find: Callable[[], Iterable[int]], grace: float) -> None:
    """End the processes that `find` names: TERM, and KILL for what is left after `grace` seconds."""
    deadline = time.monotonic() + grace
    signal_all(find(), signal.SIGTERM)
    while left := set(find()):
        if time.monotonic() > deadline:
            signal_all(left, signal.SIGKILL)
        time.sleep(0.1)


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
    ticks = int(fields[11]) + int(fields[12])
    return Process(pid, int(fields[1]), fields[0], ticks / _TICK, int(fields[21]) * _PAGE)


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # ended, or somebody else's
        return []
