"""Small disks that can be filled and freed in a moment: a tmpfs whose size is set anew. Needs root."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MEGABYTE = 1 << 20


class Disk:
    """A mounted disk."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self._size = path, size

    def fill(self) -> None:
        """Have no byte free from now on."""
        found = os.statvfs(self.path)
        self._resize((found.f_blocks - found.f_bfree) * found.f_frsize)

    def free(self) -> None:
        """Have the space of the beginning."""
        self._resize(self._size)

    def _resize(self, size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], check=True)


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
