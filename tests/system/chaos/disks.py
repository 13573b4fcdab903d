"""Small disks that can be filled and freed in a moment: a tmpfs whose size is set anew. Needs root."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from infra.connections import CassandraConnection, KafkaConnection
from infra.stack.layout import Addresses, Layout
from infra.stack.lifecycle import status
from infra.stack.logins import cassandra_as, kafka_as

MEGABYTE = 1 << 20
MS_REMOUNT = 32  # linux/mount.h

_libc = ctypes.CDLL(None, use_errno=True)


class Disk:
    """A mounted disk."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self._size = path, size

    def fill(self) -> None:
        """Have no byte free from now on, whoever writes meanwhile."""
        for attempt in range(10_000):
            found = os.statvfs(self.path)
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            try:
                self._resize(max(used, found.f_frsize))  # none would be no limit
                return
            except OSError:  # more was written since
                if attempt == 9_999:
                    raise

    def free(self) -> None:
        """Have the space of the beginning."""
        self._resize(self._size)

    def _resize(self, size: int) -> None:
        # By the call itself: a writer is faster than a program is started.
        if _libc.mount(b"none", bytes(self.path), b"tmpfs", MS_REMOUNT, b"size=%d" % size):
            raise OSError(ctypes.get_errno(), f"cannot make {self.path} {size} bytes large")


@contextmanager
def small_disk(path: Path, size: int = 64 * MEGABYTE) -> Iterator[Disk]:
    """Mount an empty disk; skips the test, with the reason, where that is not allowed."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "prodrome-test", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip() or 'not root'}")
    try:
        yield Disk(path, size)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


class SmallParts(NamedTuple):
    """A stack without roles, and the disks of its parts."""

    layout: Layout
    addresses: Addresses
    kafka_disk: Disk
    cassandra_disk: Disk

    @property
    def kafka(self) -> KafkaConnection:
        """Its Kafka, as one who may do everything."""
        return kafka_as(self.layout, self.addresses)

    @property
    def cassandra(self) -> CassandraConnection:
        """Its Cassandra, as one who may do everything."""
        return cassandra_as(self.layout, self.addresses)

    def pid(self, part: str) -> int | None:
        """The process of a part now."""
        return next(row.pid for row in status(self.layout) if row.name == part)

    def deaths(self, part: str) -> int:
        """How often it ended without being told to."""
        return next(row.restarts for row in status(self.layout) if row.name == part)
