"""Receivers measured: ours and its peers, each a process of its own on a free port, given the same instances.

Ours answers after a sync. DCMTK's `storescp --fork +B` writes files and syncs nothing, and once more with a sync of
the file and its folder put in by a preloaded library, so that it promises the same. pynetdicom's `storescp` is what
people use in Python.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from commands.benching.figures import Quantiles
from commands.benching.wire import Load, send_load
from infra.spool import SpoolReader
from infra.stack import processes
from schemas.errors import ProdromeError

#: Python and its libraries are read from a cold disk in this time.
START_SECONDS: Final = 60.0
#: Sent before what is measured: imports, first segments, a peer's first fork.
WARM_UP: Final = 50
#: How often the spool is freed while it is measured, as a relay does whose ledger has settled all.
FREE_SECONDS: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class Receiver:
    """How one is started: ``{port}`` and ``{folder}`` are filled in; and how many associations it takes at once."""

    name: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    ours: bool = False
    most_associations: int = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Door:
    """What one receiver did."""

    name: str
    rate: float
    cpu_ms: float
    ack: Quantiles


def receivers(folder: Path) -> Iterator[Receiver]:
    """Yield ours and those of its peers that are installed; `folder` is for what they need besides."""
    receive = (sys.executable, "-m", "prodrome", "receive", "--port", "{port}", "--spool", "{folder}/spool")
    yield Receiver(
        name="prodrome, synced", command=receive, environment=(("PRODROME_HOME", "{folder}"),), ours=True
    )
    stock = (sys.executable, "-m", "pynetdicom", "storescp", "{port}", "-od", "{folder}", "-q")
    # It takes ten at once, those that are ending among them, and has no option for more.
    yield Receiver(name="pynetdicom storescp", command=stock, most_associations=8)
    storescp = shutil.which("storescp")
    if storescp is None:
        return
    # Without this Debian's answers in two writes and stalls 44 ms an instance.
    no_delay = (("TCP_NODELAY", "1"),)
    keeping = (storescp, "--fork", "+B", "-od", "{folder}", "{port}")
    yield Receiver(
        name="dcmtk storescp --fork", command=tuple(c for c in keeping if c != "+B"), environment=no_delay
    )
    yield Receiver(name="dcmtk storescp --fork +B", command=keeping, environment=no_delay)
    if compiler := shutil.which("cc"):
        library, source = folder / "sync_on_close.so", Path(__file__).with_name("sync_on_close.c")
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        preload = ("LD_PRELOAD", str(library))
        yield Receiver(
            name="dcmtk storescp --fork +B, synced", command=keeping, environment=(*no_delay, preload)
        )


def measure(receiver: Receiver, folder: Path, load: Load) -> Door:
    """Start a receiver, send it a load and return what it did; `folder` is removed again."""
    folder.mkdir(parents=True)
    try:
        with running(receiver, folder) as (pid, port), freeing(folder / "spool", receiver.ours):
            load = replace(load, port=port)
            send_load(replace(load, seed=f"{load.seed} warm-up", instances=max(load.associations, WARM_UP)))
            before = _cpu_of(pid)
            took = send_load(load)
            used = _cpu_of(pid) - before
    finally:
        shutil.rmtree(folder)
    return Door(
        name=receiver.name,
        rate=took.count / took.seconds,
        cpu_ms=1000 * used / took.count,
        ack=Quantiles.of(took.ack_ms),
    )


@contextmanager
def freeing(folder: Path, ours: bool = True) -> Iterator[None]:
    """Free the segments of our spool as they are sealed, as a relay does whose ledger has settled all.

    Their files are written again then: that is the state that a receiver is in for all of its life.
    """
    done = threading.Event()

    def free() -> None:
        while not done.wait(FREE_SECONDS):
            with contextlib.suppress(FileNotFoundError):
                reader = SpoolReader(folder)
                for number in reader.segments()[:-1]:
                    reader.free(number)

    freeing = threading.Thread(target=free)
    if ours:
        freeing.start()
    try:
        yield
    finally:
        done.set()
        if ours:
            freeing.join()


@contextmanager
def running(receiver: Receiver, folder: Path) -> Iterator[tuple[int, int]]:
    """Run a receiver on a folder, and yield its process and its port once it listens."""
    port = _free_port()
    here = {"port": port, "folder": folder}
    command = [part.format(**here) for part in receiver.command]
    environment = {name: value.format(**here) for name, value in receiver.environment}
    # The settings of the stack beside it must not reach it.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PRODROME_")}
    silent = subprocess.DEVNULL
    process = subprocess.Popen(command, env=plain | environment, stdout=silent, stderr=silent)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _listens(port):
            if time.monotonic() > deadline or process.poll() is not None:
                raise ProdromeError(f"{command[0]} does not listen on port {port}")
            time.sleep(0.1)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait()


def _cpu_of(pid: int) -> float:
    # DCMTK forks for each association, and a child that ended is counted in its parent: one that is waited for
    # between the two looks would be in neither.
    while True:
        before = _cpu_of_ended_children(pid)
        alive = sum(row.cpu_seconds for row in processes.tree(pid, processes.table()))
        if before == _cpu_of_ended_children(pid):
            return before + alive


def _cpu_of_ended_children(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / processes.TICK


def rss_mb(pid: int) -> float:
    """Return the memory of a receiver and its children."""
    return sum(row.rss_bytes for row in processes.tree(pid, processes.table())) / (1 << 20)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
