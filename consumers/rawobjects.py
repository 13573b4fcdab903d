"""Raw bytes that stay in somebody's bucket, read by pointer: an object, or a member of an archive, checked.

An object is read whole and held against its eTag; a member against its CRC-32, after it was inflated to exactly the
length that its archive says, and no further. What a batch is about to need is read ahead, some objects beside each
other, within a bound of bytes: a store far away takes its time for each.
"""

import time
import zlib
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Final

import msgspec

from infra.buckets import Buckets, patience
from infra.connections import buckets_of
from infra.settings import Settings
from schemas.buckets import SCHEME, object_of
from schemas.errors import BadMessage, SlowDown
from schemas.events import Pointer

#: Read ahead at once, a worker process: requests, and bytes.
AHEAD: Final = 8
AHEAD_BYTES: Final = 64 << 20
#: Long enough that a share of jobs ends at once while the store is away, short against the stage's own pauses.
AWAY_SECONDS: Final = 2.0


class RawObjects:
    """The buckets that the settings lead to; connects at the first read."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ahead: dict[str, Future[bytes]] = {}
        self._away_until = 0.0  # the store did not answer: nothing is asked of it for a moment

    def names(self, pointer: Pointer) -> bool:
        """Whether a pointer leads into a bucket."""
        return pointer.uri.startswith(SCHEME)

    def expect(self, pointers: Iterable[Pointer]) -> None:
        """Begin to read what will be asked for soon, in this order; what is over the bound is left for later."""
        self._ahead.clear()
        held = 0
        for pointer in filter(self.names, pointers):
            held += pointer.length
            if held <= AHEAD_BYTES and _name(pointer) not in self._ahead:
                self._ahead[_name(pointer)] = self._pool.submit(self._fetch, pointer)

    def read(self, pointer: Pointer) -> bytes:
        """Return the bytes of a pointer, as they are outside of any archive.

        Raises
        ------
        BadMessage
            `missing_raw`: the object was deleted or overwritten. `raw_corrupt`: other bytes than were promised.
        SlowDown
            The store does not answer.
        """
        ahead = self._ahead.pop(_name(pointer), None)
        if ahead is None and time.monotonic() < self._away_until:
            raise SlowDown("a bucket did not answer just now")
        try:
            data = ahead.result() if ahead else self._fetch(pointer)
        except SlowDown:
            self._away_until = time.monotonic() + AWAY_SECONDS
            raise
        return _unpacked(data, pointer)

    @staticmethod
    def patience(pointer: Pointer) -> float:
        """Return the seconds after which `read` has ended, whether or not others are read before it."""
        return 2 * patience(pointer.length)

    def _fetch(self, pointer: Pointer) -> bytes:
        try:
            version = object_of(pointer.uri)
        except ValueError as error:
            raise BadMessage("missing_raw", str(error)) from None
        whole = pointer.checksum is msgspec.UNSET  # else it is a part of an archive, whose size is not told
        version = msgspec.structs.replace(version, size=pointer.length if whole else -1)
        return self._buckets.read(version, pointer.offset, pointer.length)

    @cached_property
    def _buckets(self) -> Buckets:
        found = self._settings.buckets
        return Buckets(buckets_of(found), etag_md5=found.etag_md5)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(AHEAD, "ahead")


def _name(pointer: Pointer) -> str:
    return f"{pointer.uri} {pointer.offset}"


def _unpacked(data: bytes, pointer: Pointer) -> bytes:
    if pointer.inflated is not msgspec.UNSET:
        data = _inflate(data, pointer.inflated)
    checksum = pointer.checksum
    if isinstance(checksum, str) and checksum != f"crc32:{zlib.crc32(data):08x}":
        raise BadMessage("raw_corrupt", "the member is not what its archive says")
    return data


def _inflate(data: bytes, length: int) -> bytes:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        found = stream.decompress(data, length + 1)
    except zlib.error:
        raise BadMessage("raw_corrupt", "the member is no deflate stream") from None
    if len(found) != length or not stream.eof:
        raise BadMessage("raw_corrupt", f"expected {length} bytes of the member, came {len(found)}")
    return found
