"""Freed segments, kept for a while to be written again: their blocks are on the disk already.

A sync into blocks that were written before needs no change of the file system's own tables; into new ones, even
allocated, it does, and takes half as long again. So a segment that is freed is renamed, and the writer's next
segment begins in its file. What still lies there of the old one is no record of the new one: each record's check
holds its segment's number and seed. It ends within `KEEP_SECONDS`, or when the new segment is sealed and cut.
"""

import os
import time
from pathlib import Path
from typing import Final

SUFFIX: Final = ".free"
#: More than two serve nobody: the next segment takes one, and then another is freed.
KEEP: Final = 2
#: What was freed is raw data of patients; a receiver that is not busy has no use for its blocks.
KEEP_SECONDS: Final = 600.0


def give_back(path: Path) -> None:
    """Take a segment's file out of the spool: kept, or removed where enough are kept."""
    kept = _files(path.parent)
    try:
        if len(kept) >= KEEP:
            path.unlink()
        else:
            os.utime(path)
            path.rename(path.with_suffix(SUFFIX))
    except FileNotFoundError:
        return


def take(folder: Path) -> Path | None:
    """Return a file to write a segment into, or None; the caller is the one writer."""
    return next(iter(_files(folder)), None)


def sweep(folder: Path, seconds: float = KEEP_SECONDS) -> None:
    """Remove what has lain unused for so long."""
    now = time.time()
    for path in _files(folder):
        try:
            if now - path.stat().st_mtime >= seconds or seconds <= 0:
                path.unlink()
        except FileNotFoundError:
            continue


def kept_bytes(folder: Path) -> int:
    """Return the bytes of files that may be written again: space that the spool has, and does not use."""
    total = 0
    for path in _files(folder):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def _files(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if entry.name.endswith(SUFFIX)]
