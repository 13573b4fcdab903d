"""What stands in the bytes of a spool, version 1. Pure: values in, bytes out, and back.

::

    segment  = segment header (4096 bytes), records, each at a multiple of 8
    segment header: magic "PRODSPOL" | version u32 | body length u32 | XXH3-64 of the body u64
                    | body: JSON of `SegmentHeader` | zeros
    record   = prefix (64 bytes), header (JSON), payload (the dataset as received), zeros up to 8
    prefix:  magic "REC1" | version u8 | kind u8 | flags u16 | header length u32 | number u32
             | segment u64 | payload length u64 | XXH3-64 of the payload u64 | reserved 16 bytes
             | check u64: XXH3-64, seeded, of the 56 bytes before it and the header

All numbers are little endian. The payload is contiguous, so that a pointer is (segment, offset, length).

The check is seeded with a random number of the segment, which no sender knows: bytes of a dataset that look
like a record, or what an earlier use left in the file, are never taken for one. The payload's own checksum
has no seed: anyone who holds the pointer can verify it.

Headers are JSON and readers ignore fields they do not know; a kind that a reader does not know is stepped
over. A change that an old reader would get wrong takes a new version number.
"""

import struct
from enum import IntEnum
from typing import Final, NamedTuple

import msgspec
import xxhash

VERSION: Final = 1
SEGMENT_MAGIC: Final = b"PRODSPOL"
RECORD_MAGIC: Final = b"REC1"
SEGMENT_HEADER_BYTES: Final = 4096
ALIGNMENT: Final = 8
#: The last record of a sealed segment has this size, so that it is found from the end of the file.
SEALED_BYTES: Final = 256
#: Longest header of a record; names and UIDs are bounded, so that a real one has about 600 bytes.
MAX_HEADER_BYTES: Final = 4 << 20
#: A large instance's header is written last, into room left for it before the payload.
LARGE_HEADER_BYTES: Final = 4096
NO_NUMBER: Final = 0xFFFFFFFF

_SEGMENT: Final = struct.Struct("<8sIIQ")
_PREFIX: Final = struct.Struct("<4sBBHIIQQQ16x")
_CHECK: Final = struct.Struct("<Q")
PREFIX_BYTES: Final = _PREFIX.size + _CHECK.size


class Kind(IntEnum):
    """What a record is."""

    INSTANCE = 1
    ASSOCIATION_CLOSED = 2
    ASSOCIATIONS_OPEN = 3
    SEALED = 4


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all JSON headers: frozen, unknown fields ignored."""


class SegmentHeader(Header, frozen=True, kw_only=True):
    """Which segment of which spool this file is.

    `run` is the writer process, `boot` the machine's boot: a segment of another run has no writer any more.
    """

    spool: str
    segment: int
    run: str
    boot: str
    seed: int
    created_at: float


class InstanceHeader(Header, frozen=True, kw_only=True):
    """Everything about an instance that is not in its dataset, and where it belongs.

    `ordinal` counts from 0 within the association. AE titles are as received: the spool is trusted.
    `study_instance_uid` is None where the first kilobytes did not show one.
    """

    project: str
    source: str
    association: str
    ordinal: int
    calling_ae_title: str
    called_ae_title: str
    address: str
    trace: str
    received_at: float
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str | None = None
    dataset_mismatch: bool = False


class AssociationCounts(Header, frozen=True, kw_only=True):
    """How many instances of each study an association has brought."""

    association: str
    project: str
    studies: dict[str, int]


class AssociationClosedHeader(AssociationCounts, frozen=True, kw_only=True):
    """An association has ended: ``released``, ``aborted`` or ``killed`` (found at the next start)."""

    cause: str


class AssociationsOpenHeader(Header, frozen=True, kw_only=True):
    """The associations open at this point: every segment begins with it, so recovery reads only the last."""

    associations: tuple[AssociationCounts, ...]


class SealedHeader(Header, frozen=True, kw_only=True):
    """There will be no more records.

    `reason` is ``full``, ``age``, ``large``, ``stop``, ``recovered`` or ``sync_error``.
    """

    instances: int
    reason: str


HEADERS: Final[dict[int, type[Header]]] = {
    Kind.INSTANCE: InstanceHeader,
    Kind.ASSOCIATION_CLOSED: AssociationClosedHeader,
    Kind.ASSOCIATIONS_OPEN: AssociationsOpenHeader,
    Kind.SEALED: SealedHeader,
}
_DECODERS: Final = {kind: msgspec.json.Decoder(header) for kind, header in HEADERS.items()}
_SEGMENT_DECODER: Final = msgspec.json.Decoder(SegmentHeader)
_ENCODER: Final = msgspec.json.Encoder()


class Prefix(NamedTuple):
    """The fixed part of a record."""

    kind: int
    header_length: int
    number: int
    segment: int
    payload_length: int
    payload_hash: int
    check: int


def aligned(offset: int) -> int:
    """Return the first multiple of `ALIGNMENT` that is not below `offset`."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def payload_hash(*pieces: bytes | memoryview) -> int:
    """Return the XXH3-64 of a payload, given in pieces, without a seed."""
    if len(pieces) == 1:
        return xxhash.xxh3_64_intdigest(pieces[0])
    hashing = xxhash.xxh3_64()
    for piece in pieces:
        hashing.update(piece)
    return hashing.intdigest()


