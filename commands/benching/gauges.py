"""What the programs of the stack have used so far: CPU, memory, bytes; read off /proc.

1. `Gauge.read` sums a program's process tree; of a JVM it also tells how much of its CPU went into compiling.
2. `Usage` is the difference of two readings, by instance.

Counters of processes that ended are gone with them: a role that restarts shows less than it used.
"""

from dataclasses import dataclass
from pathlib import Path

from infra.stack import processes
from infra.stack.layout import Layout
from infra.stack.lifecycle import status as programs

_COMPILERS = ("C1 Compiler", "C2 Compiler")


@dataclass(frozen=True, kw_only=True)
class Gauge:
    """One program, as of now."""

    cpu_seconds: float
    compile_seconds: float
    rss_bytes: int
    written_bytes: int
    read_bytes: int


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one program used for each instance, and what it holds."""

    cpu_ms: float
    compile_ms: float
    written_kb: float
    read_kb: float
    rss_mb: float


def read_gauges(layout: Layout) -> dict[str, Gauge]:
    """Return the gauges of every program of the stack by its name."""
    table = processes.table()
    return {
        program.name: _gauge([row.pid for row in processes.tree(program.pid, table)], table)
        for program in programs(layout)
        if program.pid is not None
    }


def usage(before: dict[str, Gauge], after: dict[str, Gauge], instances: int) -> dict[str, Usage]:
    """Return what each program used between two readings, by instance, most CPU first."""
    found = {}
    for name, now in after.items():
        then = before.get(name, now)
        found[name] = Usage(
            cpu_ms=1000 * (now.cpu_seconds - then.cpu_seconds) / instances,
            compile_ms=1000 * max(0.0, now.compile_seconds - then.compile_seconds) / instances,
            written_kb=(now.written_bytes - then.written_bytes) / 1000 / instances,
            read_kb=(now.read_bytes - then.read_bytes) / 1000 / instances,
            rss_mb=now.rss_bytes / 1e6,
        )
    return dict(sorted(found.items(), key=lambda row: -row[1].cpu_ms))


def machine_cpu() -> tuple[float, float]:
    """Return the seconds that the machine's cores have been busy, and those that they have been there."""
    fields = [int(text) for text in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    total = sum(fields)
    idle = fields[3] + fields[4]  # idle, and waiting for a disk
    return (total - idle) / processes.TICK, total / processes.TICK


def _gauge(pids: list[int], table: dict[int, processes.Process]) -> Gauge:
    counters = [_io(pid) for pid in pids]
    return Gauge(
        cpu_seconds=sum(table[pid].cpu_seconds for pid in pids),
        compile_seconds=sum(_compiling(pid) for pid in pids),
        rss_bytes=sum(table[pid].rss_bytes for pid in pids),
        written_bytes=sum(row.get("write_bytes", 0) for row in counters),
        read_bytes=sum(row.get("read_bytes", 0) for row in counters),
    )


def _io(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:  # it ended, or it is another user's
        return {}
    return {name: int(value) for name, _, value in (line.partition(": ") for line in lines)}


def _compiling(pid: int) -> float:
    seconds = 0.0
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            name, _, rest = path.read_text(errors="replace").partition("(")[2].rpartition(")")
        except OSError:  # the thread ended
            continue
        if name.startswith(_COMPILERS):
            fields = rest.split()
            seconds += (int(fields[11]) + int(fields[12])) / processes.TICK
    return seconds
