"""Read a spool from any process: by position, by pointer, and freeing.

1. `SpoolReader.records` yields what is durable from a position on: the relay's way.
2. `SpoolStore.read` and `chunks` return the bytes behind a pointer, checksum verified, from this machine or
   from the relay that has the spool.
3. `SpoolReader.free` gives a segment's space back.

Nothing is read past the watermark, except by a pointer, which somebody was given after it.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import xxhash

from infra.spool import files, recycling, scan
from infra.spool.format import SEGMENT_HEADER_BYTES, Kind, SegmentHeader, digest_text
from infra.spool.scan import Record
from infra.spool.watermark import Position, Watermark
from schemas.errors import BadMessage, SlowDown
from schemas.events import Pointer

_log = logging.getLogger(__name__)
_SCHEME: Final = "spool://"
_BLOCK_BYTES: Final = 1 << 20


class SegmentFreed(LookupError):
    """The segment is not in the spool any more."""


class OutOfRange(LookupError):
    """The segment has no such bytes, and never will."""


class NotDurable(LookupError):
    """These bytes are not durable, or not known to be: after a power loss, until the writer has recovered."""


class UnknownSpool(SlowDown):
    """Nobody here knows this spool: a mount, a reader or a setting is missing."""


class Remote(Protocol):
    """Spools of other machines; `infra.spool.client` reads them from their relays."""

    def read(self, spool: str, segment: int, pointer: Pointer) -> bytes:
        """Return the bytes of a pointer, verified; raise as `SpoolStore.read`."""


class Segment(NamedTuple):
    """What a reader may know of a segment: `end` is where its durable records end.

    `sealed` says that there will be no more, and no reader will ever see more.
    """

    number: int
    end: int
    sealed: bool


class SpoolReader:
    """One spool, read.

    Parameters
    ----------
    folder : Path
        The spool; FileNotFoundError where no writer has made it yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = files.read_identity(folder).spool
        self._mark = Watermark(folder)

    def durable(self) -> Position:
        """Return the durable end of the spool."""
        return self._mark.load()

    def segments(self) -> list[int]:
        """Return the numbers of the segments that hold durable records, ascending."""
        last = self.durable().segment
        return [number for number in files.segments(self.folder) if number <= last]

    def segment(self, number: int) -> Segment:
        """Return a segment's durable end; raise `SegmentFreed` where it is gone."""
        durable = self.durable()
        with _Opened(self.folder, number) as (descriptor, header):
            seal = scan.read_seal(descriptor, header)
            size = os.fstat(descriptor).st_size
        end = seal[0] if seal else size
        if number < durable.segment:
            return Segment(number, end, True)
        if number > durable.segment:
            return Segment(number, 0, False)
        # The seal itself may not be durable yet.
        return Segment(number, min(end, durable.offset), seal is not None and durable.offset > end)

    def check_range(self, number: int, offset: int, length: int) -> None:
        """Return where these bytes of a segment are durable records, not its header.

        Raises
        ------
        SegmentFreed, OutOfRange, NotDurable
            They are gone, not there, or not there yet.
        """
        segment = self.segment(number)
        if offset < SEGMENT_HEADER_BYTES or length < 1:
            raise OutOfRange(f"expected bytes behind a segment's header, came {length} at {offset}")
        if offset + length > segment.end:
            raise (OutOfRange if segment.sealed else NotDurable)(f"segment {number} ends at {segment.end}")

    def records(self, number: int, offset: int = 0) -> Iterator[Record]:
        """Yield the durable records of a segment from `offset` on; the seal is not one of them.

        Raises
        ------
        SegmentFreed
            The segment is gone.
        """
        end = self.segment(number).end
        at = max(offset, SEGMENT_HEADER_BYTES)
        with _Opened(self.folder, number) as (descriptor, header):
            while at < end:
                record = scan.read_record(descriptor, header, at)
                if record is None:
                    _log.error("segment %d is damaged at %d: stepped over", number, at)
                    record = scan.find_record(descriptor, header, at + 1, end)
                if record is None or record.kind == Kind.SEALED:
                    return
                yield record
                at = record.end

    def oldest_seconds(self, now: float) -> float:
        """Return the age of the oldest segment; 0 where the spool is empty."""
        for number in self.segments():
            with contextlib.suppress(SegmentFreed), _Opened(self.folder, number) as (_, header):
                return max(0.0, now - header.created_at)
        return 0.0

    def instances(self) -> dict[tuple[str, int], int]:
        """Return the number of durable instances of each segment, by (spool id, segment)."""
        counted = {}
        for number in self.segments():
            with contextlib.suppress(SegmentFreed):
                counted[self.id, number] = self._count(number)
        return counted

    def _count(self, number: int) -> int:
        if self.segment(number).sealed:
            with _Opened(self.folder, number) as (descriptor, header):
                if seal := scan.read_seal(descriptor, header):
                    return seal[1].instances
        return sum(record.kind == Kind.INSTANCE for record in self.records(number))

    def free(self, number: int) -> bool:
        """Give a segment's space back; False for the newest one, which keeps the numbering, and for one that is gone."""
        present = files.segments(self.folder)
        if number not in present or number == present[-1]:
            return False
        recycling.give_back(files.segment_path(self.folder, number))
        return True


