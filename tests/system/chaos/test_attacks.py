"""Attacks on the door from the network: each costs little memory and one slot for a while, and nobody else anything.

The table is what somebody does who speaks TCP and has read PS3.8. After each of them an echo is answered in time,
no association is left, and the receiver holds as little as before.
"""

import io
import itertools
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import psutil
import pytest
from disks import MEGABYTE
from house import eventually
from receivers import PEER_BYTES, SLOT_SECONDS, Receiver
from scale import LONG
from wires import element, ended

from producers import upper_layer as ul
from producers.send import Association, echo

CT, DEFLATED = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1.99"
EXPLICIT = "1.2.840.10008.1.2.1"
#: The guide's: what others may notice of it.
ECHO_SECONDS: Final = 2.0
#: What a receiver of these tests has in its home.
HOME: Final = {"log", "sources.toml", "spool", "work"}


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """One for all attacks: what one of them leaves behind, the next one finds."""
    with Receiver(tmp_path_factory.mktemp("attacks") / "home") as found:
        yield found


def stranger(receiver: Receiver) -> socket.socket:
    """Return a connection that has said nothing yet."""
    return socket.create_connection((receiver.destination.host, receiver.destination.port), timeout=5.0)


def admitted(receiver: Receiver, syntax: str = EXPLICIT) -> socket.socket:
    """Return the connection of an association."""
    return Association(receiver.destination, {(CT, syntax): 1})._socket


def pdu(kind: int, length: int) -> bytes:
    """Return the header of a PDU."""
    return struct.pack(">BxL", kind, length)


def request(*items: bytes) -> bytes:
    """Return an association request that holds these items."""
    body = struct.pack(">HH", 1, 0) + b"X".ljust(16) * 2 + bytes(32) + b"".join(items)
    return pdu(1, len(body)) + body


def item(kind: int, value: bytes, length: int | None = None) -> bytes:
    """Return an item of an association request, its length as told."""
    return struct.pack(">BxH", kind, len(value) if length is None else length) + value


STORE: Final = ul.command_pdu(1, ul.store_command(1, CT, "1.2.3"))
COMMAND_PART: Final = struct.pack(">BxLLBB", 4, 30_006, 30_002, 1, 1) + bytes(30_000)
CONTEXT: Final = item(0x20, b"\1\0\0\0" + item(0x30, CT.encode()) + item(0x40, EXPLICIT.encode()) * 500)

#: What a peer says, for ever if need be, before and within an association.
BEFORE: Final[dict[str, Callable[[], Iterator[bytes]]]] = {
    "a request of 4 GB": lambda: itertools.chain([pdu(1, 0xFFFFFFFF)], itertools.repeat(bytes(MEGABYTE))),
    "no PDU at all": lambda: itertools.repeat(b"GET / HTTP/1.1\r\n\r\n" * 1000),
    "a TLS hello": lambda: itertools.repeat(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(506)),
    "data before a request": lambda: itertools.repeat(ul.data_pdu(1, bytes(100_000), last=False)),
    "an answer nobody asked for": lambda: iter([pdu(2, 1000) + bytes(1000)]),
    "a release before a request": lambda: iter([ul.RELEASE_REQUEST]),
    "items that lie": lambda: iter([request(item(0x10, b"1.2", 60_000), item(0x20, b"\1", 9))]),
    "nothing but contexts": lambda: iter([request(*[CONTEXT] * 60)]),
    "a context of garbage": lambda: iter([request(item(0x20, bytes(range(256)) * 200))]),
    "requests without end": lambda: itertools.repeat(request(item(0x10, b"1.2.840.10008.3.1.1.1"))),
}
WITHIN: Final[dict[str, Callable[[], Iterator[bytes]]]] = {
    "data of 4 GB": lambda: itertools.chain([pdu(4, 0xFFFFFFFF)], itertools.repeat(bytes(MEGABYTE))),
    "a value beyond its PDU": lambda: iter([struct.pack(">BxLLBB", 4, 100, 4000, 1, 3) + bytes(94)]),
    "an empty PDU": lambda: iter([pdu(4, 0)]),
    "a command without end": lambda: itertools.repeat(COMMAND_PART),
    "a dataset without a command": lambda: itertools.repeat(ul.data_pdu(1, bytes(100_000), last=False)),
    "a command within a dataset": lambda: iter([STORE, ul.data_pdu(1, bytes(10), last=False), STORE]),
    "a context nobody accepted": lambda: iter([ul.command_pdu(77, ul.store_command(1, CT, "1.2.3"))] * 3),
    "a command of garbage": lambda: iter([ul.command_pdu(1, bytes(range(256)) * 100)]),
    "a second request": lambda: iter([request(item(0x10, b"1.2.840.10008.3.1.1.1"))]),
    "an answer in between": lambda: iter([STORE, pdu(2, 100) + bytes(100)]),
    "an abort in between": lambda: iter([STORE, ul.data_pdu(1, bytes(50), last=False), ul.ABORT_REQUEST]),
}


