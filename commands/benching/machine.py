"""The machine that figures were measured on, by its properties: no host is named. And what was measured."""

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a reader needs to judge a figure."""

    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    commit: str

    def __str__(self) -> str:
        return (
            f"{self.cores} cores of {self.cpu}, {self.memory_gib:.0f} GiB, Linux {self.kernel},"
            f" Python {self.python}; commit {self.commit}"
        )


def this_machine() -> Machine:
    """Return the properties of this machine and the commit of this checkout."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=memory / 2**30,
        kernel=platform.release().partition("-")[0],
        python=platform.python_version(),
        commit=_commit(),
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _commit() -> str:
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=10)
    except OSError:  # no git here
        return "unknown"
    return done.stdout.strip() or "unknown"
