"""A receiver in a thread of this process, and what is sent to it."""

import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from infra.spool import AssociationClosedHeader, InstanceHeader, Spool, SpoolReader, SpoolStore, pointer_to
from producers.send import Association, Destination, Item

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")
EXPLICIT = "1.2.840.10008.1.2.1"
CT = "1.2.840.10008.5.1.4.1.1.2"


class Door(NamedTuple):
    """A receiver that runs in a thread of this process."""

    destination: Destination
    folder: Path
    spool: Spool
    stop: Callable[[], None]


def stored(folder: Path) -> list[tuple[InstanceHeader, bytes]]:
    """Every instance that the spool holds, in order, checksums verified."""
    reader, store = SpoolReader(folder), SpoolStore.of(folder)
    found = (record for number in reader.segments() for record in reader.records(number))
    return [
        (record.header, store.read(pointer_to(reader.id, record)))
        for record in found
        if isinstance(record.header, InstanceHeader)
    ]


def closings(folder: Path) -> list[AssociationClosedHeader]:
    """Every closed association that the spool holds."""
    reader = SpoolReader(folder)
    found = (record.header for number in reader.segments() for record in reader.records(number))
    return [header for header in found if isinstance(header, AssociationClosedHeader)]


def dataset(uid: str, size: int = 100, sop_class: str = CT, study: str = "1.2.3") -> bytes:
    """A small explicit little endian dataset."""
    parts = [(0x0008, 0x0016, sop_class), (0x0008, 0x0018, uid), (0x0020, 0x000D, study)]
    head = b"".join(
        struct.pack("<HH2sH", group, number, b"UI", len(text) + len(text) % 2)
        + text.encode()
        + b"\0" * (len(text) % 2)
        for group, number, text in parts
    )
    return head + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, size) + os.urandom(size)


def item(folder: Path, command_uid: str, data: bytes, sop_class: str = CT) -> Item:
    """A file with no meta that is sent under any UID."""
    path = folder / f"file{len(list(folder.iterdir()))}"
    path.write_bytes(data)
    return Item(path, 0, sop_class, command_uid, EXPLICIT)


def store_one(door: Door, one: Item, way: Destination | None = None, **titles: str) -> int:
    """Send one file on an association of its own and return the status."""
    destination = replace(way or door.destination, **titles)
    association = Association(destination, {(one.sop_class_uid, one.transfer_syntax_uid): 1})
    status = association.store(one)
    association.release()
    return status


def free_port() -> int:
    """A port that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def eventually(check: Callable[[], bool], seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if check():
                return True
        except Exception:  # not yet
            pass
        time.sleep(0.1)
    return False