#: The checksum of records that are a header alone.
EMPTY_HASH: Final = xxhash.xxh3_64_intdigest(b"")


def digest_text(value: int) -> str:
    """Return a payload's checksum as pointers carry it: ``xxh3:`` and 16 hexadecimal digits."""
    return f"xxh3:{value:016x}"


def encode_segment_header(header: SegmentHeader) -> bytes:
    """Return the first `SEGMENT_HEADER_BYTES` of a segment."""
    body = _ENCODER.encode(header)
    start = _SEGMENT.pack(SEGMENT_MAGIC, VERSION, len(body), xxhash.xxh3_64_intdigest(body))
    return (start + body).ljust(SEGMENT_HEADER_BYTES, b"\0")


def decode_segment_header(data: bytes) -> SegmentHeader | None:
    """Return the header of a segment, or None where these bytes are none.

    Raises
    ------
    ValueError
        A version that this reader does not know: it must not touch the file.
    """
    if len(data) < SEGMENT_HEADER_BYTES:
        return None
    magic, version, length, check = _SEGMENT.unpack_from(data)
    body = data[_SEGMENT.size : _SEGMENT.size + length]
    if magic != SEGMENT_MAGIC or xxhash.xxh3_64_intdigest(body) != check:
        return None
    if version != VERSION:
        raise ValueError(f"spool segment of version {version}; this program reads version {VERSION}")
    return _SEGMENT_DECODER.decode(body)


def encode_header(header: Header, width: int = 0) -> bytes:
    """Return the JSON of a record's header, filled with spaces to `width` bytes."""
    return _ENCODER.encode(header).ljust(width)


def encode_prefix(
    kind: Kind, header: bytes, *, number: int, segment: int, length: int, payload: int, seed: int
) -> bytes:
    """Return the prefix of a record, check included.

    Parameters
    ----------
    header : bytes
        The encoded header that will follow.
    number : int
        Ordinal of an instance within its segment, `NO_NUMBER` for other kinds.
    length, payload : int
        Length of the payload in bytes, and its `payload_hash`.
    seed : int
        The segment's.
    """
    fixed = _PREFIX.pack(RECORD_MAGIC, VERSION, kind, 0, len(header), number, segment, length, payload)
    return fixed + _CHECK.pack(xxhash.xxh3_64_intdigest(fixed + header, seed))


def decode_prefix(data: bytes, segment: int) -> Prefix | None:
    """Return the prefix at the start of `data`, or None where there is none of this segment; unverified."""
    if len(data) < PREFIX_BYTES:
        return None
    magic, version, kind, _flags, header_length, number, owner, length, hashed = _PREFIX.unpack_from(data)
    if magic != RECORD_MAGIC or version != VERSION or owner != segment or header_length > MAX_HEADER_BYTES:
        return None
    (check,) = _CHECK.unpack_from(data, _PREFIX.size)
    return Prefix(kind, header_length, number, owner, length, hashed, check)


def verify_head(prefix: Prefix, head: bytes, seed: int) -> bool:
    """Whether prefix and header, `head`, are what the writer of this segment wrote."""
    end = PREFIX_BYTES + prefix.header_length
    covered = head[: _PREFIX.size] + head[PREFIX_BYTES:end]
    return len(head) >= end and xxhash.xxh3_64_intdigest(covered, seed) == prefix.check


def decode_header(kind: int, head: bytes) -> Header | None:
    """Return the header of a verified record; None for a kind that this reader does not know."""
    decoder = _DECODERS.get(kind)
    return decoder.decode(head[PREFIX_BYTES:]) if decoder else None
