"""Find and verify records in a segment file: the one way in which bytes of a spool are read.

`read_record` takes the record at an offset, if one is there; `find_record` looks for the next one behind
damage. Both trust the seeded check alone.
"""

import os
from typing import Final, NamedTuple

import xxhash

from infra.spool.format import (
    ALIGNMENT,
    PREFIX_BYTES,
    RECORD_MAGIC,
    SEALED_BYTES,
    SEGMENT_HEADER_BYTES,
    Header,
    Kind,
    SealedHeader,
    SegmentHeader,
    aligned,
    decode_header,
    decode_prefix,
    decode_segment_header,
    digest_text,
    payload_hash,
    verify_head,
)

#: One read brings prefix and header of nearly every record.
_HEAD_BYTES: Final = 2048
_BLOCK_BYTES: Final = 1 << 20


class Record(NamedTuple):
    """A record as found: `header` is None for a kind that this program does not know.

    `number` is the ordinal among the instances of the segment; `end` is where the next record begins.
    """

    kind: int
    header: Header | None
    segment: int
    number: int
    offset: int
    payload_offset: int
    payload_length: int
    payload_hash: int
    end: int

    @property
    def digest(self) -> str:
        """The payload's checksum as pointers carry it."""
        return digest_text(self.payload_hash)


def read_segment_header(descriptor: int) -> SegmentHeader | None:
    """Return the header of an open segment, or None where it has none."""
    return decode_segment_header(os.pread(descriptor, SEGMENT_HEADER_BYTES, 0))


def read_record(descriptor: int, segment: SegmentHeader, offset: int) -> Record | None:
    """Return the record at `offset`, its head verified and its payload not, or None."""
    head = os.pread(descriptor, _HEAD_BYTES, offset)
    prefix = decode_prefix(head, segment.segment)
    if prefix is None:
        return None
    if len(head) < PREFIX_BYTES + prefix.header_length:
        head = os.pread(descriptor, PREFIX_BYTES + prefix.header_length, offset)
    if not verify_head(prefix, head, segment.seed):
        return None
    start = offset + PREFIX_BYTES + prefix.header_length
    return Record(
        kind=prefix.kind,
        header=decode_header(prefix.kind, head[: PREFIX_BYTES + prefix.header_length]),
        segment=prefix.segment,
        number=prefix.number,
        offset=offset,
        payload_offset=start,
        payload_length=prefix.payload_length,
        payload_hash=prefix.payload_hash,
        end=aligned(start + prefix.payload_length),
    )


def find_record(descriptor: int, segment: SegmentHeader, offset: int, end: int) -> Record | None:
    """Return the first record at or behind `offset` that begins before `end`, or None."""
    at = aligned(offset)
    while at < end:
        block = os.pread(descriptor, _BLOCK_BYTES, at)
        place = block.find(RECORD_MAGIC)
        while place >= 0:
            if place % ALIGNMENT == 0 and at + place < end:
                record = read_record(descriptor, segment, at + place)
                if record is not None:
                    return record
            place = block.find(RECORD_MAGIC, place + 1)
        if len(block) < _BLOCK_BYTES:
            return None
        at += _BLOCK_BYTES - ALIGNMENT
    return None


def read_seal(descriptor: int, segment: SegmentHeader) -> tuple[int, SealedHeader] | None:
    """Return where the records of a sealed segment end and what its seal says; None for an open one."""
    offset = os.fstat(descriptor).st_size - SEALED_BYTES
    if offset < SEGMENT_HEADER_BYTES:
        return None
    record = read_record(descriptor, segment, offset)
    if record is None or record.kind != Kind.SEALED or not isinstance(record.header, SealedHeader):
        return None
    return offset, record.header


def payload_is_whole(descriptor: int, record: Record) -> bool:
    """Whether the payload has the checksum that its record says."""
    if record.payload_length <= _BLOCK_BYTES:
        data = os.pread(descriptor, record.payload_length, record.payload_offset)
        return len(data) == record.payload_length and payload_hash(data) == record.payload_hash
    state, at, left = xxhash.xxh3_64(), record.payload_offset, record.payload_length
    while left:
        data = os.pread(descriptor, min(left, _BLOCK_BYTES), at)
        if not data:
            return False
        state.update(data)
        at, left = at + len(data), left - len(data)
    return state.intdigest() == record.payload_hash
