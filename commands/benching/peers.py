"""Ratios to peers, measured beside each other in one run: the door, and the de-identification of one header.

1. The same datasets over the same associations to our receiver (a spool of its own, nothing behind it), to
   pynetdicom's own `storescp`, and to DCMTK's `storescp --fork +B` where it is installed. Ours answers after a
   sync; the peers write files and sync nothing, but for DCMTK a second time with a sync put in, so that it
   promises the same.
2. The CPU of our de-identification beside pydicom reading, walking and writing the same dataset, which is the
   least that a tool on pydicom does.
"""

import io
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pydicom

from commands.benching.figures import Quantiles
from commands.benching.wire import Load, send_load
from consumers.deid.engine import IntakeContext, ProjectKeys, basic_profile, deidentify
from infra.load import mr_instance
from infra.stack import processes
from schemas.dicom_reader import read_file_header
from schemas.errors import ProdromeError

#: Python and its libraries are read from a cold disk in this time.
START_SECONDS: Final = 60.0
#: Sent before what is measured: imports, first segments, a peer's first fork.
WARM_UP: Final = 50


@dataclass(frozen=True, kw_only=True)
class Door:
    """What one receiver did."""

    name: str
    rate: float
    cpu_ms: float
    ack: Quantiles


@dataclass(frozen=True, kw_only=True)
class Header:
    """CPU milliseconds for one dataset."""

    ours_ms: float
    pydicom_ms: float


def measure_doors(folder: Path, instances: int, associations: int, side: int) -> list[Door]:
    """Return the figures of each receiver, ours first."""
    return [
        _measure(name, command, environment, folder / name.replace(" ", "-"), instances, associations, side)
        for name, command, environment in _receivers(folder)
    ]


def measure_header(repeats: int, side: int) -> Header:
    """Return the CPU of our whole de-identification and of pydicom's reading, walking and writing."""
    file = mr_instance("header", 0, 0, side=side)
    header = read_file_header(file)
    context = IntakeContext(
        project="default",
        transfer_syntax_uid=header.transfer_syntax_uid,
        sop_class_uid=header.sop_class_uid or "",
        sop_instance_uid=header.sop_instance_uid or "",
    )
    raw, profile = file[header.dataset_offset :], basic_profile()
    keys = ProjectKeys.derive(bytes(32), "default", "bench")
    return Header(
        ours_ms=_cpu_ms(lambda: deidentify(raw, context, profile, keys), repeats),
        pydicom_ms=_cpu_ms(lambda: _walk_and_write(file), repeats),
    )


def _walk_and_write(file: bytes) -> None:
    dataset = pydicom.dcmread(io.BytesIO(file))
    for element in dataset.iterall():
        str(element.tag)
    dataset.save_as(io.BytesIO(), enforce_file_format=True)


def _cpu_ms(step: Callable[[], object], repeats: int) -> float:
    step()
    begin = time.process_time()
    for _ in range(repeats):
        step()
    return 1000 * (time.process_time() - begin) / repeats


def _receivers(folder: Path) -> Iterator[tuple[str, list[str], dict[str, str]]]:
    home = {"PRODROME_HOME": "{folder}", "PRODROME_RECEIVE_PORT": "{port}"}
    yield "prodrome, synced", [sys.executable, "-m", "prodrome", "receive"], home
    stock = [sys.executable, "-m", "pynetdicom", "storescp", "{port}", "-od", "{folder}", "-q"]
    yield "pynetdicom storescp", stock, {}
    if storescp := shutil.which("storescp"):
        name, command = "dcmtk storescp --fork +B", [storescp, "--fork", "+B", "-od", "{folder}", "{port}"]
        environment = {"TCP_NODELAY": "1"}  # without it Debian's stalls 44 ms an instance
        yield name, command, environment
        if compiler := shutil.which("cc"):
            library = folder / "sync_on_close.so"
            source = Path(__file__).with_name("sync_on_close.c")
            subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
            yield f"{name}, synced", command, environment | {"LD_PRELOAD": str(library)}


def _measure(
    name: str,
    command: list[str],
    environment: dict[str, str],
    folder: Path,
    instances: int,
    associations: int,
    side: int,
) -> Door:
    folder.mkdir(parents=True)
    port = _free_port()
    filled = [part.format(port=port, folder=folder) for part in command]
    given = {key: value.format(port=port, folder=folder) for key, value in environment.items()}
    load = Load(port=port, seed=name, instances=instances, associations=associations, side=side)
    with _running(filled, given, port) as pid:
        send_load(replace(load, seed=f"{name} warm-up", instances=max(associations, WARM_UP)))
        before = _cpu_of(pid)
        sent = send_load(load)
        used = _cpu_of(pid) - before
    shutil.rmtree(folder)
    ack = Quantiles.of(sent.ack_ms)
    return Door(name=name, rate=sent.count / sent.seconds, cpu_ms=1000 * used / sent.count, ack=ack)


@contextmanager
def _running(command: list[str], environment: dict[str, str], port: int) -> Iterator[int]:
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
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _cpu_of(pid: int) -> float:
    # Children that ended are counted in their parent: DCMTK forks for each association.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    waited = (int(fields[13]) + int(fields[14])) / processes.TICK
    return waited + sum(row.cpu_seconds for row in processes.tree(pid, processes.table()))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
