"""How far the spool is durable, told to other processes without a system call.

The writer stores (segment, offset) into a small mapped file after each completed sync; readers poll it. A
reader never looks past it, so nothing is published that a power loss could take back: a pointer to bytes
that are gone would become a dead letter for an instance that was never acknowledged.

The file is not synced. After a kill it is exact (the page cache lives on); after a power loss it may be
older than the truth, never newer, and the writer's recovery sets it again.
"""

import contextlib
import mmap
import os
import struct
from pathlib import Path
from typing import Final, NamedTuple

import xxhash

NAME: Final = "durable"
_MARK: Final = struct.Struct("<8sQQQ")
_MAGIC: Final = b"PRODMARK"
#: The writer stores 32 bytes in well under a microsecond: a torn read is followed by a whole one.
_ATTEMPTS: Final = 1000


class Position(NamedTuple):
    """A place in the spool; positions compare in the order in which records were written."""

    segment: int
    offset: int


class Watermark:
    """The durable end of a spool; one process stores it, others load it."""

    def __init__(self, folder: Path, *, writing: bool = False) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC if writing else os.O_RDONLY | os.O_CLOEXEC
        descriptor = os.open(folder / NAME, flags, 0o600)
        try:
            if writing:
                os.ftruncate(descriptor, mmap.PAGESIZE)
            access = mmap.ACCESS_WRITE if writing else mmap.ACCESS_READ
            self._map = mmap.mmap(descriptor, mmap.PAGESIZE, access=access)
        finally:
            os.close(descriptor)

    def store(self, position: Position) -> None:
        """Say that everything before `position` is durable."""
        fields = struct.pack("<QQ", *position)
        self._map[: _MARK.size] = _MARK.pack(_MAGIC, *position, xxhash.xxh3_64_intdigest(fields))

    def load(self) -> Position:
        """Return the durable end; (0, 0) where none was ever stored."""
        for _ in range(_ATTEMPTS):
            magic, segment, offset, check = _MARK.unpack(self._map[: _MARK.size])
            if magic == _MAGIC and check == xxhash.xxh3_64_intdigest(struct.pack("<QQ", segment, offset)):
                return Position(segment, offset)
            if not any(self._map[: _MARK.size]):
                break
        return Position(0, 0)

    def close(self) -> None:
        """Unmap the file."""
        with contextlib.suppress(BufferError):
            self._map.close()
