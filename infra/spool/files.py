"""The folder of a spool: names, identity, the lock, and writes that must be whole.

::

    <spool>/spool.json           format, spool id: written once
    <spool>/lock                 held by the one writer
    <spool>/relay/               the position of its one relay, and the lock that it holds
    <spool>/durable              how far the spool is durable (`watermark`)
    <spool>/000000000001.seg     segments, numbered from 1, a number never used twice
    <spool>/<random>.part        a large instance while it arrives; swept at start
    <spool>/000000000003.free    a freed segment whose file is written again (`recycling`)
    <spool>/000000000007.damaged a segment whose header is unreadable: kept for a person
    <spool>/2, 3...              the spools of further receiver processes: whole ones, each with its writer
"""

import fcntl
import os
import time
import uuid
from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from schemas.errors import SettingsError

SUFFIX: Final = ".seg"
PART: Final = ".part"
DAMAGED: Final = ".damaged"
#: Buffers that one system call takes (IOV_MAX of Linux).
_PIECES: Final = 1024
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What `spool.json` says."""

    format: int
    spool: str


def boot_id() -> str:
    """Return the id of the machine's boot; it changes when memory was lost."""
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else "unknown"


def uptime() -> float:
    """Return the seconds since the machine's boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def segment_path(folder: Path, segment: int) -> Path:
    """Return the path of a segment."""
    return folder / f"{segment:012d}{SUFFIX}"


def segments(folder: Path) -> list[int]:
    """Return the numbers of the segments present, ascending."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    stems = (name[: -len(SUFFIX)] for name in names if name.endswith(SUFFIX))
    return sorted(int(stem) for stem in stems if stem.isdigit())


def used_bytes(folder: Path) -> int:
    """Return the bytes of all files of the spool."""
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                total += entry.stat().st_size
            except FileNotFoundError:
                continue  # freed while we looked
    return total


def read_identity(folder: Path) -> Identity:
    """Return the identity of the spool in `folder`; FileNotFoundError where there is none yet."""
    return msgspec.json.decode((folder / "spool.json").read_bytes(), type=Identity)


def spools(folder: Path) -> list[Path]:
    """Return the spool in `folder` and those of further processes in it; FileNotFoundError where there is none."""
    read_identity(folder)
    with os.scandir(folder) as entries:
        further = sorted(int(entry.name) for entry in entries if entry.name.isdigit())
    return [folder, *(path for path in (process_folder(folder, n) for n in further) if _is_spool(path))]


def process_folder(folder: Path, number: int) -> Path:
    """Return where a receiver process, 1 the first, has its spool."""
    return folder if number == 1 else folder / str(number)


def _is_spool(folder: Path) -> bool:
    return (folder / "spool.json").exists()


def make_spool(folder: Path) -> Identity:
    """Make the folder a spool, or return the identity of the one that is there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return read_identity(folder)
    except FileNotFoundError:
        identity = Identity(format=1, spool=str(uuid.uuid4()))
        replace_file(folder / "spool.json", msgspec.json.encode(identity))
        return identity


def lock_folder(folder: Path, role: str = "writer") -> int:
    """Take the lock in a folder, made where it is not, and return its descriptor; the lock ends with it.

    Raises
    ------
    SettingsError
        Another process has this role for this spool.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise SettingsError(f"{folder} has a {role} already: one process a spool") from None
    return descriptor


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace a small file whole: readers see the old or the new bytes, and so does the next start."""
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, [data], 0)
        if durable:
            os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
    """Write all buffers at `offset` and return the offset behind them; a short write is continued."""
    if (
        len(buffers) <= _PIECES
    ):  # nearly always one call is all; after a short one the loop writes it once more
        written = os.pwritev(descriptor, buffers, offset)
        if written == sum(map(len, buffers)):
            return offset + written
    pending = deque(memoryview(buffer) for buffer in buffers if len(buffer))
    while pending:
        written = os.pwritev(descriptor, list(islice(pending, _PIECES)), offset)
        offset += written
        while pending and written >= len(pending[0]):
            written -= len(pending.popleft())
        if written:
            pending[0] = pending[0][written:]
    return offset
