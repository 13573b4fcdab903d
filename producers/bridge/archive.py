"""The members of a zip archive in a bucket, found by reading ranges; nothing is ever unpacked to a file.

1. The central directory is read (by `zipfile`), bounded in bytes and members.
2. What is made to do harm is refused as a whole: members that overlap, a directory that lies.
3. Each member is judged alone: one that is encrypted, named like a path out of the folder, or swells beyond reason
   is refused with a reason; the others pass.

A member is a range of the archive: as it is, or a deflate stream of known length and CRC-32. Where the range begins
is read from the member's own header, together with its first bytes.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import SEEK_CUR, SEEK_END, SEEK_SET, RawIOBase
from typing import Any, Final, NamedTuple

from producers.bridge.contents import BEGIN_BYTES
from schemas.errors import Refused

#: An exam has some thousand images; a member costs a request.
MEMBERS: Final = 50_000
#: The directory of so many, with long names.
DIRECTORY_BYTES: Final = 8 << 20
#: Deflate cannot do more than 1,032 to 1; images of one colour reach 200.
RATIO: Final = 200
RATIO_FROM_BYTES: Final = 1 << 20
_LOCAL_BYTES: Final = 30
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000

Read = Callable[[int, int], bytes]


class Member(NamedTuple):
    """A member: the range of its data, how it is to be read, and its first bytes, inflated."""

    offset: int
    length: int
    inflated: int | None
    size: int
    crc: int
    begin: bytes


def members(read: Read, size: int) -> Iterator[zipfile.ZipInfo]:
    """Yield what the directory of an archive lists, without folders.

    Parameters
    ----------
    read : callable
        Returns `length` bytes from `offset`.
    size : int
        Bytes of the archive.

    Raises
    ------
    Refused
        `bad_archive`: it cannot be read, or its members overlap.
    """
    try:
        with zipfile.ZipFile(_Ranges(read, size)) as archive:
            found = archive.infolist()
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        ValueError,
        OverflowError,
        UnicodeError,
        zlib.error,
    ) as error:
        raise Refused("bad_archive", f"expected a zip archive: {type(error).__name__}") from None
    if len(found) > MEMBERS:
        raise Refused("bad_archive", f"expected at most {MEMBERS} members, came {len(found)}")
    end = 0
    for info in sorted(found, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise Refused("bad_archive", "members overlap")
        end = info.header_offset + _LOCAL_BYTES + info.compress_size
    if end > size:
        raise Refused("bad_archive", "a member ends behind the archive")
    yield from (info for info in found if not info.is_dir())


def open_member(read: Read, size: int, info: zipfile.ZipInfo, limit_bytes: int) -> Member:
    """Return a member with its first bytes.

    Raises
    ------
    Refused
        `bad_member`: it is encrypted, packed in an unknown way, named like a path elsewhere, or swells beyond reason.
        `too_large`: it is over the limit.
    """
    _judge(info, limit_bytes)
    wanted = min(
        size - info.header_offset, _LOCAL_BYTES + len(info.orig_filename.encode()) + 512 + BEGIN_BYTES
    )
    local = read(info.header_offset, wanted)
    if local[:4] != b"PK\x03\x04" or len(local) < _LOCAL_BYTES:
        raise Refused("bad_member", "expected a member where the directory says")
    at = _LOCAL_BYTES + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    offset = info.header_offset + at
    if offset + info.compress_size > size:
        raise Refused("bad_member", "it ends behind the archive")
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    made = Member(
        offset, info.compress_size, info.file_size if deflated else None, info.file_size, info.CRC, b""
    )
    return made._replace(begin=begin(read, made, BEGIN_BYTES, local[at:]))


def begin(read: Read, member: Member, wanted: int, have: bytes = b"") -> bytes:
    """Return the first `wanted` bytes of a member, inflated, or all; `have` is the beginning of its range."""
    length = min(
        member.length, wanted
    )  # data that deflate makes longer are stored as they are, by every tool
    data = have[: member.length] if len(have) >= length else read(member.offset, length)
    if member.inflated is None:
        return data[:wanted]
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, min(wanted, member.size))
    except zlib.error:
        raise Refused("bad_member", "expected a deflate stream") from None


def _judge(info: zipfile.ZipInfo, limit_bytes: int) -> None:
    if info.flag_bits & _ENCRYPTED:
        raise Refused("bad_member", "it is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Refused("bad_member", f"expected it stored or deflated, came method {info.compress_type}")
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        raise Refused("bad_member", "two lengths of what is stored as it is")
    parts = info.orig_filename.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or ":" in parts[0]:
        raise Refused("bad_member", "its name is a path out of the archive")
    if info.file_size > limit_bytes:
        raise Refused("too_large", f"expected at most {limit_bytes} bytes, came {info.file_size}")
    if info.file_size > max(RATIO_FROM_BYTES, RATIO * info.compress_size):
        raise Refused("bad_member", f"{info.compress_size} bytes that become {info.file_size}")


class _Ranges(RawIOBase):
    """As much of a file as `zipfile` needs to read a directory."""

    def __init__(self, read: Read, size: int) -> None:
        self._read, self._size, self._at = read, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        at = {SEEK_SET: 0, SEEK_CUR: self._at, SEEK_END: self._size}[whence] + offset
        if at < 0:
            raise ValueError("a place before the beginning")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def read(self, count: int | None = -1) -> Any:
        left = max(0, self._size - self._at)
        wanted = left if count is None or count < 0 else min(count, left)
        if wanted > DIRECTORY_BYTES:
            raise Refused("bad_archive", f"expected a directory of at most {DIRECTORY_BYTES} bytes")
        data = self._read(self._at, wanted) if wanted else b""
        self._at += len(data)
        return data
