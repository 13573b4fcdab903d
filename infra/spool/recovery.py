"""Bring a spool into order before its writer starts.

1. Sweep large instances that had not arrived whole, which were never acknowledged, and freed segments.
2. Seal every segment that a killed writer left open, behind its last whole record: a torn tail is cut. What
   was acknowledged is whole, for its sync had completed; a whole record that was not acknowledged is kept,
   since its sender may have been told so in the last moment.
3. Rebuild the table of open associations from the last segment.

Damage before the durable end is no torn tail: nothing is cut there. The record is stepped over where its
head is damaged, and kept where its payload is: whoever reads it is told so.
"""

import logging
import os
from pathlib import Path
from typing import NamedTuple

from infra.spool import files, recycling, scan
from infra.spool.associations import OpenAssociations
from infra.spool.format import SEGMENT_HEADER_BYTES, Kind, SegmentHeader
from infra.spool.segment import Segment
from infra.spool.watermark import Position

_log = logging.getLogger(__name__)


class Recovered(NamedTuple):
    """What the writer starts from."""

    end: Position
    associations: OpenAssociations


def recover(folder: Path, durable: Position) -> Recovered:
    """Bring the folder into order; the caller holds the writer's lock.

    Parameters
    ----------
    folder : Path
        The spool.
    durable : Position
        The durable end as it was last stored; nothing before it is ever cut.
    """
    for part in [*folder.glob("*" + files.PART), *folder.glob("*.tmp")]:
        part.unlink()
    recycling.sweep(folder, 0)
    end = Position(durable.segment, 0)
    associations = OpenAssociations()
    numbers = files.segments(folder)
    for number in numbers:
        floor = durable.offset if number == durable.segment else 0
        length = _recover_segment(folder, number, floor, associations if number == numbers[-1] else None)
        end = max(end, Position(number, length))
    files.sync_folder(folder)
    return Recovered(end, associations)


def _recover_segment(folder: Path, number: int, floor: int, associations: OpenAssociations | None) -> int:
    path = files.segment_path(folder, number)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        header = scan.read_segment_header(descriptor)
        if header is None or header.segment != number:
            _set_aside(path, floor)
            return 0
        seal = scan.read_seal(descriptor, header)
        if seal is None:
            _seal(path, descriptor, header, floor)
        if associations is not None:
            _replay(descriptor, header, associations)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _set_aside(path: Path, floor: int) -> None:
    # The header is synced before a segment takes records: without one, nothing in it was acknowledged,
    # unless the durable end says otherwise. A person decides; the bytes stay.
    if floor > SEGMENT_HEADER_BYTES:
        _log.error("segment %s: its header is damaged, kept as %s", path.stem, files.DAMAGED)
    path.rename(path.with_suffix(files.DAMAGED))


def _seal(path: Path, descriptor: int, header: SegmentHeader, floor: int) -> None:
    segment = Segment(path, descriptor, header)
    while (record := _next(descriptor, header, segment.tail, floor)) is not None:
        segment.tail = record.end
        segment.records += 1
        segment.instances += record.kind == Kind.INSTANCE
    before = os.fstat(descriptor).st_size
    segment.seal("recovered")
    os.fsync(descriptor)
    _log.info(
        "segment %d recovered: %d instances, %d bytes cut", header.segment, segment.instances,
        max(0, before - segment.tail),
    )  # fmt: skip


def _next(descriptor: int, header: SegmentHeader, offset: int, floor: int) -> scan.Record | None:
    record = scan.read_record(descriptor, header, offset)
    if record is None and offset < floor:
        _log.error("segment %d is damaged at %d: stepped over", header.segment, offset)
        record = scan.find_record(descriptor, header, offset + 1, floor)
    if record is None or record.kind == Kind.SEALED:
        return None
    if record.end > floor and not scan.payload_is_whole(descriptor, record):
        return None
    return record


def _replay(descriptor: int, header: SegmentHeader, associations: OpenAssociations) -> None:
    offset = SEGMENT_HEADER_BYTES
    while (record := scan.read_record(descriptor, header, offset)) is not None:
        associations.replay(record.header)
        offset = record.end