def readers(folder: Path) -> dict[str, SpoolReader]:
    """Return readers of the spool in `folder` and of those in it, by spool id; none where no writer has come yet."""
    try:
        found = [SpoolReader(path) for path in files.spools(folder)]
    except FileNotFoundError:
        return {}
    return {reader.id: reader for reader in found}


def read_range(folder: Path, number: int, offset: int, length: int) -> Iterator[bytes]:
    """Yield a range of a segment in blocks; raise `SegmentFreed` where the segment is gone."""
    with _Opened(folder, number) as (descriptor, _):
        while length:
            data = os.pread(descriptor, min(length, _BLOCK_BYTES), offset)
            if not data:
                return
            yield data
            offset, length = offset + len(data), length - len(data)


class SpoolStore:
    """Pointers into spools, resolved: on this machine, else by the relay that has the spool.

    Parameters
    ----------
    roots : mapping
        Spool id to the folder where this machine finds it (its own, or a shared mount).
    remote : Remote, optional
        Asked for spools that are not among them.
    """

    def __init__(self, roots: Mapping[str, Path], remote: Remote | None = None) -> None:
        self._roots, self._remote = dict(roots), remote

    @classmethod
    def of(cls, *folders: Path, remote: Remote | None = None) -> "SpoolStore":
        """Return a store of spools on this machine and those of further processes in them, by their own ids."""
        found = (spool for folder in folders for spool in files.spools(folder))
        return cls({files.read_identity(spool).spool: spool for spool in found}, remote)

    def read(self, pointer: Pointer) -> bytes:
        """Return the bytes of a pointer, verified.

        Raises
        ------
        BadMessage
            `missing_raw`: the segment was freed. `raw_corrupt`: the bytes do not match their checksum.
        UnknownSpool
            Neither this machine nor a relay has the spool: a mount or a setting is missing.
        SlowDown
            The relay that has it does not answer.
        """
        return b"".join(self.chunks(pointer))

    def chunks(self, pointer: Pointer) -> Iterator[bytes]:
        """Yield the bytes of a pointer in blocks of 1 MB; the checksum is judged after the last one.

        What comes from a relay is one block, judged before it is given.
        """
        spool, number = parse_uri(pointer.uri)
        folder = self._roots.get(spool)
        if folder is None and self._remote is not None:
            yield self._remote.read(spool, number, pointer)
            return
        if folder is None:
            raise UnknownSpool(f"spool {spool} is not among those of this machine")
        state, length = xxhash.xxh3_64(), 0
        try:
            for data in read_range(folder, number, pointer.offset, pointer.length):
                state.update(data)
                length += len(data)
                yield data
        except SegmentFreed:
            raise missing(spool, number) from None
        if length != pointer.length or pointer.digest not in (None, digest_text(state.intdigest())):
            if not files.segment_path(folder, number).exists():  # freed meanwhile, and written again
                raise missing(spool, number)
            raise corrupt(number, pointer)


def missing(spool: str, segment: int) -> BadMessage:
    """Return the error of a segment that was freed."""
    return BadMessage("missing_raw", f"segment {segment} of spool {spool} was freed")


def corrupt(segment: int, pointer: Pointer) -> BadMessage:
    """Return the error of bytes that are not the pointer's."""
    return BadMessage("raw_corrupt", f"segment {segment} at {pointer.offset}: checksum differs")


def uri_of(spool: str, segment: int) -> str:
    """Return the URI of a segment."""
    return f"{_SCHEME}{spool}/{segment}"


def parse_uri(uri: str) -> tuple[str, int]:
    """Return spool id and segment of a ``spool://`` URI; BadMessage for any other text."""
    spool, _, number = uri.removeprefix(_SCHEME).partition("/")
    if not uri.startswith(_SCHEME) or not (number.isascii() and number.isdigit()):
        raise BadMessage("malformed_message", "expected a spool:// URI")
    return spool, int(number)


def pointer_to(spool: str, record: Record) -> Pointer:
    """Return the pointer to a record's payload."""
    return Pointer(
        uri=uri_of(spool, record.segment),
        offset=record.payload_offset,
        length=record.payload_length,
        digest=record.digest,
    )


class _Opened:
    """An open segment with its header."""

    def __init__(self, folder: Path, number: int) -> None:
        try:
            self._descriptor = os.open(files.segment_path(folder, number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise SegmentFreed(f"segment {number} is not in the spool") from None

    def __enter__(self) -> tuple[int, SegmentHeader]:
        header = scan.read_segment_header(self._descriptor)
        if header is None:
            os.close(self._descriptor)
            raise SegmentFreed("the segment has no readable header")
        return self._descriptor, header

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
