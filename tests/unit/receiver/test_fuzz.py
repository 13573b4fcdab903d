"""The PDU path under streams that nobody would send: it ends, says what PS3.8 allows, and leaves nothing behind."""

import logging
import os
import random
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pynetdicom.dimse
import pynetdicom.dimse_messages
import pynetdicom.pdu
import pytest
from fuzzing import fuzz
from pynetdicom import AE, build_context
from pynetdicom.association import Association

import producers.receiver.inbound
import producers.receiver.intake
import producers.receiver.store
import producers.receiver.takeover
import schemas.dicom_reader
from infra.clock import SystemClock
from infra.settings import Receive
from infra.spool import Spool
from infra.spool.segment import Segment
from producers import upper_layer as ul
from producers.receiver import guard
from producers.receiver.admission import Caller, Session
from producers.receiver.door import Door
from producers.receiver.plain import MessageFile
from producers.receiver.slots import Slots
from producers.receiver.takeover import take_over
from schemas.sources import Source

#: `make fuzz` sets it; without it a few hundred runs.
SECONDS: Final = float(os.environ.get("PRODROME_FUZZ_SECONDS", "0"))
RUNS: Final = 400

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
CONTEXTS: Final = {
    1: (CT, "1.2.840.10008.1.2.1"),
    3: (CT, "1.2.840.10008.1.2"),
    5: (CT, "1.2.840.10008.1.2.1.99"),
    7: (CT, "1.2.840.10008.1.2.2"),
    9: ("1.2.840.10008.1.1", "1.2.840.10008.1.2"),
}
ROOMS: Final = [
    Path(module.__file__ or "")
    for module in (
        ul, producers.receiver.inbound, producers.receiver.takeover, producers.receiver.intake, guard,
        producers.receiver.store, schemas.dicom_reader, pynetdicom.pdu, pynetdicom.dimse,
        pynetdicom.dimse_messages,
    )
]  # fmt: skip


class Peer:
    """A socket whose other end has said all that it ever says, in chunks of any size; `heard` is what it got."""

    def __init__(self, stream: bytes, chance: random.Random) -> None:
        self._stream, self._chance, self._at = stream, chance, 0
        self.heard: list[bytes] = []

    def settimeout(self, _seconds: float) -> None:
        """Nothing here waits."""

    def setsockopt(self, *_option: object) -> None:
        """Nor is there a kernel to tell."""

    def recv_into(self, view: memoryview) -> int:
        some = self._chance.choice((1, 5, 6, 7, 100, 4096, 1 << 20))
        data = self._stream[self._at : self._at + min(some, len(view))]
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def send(self, data: bytes | memoryview) -> int:
        self.heard.append(bytes(data))
        return len(data)


@pytest.fixture
def receive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[bytes, random.Random], None]]:
    """Gives a stream to an established association, and judges what came of it."""
    monkeypatch.setattr(Segment, "sync", lambda _: None)  # speed: what is durable is not the question here
    monkeypatch.setattr(logging.getLogger("pynetdicom"), "level", logging.CRITICAL)
    spool = Spool(tmp_path)
    source = Source(name="local")
    door = Door(
        Receive(max_object_bytes=1 << 20), (source,), spool, Slots(tmp_path, (source,)), SystemClock()
    )

    def one(stream: bytes, chance: random.Random) -> None:
        assoc = Association(AE(), "acceptor")
        assoc._accepted_cx = {}
        for number, (abstract, syntax) in CONTEXTS.items():
            context = build_context(abstract, syntax)
            context.context_id = number
            assoc._accepted_cx[number] = context
        assoc.is_established = True
        peer = Peer(stream, chance)
        assoc.dul.socket = SimpleNamespace(socket=peer)
        session = Session(caller=Caller(calling="A", called="B", address="127.0.0.1"), source=source)
        door._sessions[assoc] = session
        guard.bound_messages(assoc, lambda: MessageFile(door.begin(assoc)), lambda _: None)
        run = take_over(assoc, door, SystemClock())
        for _ in range(len(stream) + 2):
            if run() or not assoc.dul.event_queue.empty():
                break
            drain(assoc)
        else:
            raise AssertionError("it did not come to an end")
        if assoc.dimse.message is not None and isinstance(assoc.dimse.message.data_set, MessageFile):
            assoc.dimse.message.data_set.close()  # as the door does when the association has ended
        del door._sessions[assoc]
        statuses = [ul.response_status(pdu[6:]) for pdu in peer.heard]
        assert set(statuses) <= {0, 0xB007, 0xA700, 0x0117, 0x0122, 0xA900, 0xC000}
        assert session.ordinal == sum(status in (0, 0xB007) for status in statuses)
        assert door._budget._held == 0
        assert not list(tmp_path.glob("*.part"))

    yield one
    spool.close()


def drain(assoc: Any) -> None:
    """Take what was handed to pynetdicom: a message, whose dataset is dropped."""
    while not assoc.dimse.msg_queue.empty():
        _, message = assoc.dimse.msg_queue.get()
        data = getattr(message, "DataSet", None)
        if isinstance(data, MessageFile):
            data.close()


def element(tag: int, value: bytes) -> bytes:
    """An element, explicit little endian."""
    padded = value + b"\0" * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, b"UI", len(padded)) + padded


def seeds() -> list[bytes]:
    """Streams of every kind that the path knows."""
    data = element(0x00080016, CT.encode()) + element(0x00080018, b"1.2.3") + element(0x0020000D, b"1.2")
    sequence = struct.pack("<HH2sHL", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, 8
    )
    nested = sequence + bytes(8) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0) + data
    deflated = zlib.compress(data)[2:-4]
    command = ul.store_command(1, CT, "1.2.3")
    echo = ul.command_pdu(9, ul.echo_command(1))

    def stored(context: int, dataset: bytes) -> bytes:
        return ul.command_pdu(context, command) + ul.data_pdu(context, dataset, last=True)

    half = len(data) // 2 & ~1
    parts = ul.data_pdu(1, data[:half], last=False) + ul.data_pdu(1, data[half:], last=True)
    one_pdu = ul.command_pdu(1, command)[6:] + ul.data_pdu(1, data, last=True)[6:]
    return [
        stored(1, data), stored(3, data), stored(5, deflated), stored(7, data), stored(1, nested), echo,
        ul.command_pdu(1, command) + parts, struct.pack(">BxL", 4, len(one_pdu)) + one_pdu,
        stored(1, data) + echo + stored(3, data) + ul.RELEASE_REQUEST, ul.ABORT_REQUEST, ul.RELEASE_REQUEST,
        stored(1, bytes(70_000)), ul.command_pdu(1, ul.store_response_command(1, CT, "1.2", 0, "no", (1,))),
    ]  # fmt: skip


def test_streams_that_nobody_would_send(receive: Callable[[bytes, random.Random], None]) -> None:
    """No crash, no hang, no memory and no file left; the seed repeats it."""
    seed = os.environ.get("PRODROME_FUZZ_SEED", "prodrome")
    until = time.monotonic() + SECONDS
    found = fuzz(receive, seeds(), ROOMS, random.Random(seed), lambda n: n < RUNS or time.monotonic() < until)
    print(f"{found.runs} streams, {found.arcs} branches, {found.corpus} kept, seed {seed}")
    assert found.corpus > len(seeds())