@pytest.mark.parametrize("attack", BEFORE)
def test_before_an_association(receiver: Receiver, attack: str) -> None:
    """Whoever says anything but a request that can be read is cut off at once."""
    judge(receiver, lambda: stranger(receiver), BEFORE[attack]())


@pytest.mark.parametrize("attack", WITHIN)
def test_within_an_association(receiver: Receiver, attack: str) -> None:
    """So is whoever breaks the rules after it was let in."""
    judge(receiver, lambda: admitted(receiver), WITHIN[attack]())


def judge(receiver: Receiver, connect: Callable[[], socket.socket], said: Iterator[bytes]) -> None:
    """Say it until the receiver has enough; it must have, and be as it was."""
    before, peer, sent = receiver.memory, connect(), 0
    began = time.monotonic()
    with peer, suppress(OSError):
        for some in said:
            peer.sendall(some)
            sent += len(some)
            assert time.monotonic() - began < SLOT_SECONDS, "it goes on listening"
        peer.settimeout(SLOT_SECONDS)
        while peer.recv(MEGABYTE):
            pass
    took, grown = time.monotonic() - began, receiver.memory - before
    print(f"cut off after {sent} bytes and {took:.2f} s, memory {grown / MEGABYTE:+.1f} MB")
    assert took < SLOT_SECONDS
    assert grown < PEER_BYTES
    well(receiver)


@pytest.mark.skipif(not LONG, reason="a deadline of 20 s: make chaos-receive")
def test_who_falls_silent_loses_its_slot(receiver: Receiver) -> None:
    """At any point of a conversation: in a header, a request, a command, a dataset, between their PDUs."""
    part = ul.data_pdu(1, bytes(5000), last=False)
    peers = [stranger(receiver) for _ in range(4)] + [admitted(receiver) for _ in range(6)]
    beginnings = (b"", b"\1", b"\1\0\0\0", request(item(0x10, b"1.2"))[:50],
                  b"\4", STORE[:4], STORE[:40], STORE, STORE + part, STORE + part[:70])  # fmt: skip
    for peer, said in zip(peers, beginnings, strict=True):
        peer.sendall(said)
    began = time.monotonic()
    eventually(lambda: all(ended(peer) for peer in peers), "slots", SLOT_SECONDS)
    for peer in peers:
        peer.close()
    print(f"all cut off after {time.monotonic() - began:.1f} s")
    well(receiver)


def test_who_hangs_up_leaves_nothing(receiver: Receiver) -> None:
    """Resets, before a word and in the middle of a dataset, by the hundred."""
    before = receiver.memory
    for number in range(300):
        peer = admitted(receiver) if number % 30 == 0 else stranger(receiver)
        if number % 30 == 0:
            peer.sendall(STORE + ul.data_pdu(1, bytes(50_000), last=False))
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
    well(receiver)
    assert receiver.memory - before < PEER_BYTES


def test_who_never_reads_its_answers_waits_alone(receiver: Receiver) -> None:
    """Stores without end whose answers pile up: the peer is held back, and then cut off; the others see nothing."""
    before, peer = receiver.memory, admitted(receiver)
    one = STORE + ul.data_pdu(1, element(0x00080018, b"1.2.3\0"), last=True)
    peer.settimeout(0.5)
    began = time.monotonic()
    with peer, suppress(OSError):
        while time.monotonic() - began < 5.0:
            peer.sendall(one * 50)
        assert echo(receiver.destination) == 0
    assert receiver.memory - before < PEER_BYTES
    well(receiver)


def test_a_deflated_bomb_stays_packed(receiver: Receiver) -> None:
    """A megabyte that would be a gigabyte: only its beginning is looked at, and it is kept as it came."""
    packing = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(packing.compress(bytes(MEGABYTE)) for _ in range(1024)) + packing.flush()
    before = receiver.memory
    association = Association(receiver.destination, {(CT, DEFLATED): 1})
    status = association.store_from(io.BytesIO(bomb).read, CT, "1.2.3.4", DEFLATED)
    association.release()
    assert status in (0x0000, 0xB007)
    assert receiver.memory - before < PEER_BYTES
    well(receiver)


def well(receiver: Receiver) -> None:
    """An echo is answered in time, the hostile peer's connection is gone, and no file is left of it."""
    eventually(lambda: echo_seconds(receiver) < ECHO_SECONDS, "echo in time", SLOT_SECONDS)
    process = psutil.Process(receiver.process.pid)
    eventually(lambda: connections(process) == 0, "no connection left", SLOT_SECONDS)
    assert not list((receiver.home / "spool").rglob("*.part"))
    assert {path.name for path in receiver.home.iterdir()} <= HOME
    assert not any(path.is_file() for path in (receiver.home / "work").rglob("*"))


def echo_seconds(receiver: Receiver) -> float:
    """How long an echo takes, connection and all."""
    began = time.monotonic()
    assert echo(receiver.destination) == 0
    return time.monotonic() - began


def connections(process: psutil.Process) -> int:
    """How many it has."""
    return sum(one.status == psutil.CONN_ESTABLISHED for one in process.net_connections("tcp"))
