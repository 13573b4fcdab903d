"""One segment file while it is written: append, sync, seal.

Nothing here is locked: the writer holds its lock while it appends and lets one thread at a time sync. The
file is preallocated, so that a full disk is met when a segment is made and not in the middle of a record,
and so that a sync need not write a new length each time.
"""

import os
import secrets
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from infra.spool import files
from infra.spool.format import (
    EMPTY_HASH,
    LARGE_HEADER_BYTES,
    NO_NUMBER,
    PREFIX_BYTES,
    SEALED_BYTES,
    SEGMENT_HEADER_BYTES,
    Header,
    Kind,
    SealedHeader,
    SegmentHeader,
    aligned,
    encode_header,
    encode_prefix,
    encode_segment_header,
)

_OPEN_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_PADDING: Final = bytes(8)
#: A large payload is brought to the disk in steps of this size, so that the last sync, which a sender waits
#: for, is as short for 8 GB as for 64 MB, and the page cache is not filled.
_STEP_BYTES: Final = 64 << 20


class Place(NamedTuple):
    """Where a record stands: the payload's range, and the record's number among the instances."""

    segment: int
    number: int
    payload_offset: int
    payload_length: int
    payload_hash: int
    end: int


class Segment:
    """A file open for appending; `tail` is its end in memory, `durable` the end that a sync has covered."""

    def __init__(self, path: Path, descriptor: int, header: SegmentHeader, capacity: int = 0) -> None:
        self.path = path
        self.capacity = capacity
        self.descriptor = descriptor
        self.header = header
        self.number = header.segment
        self.tail = self.durable = SEGMENT_HEADER_BYTES
        self.instances = 0
        self.records = 0
        self._ends: deque[int] = deque()  # of instances that no sync has covered
        self.syncing = self.failed = False

    @classmethod
    def create(cls, path: Path, header: SegmentHeader, preallocate: int = 0) -> "Segment":
        """Make the file; nothing of it is durable yet."""
        descriptor = os.open(path, _OPEN_NEW, 0o600)
        try:
            if preallocate:
                os.posix_fallocate(descriptor, 0, preallocate)
            files.write_all(descriptor, [encode_segment_header(header)], 0)
        except BaseException:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        return cls(path, descriptor, header, preallocate)

    @classmethod
    def recycle(cls, free: Path, path: Path, header: SegmentHeader, preallocate: int) -> "Segment":
        """Begin in the file of a freed segment; it has its new name when this returns, durable or not."""
        descriptor = os.open(free, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_size > preallocate:
                os.ftruncate(descriptor, preallocate)
            os.posix_fallocate(descriptor, 0, preallocate)
            files.write_all(descriptor, [encode_segment_header(header)], 0)
            os.fsync(descriptor)  # under its new name it must not begin with the old header
            free.rename(path)
        except BaseException:
            os.close(descriptor)
            free.unlink(missing_ok=True)
            raise
        return cls(path, descriptor, header, preallocate)

    def append(
        self,
        kind: Kind,
        header: Header,
        payload: Sequence[bytes | memoryview] = (),
        hashed: int = EMPTY_HASH,
    ) -> Place:
        """Write one record at the tail; where that fails the tail stays, and the next record overwrites."""
        number = self.instances if kind is Kind.INSTANCE else NO_NUMBER
        place, head = self._head(kind, encode_header(header), number, sum(map(len, payload)), hashed)
        padding = _PADDING[: place.end - place.payload_offset - place.payload_length]
        files.write_all(self.descriptor, [*head, *payload, padding], self.tail)
        self._advance(kind, place.end)
        return place

    def seal(self, reason: str) -> None:
        """Write the last record and cut the file behind it; durable after the next `sync`."""
        width = SEALED_BYTES - PREFIX_BYTES
        header = encode_header(SealedHeader(instances=self.instances, reason=reason), width)
        place, head = self._head(Kind.SEALED, header, NO_NUMBER, 0, EMPTY_HASH)
        files.write_all(self.descriptor, head, self.tail)
        os.ftruncate(self.descriptor, place.end)
        self._advance(Kind.SEALED, place.end)

    def sync(self) -> None:
        """Return when everything up to the tail is on the disk."""
        os.fdatasync(self.descriptor)

    def covered(self, end: int) -> None:
        """Note that a completed sync covers everything up to `end`."""
        self.durable = end
        while self._ends and self._ends[0] <= end:
            self._ends.popleft()

    def cut(self) -> None:
        """Forget what no sync has covered: those instances were refused, and are not counted."""
        self.tail = self.durable
        self.instances -= len(self._ends)
        self._ends.clear()

    def close(self) -> None:
        """Close the file."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _head(
        self, kind: Kind, header: bytes, number: int, length: int, hashed: int
    ) -> tuple[Place, list[bytes]]:
        prefix = encode_prefix(
            kind,
            header,
            number=number,
            segment=self.number,
            length=length,
            payload=hashed,
            seed=self.header.seed,
        )
        start = self.tail + PREFIX_BYTES + len(header)
        place = Place(self.number, number, start, length, hashed, aligned(start + length))
        return place, [prefix, header]

    def _advance(self, kind: Kind, end: int) -> None:
        self.tail = end
        self.records += 1
        if kind is Kind.INSTANCE:
            self.instances += 1
            self._ends.append(end)


def new_header(spool: str, segment: int, run: str, now: float) -> SegmentHeader:
    """Return the header of a new segment, with a seed that no sender knows."""
    return SegmentHeader(
        spool=spool,
        segment=segment,
        run=run,
        boot=files.boot_id(),
        seed=secrets.randbits(63),
        created_at=now,
    )


class LargeSegment:
    """A segment for one instance that is too large for memory: the payload comes first, the headers last.

    Until `finish` the file has no valid header, so that recovery sees nothing in it.
    """

    PAYLOAD_OFFSET: Final = SEGMENT_HEADER_BYTES + LARGE_HEADER_BYTES

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, _OPEN_NEW, 0o600)
        self.length = 0

    def write(self, pieces: Sequence[bytes | memoryview], length: int) -> None:
        """Append to the payload; `length` is that of all pieces."""
        files.write_all(self.descriptor, pieces, self.PAYLOAD_OFFSET + self.length)
        self.length += length
        if self.length // _STEP_BYTES > (self.length - length) // _STEP_BYTES:
            self.sync_payload()

    def sync_payload(self) -> None:
        """Bring the payload to the disk, so that the writer's lock is not held for as long as that takes."""
        os.fdatasync(self.descriptor)

    def finish(self, segment_header: SegmentHeader, header: Header, hashed: int) -> tuple[Segment, Place]:
        """Write both headers and return the segment, its tail behind the instance."""
        files.write_all(self.descriptor, [encode_segment_header(segment_header)], 0)
        segment = Segment(self.path, self.descriptor, segment_header)
        body = encode_header(header, LARGE_HEADER_BYTES - PREFIX_BYTES)
        place, head = segment._head(Kind.INSTANCE, body, 0, self.length, hashed)
        if place.payload_offset != self.PAYLOAD_OFFSET:
            raise ValueError(f"header of {len(body)} bytes does not fit before a large payload")
        files.write_all(self.descriptor, head, segment.tail)
        segment._advance(Kind.INSTANCE, place.end)
        return segment, place

    def discard(self) -> None:
        """Remove the file."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        self.path.unlink(missing_ok=True)
