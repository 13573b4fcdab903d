"""A sender that costs as little as one can: one thread, many associations, bytes that are ready beforehand.

It shares no code with prodrome's own sender. A receiver is measured with what it is given here, so this must
never be what is measured: it encodes nothing but UIDs, copies nothing, and waits in one place for all sockets.
Each association has one store outstanding, as PACS have.
"""

import resource
import selectors
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Final

from infra.stamped import Stamped
from schemas.errors import ProdromeError

#: What most modalities and PACS propose, DCMTK's largest.
PDU_BYTES: Final = 128 << 10
#: A receiver that is silent for so long has died.
SILENCE_SECONDS: Final = 60.0

_CONTEXT: Final = 1
_HEADER: Final = struct.Struct(">BxLLBB")


@dataclass(frozen=True, kw_only=True)
class Load:
    """What to send: so many instances in all over so many associations."""

    seed: str
    instances: int
    associations: int
    side: int
    port: int = 0


@dataclass(frozen=True, kw_only=True)
class Took:
    """Seconds from the first byte to the last response, CPU of the sender, milliseconds of each store."""

    count: int
    seconds: float
    cpu_seconds: float
    ack_ms: list[float]


def send_load(load: Load) -> Took:
    """Send from a process of its own and return how it went.

    Raises
    ------
    ProdromeError
        A response was not Success, or the receiver went away.
    """
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_send, (load,))


def _send(load: Load) -> Took:
    stamped = Stamped(load.seed, load.side)
    before = resource.getrusage(resource.RUSAGE_SELF)
    lanes = [_Lane(load.port, stamped, numbers) for numbers in _shares(load)]
    waiting = selectors.DefaultSelector()
    begin = time.perf_counter()
    for lane in lanes:
        lane.start(waiting)
    left = len(lanes)
    while left:
        ready = waiting.select(SILENCE_SECONDS)
        if not ready:
            raise ProdromeError(f"expected a response within {SILENCE_SECONDS:.0f} s, none came")
        for key, mask in ready:
            left -= key.data.go_on(waiting, mask)
    seconds = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_SELF)
    for lane in lanes:
        lane.end()
    return Took(
        count=load.instances,
        seconds=seconds,
        cpu_seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        ack_ms=[1000 * wait for lane in lanes for wait in lane.waits],
    )


def _shares(load: Load) -> list[range]:
    return [range(n, load.instances, load.associations) for n in range(load.associations)]


class _Lane:
    """One association: a store, its response, the next store."""

    def __init__(self, port: int, stamped: Stamped, numbers: range) -> None:
        self.waits: list[float] = []
        self._stamped, self._numbers = stamped, iter(numbers)
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._fragment = _associate(self._socket, stamped)
        self._socket.setblocking(False)
        self._message = 0
        self._pending: list[memoryview] = []
        self._ready = self._prepare()
        self._answer = b""
        self._begun = 0.0

    def start(self, waiting: selectors.BaseSelector) -> None:
        """Send the first instance."""
        waiting.register(self._socket, selectors.EVENT_READ, self)
        self._next(waiting)

    def go_on(self, waiting: selectors.BaseSelector, mask: int) -> bool:
        """Send on, or take a response; True where this lane is done."""
        if mask & selectors.EVENT_WRITE:
            self._write(waiting)
        if not mask & selectors.EVENT_READ:
            return False
        data = self._socket.recv(4096)
        if not data:
            raise ProdromeError("the receiver closed the connection")
        self._answer += data
        if len(self._answer) < 6 or len(self._answer) < 6 + int.from_bytes(self._answer[2:6]):
            return False
        if self._answer[0] != 4 or _status(self._answer) != 0:
            raise ProdromeError(f"expected Success, came {self._answer[:80].hex()}")
        self.waits.append(time.perf_counter() - self._begun)
        self._answer = b""
        return not self._next(waiting)

    def end(self) -> None:
        """Release."""
        self._socket.settimeout(SILENCE_SECONDS)
        self._socket.sendall(struct.pack(">BxLL", 5, 4, 0))
        self._socket.recv(10, socket.MSG_WAITALL)
        self._socket.close()

    def _next(self, waiting: selectors.BaseSelector) -> bool:
        if not self._ready:
            waiting.unregister(self._socket)
            return False
        self._pending, self._begun = self._ready, time.perf_counter()
        self._write(waiting)
        self._ready = self._prepare()  # while the receiver works
        return True

    def _prepare(self) -> list[memoryview]:
        number = next(self._numbers, None)
        if number is None:
            return []
        self._message = self._message % 0xFFFF + 1
        uid = self._stamped.instance_uid(0, number)
        command = _command(self._message, self._stamped.sop_class_uid, uid)
        return [memoryview(command), *self._dataset(number)]

    def _dataset(self, number: int) -> Iterator[memoryview]:
        data = memoryview(self._stamped.dataset(0, number))
        for at in range(0, len(data), self._fragment):
            part = data[at : at + self._fragment]
            last = at + len(part) == len(data)
            yield memoryview(_HEADER.pack(4, len(part) + 6, len(part) + 2, _CONTEXT, 2 * last))
            yield part

    def _write(self, waiting: selectors.BaseSelector) -> None:
        try:
            while self._pending:
                sent = self._socket.sendmsg(self._pending[:512])
                while self._pending and sent >= len(self._pending[0]):
                    sent -= len(self._pending.pop(0))
                if sent:
                    self._pending[0] = self._pending[0][sent:]
        except BlockingIOError:
            waiting.modify(self._socket, selectors.EVENT_READ | selectors.EVENT_WRITE, self)
            return
        waiting.modify(self._socket, selectors.EVENT_READ, self)


def _associate(sock: socket.socket, stamped: Stamped) -> int:
    """Associate, and return how much of a dataset a PDU may hold."""

    def item(kind: int, value: bytes) -> bytes:
        return struct.pack(">BxH", kind, len(value)) + value

    context = item(0x30, stamped.sop_class_uid.encode()) + item(0x40, stamped.transfer_syntax_uid.encode())
    body = (
        struct.pack(">HH", 1, 0)
        + b"PRODROME".ljust(16)
        + b"BENCH".ljust(16)
        + bytes(32)
        + item(0x10, b"1.2.840.10008.3.1.1.1")
        + item(0x20, bytes((_CONTEXT, 0, 0, 0)) + context)
        + item(0x50, item(0x51, PDU_BYTES.to_bytes(4)) + item(0x52, b"2.25.1"))
    )
    sock.sendall(struct.pack(">BxL", 1, len(body)) + body)
    sock.settimeout(SILENCE_SECONDS)
    head = sock.recv(6, socket.MSG_WAITALL)
    answer = sock.recv(int.from_bytes(head[2:6]), socket.MSG_WAITALL) if len(head) == 6 else b""
    if head[:1] != b"\x02" or b"\x51\x00\x00\x04" not in answer:
        raise ProdromeError("expected A-ASSOCIATE-AC, came something else")
    at = answer.rindex(b"\x51\x00\x00\x04") + 4
    largest = int.from_bytes(answer[at : at + 4]) or PDU_BYTES
    return (min(largest, PDU_BYTES) - 6) & ~1


def _command(message: int, sop_class: str, instance: str) -> bytes:
    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHL", 0, number, len(value)) + value

    body = (
        element(0x0002, sop_class.encode())
        + element(0x0100, b"\1\0")
        + element(0x0110, struct.pack("<H", message))
        + element(0x0700, b"\0\0")
        + element(0x0800, b"\1\0")
        + element(0x1000, instance.encode())
    )
    whole = element(0x0000, struct.pack("<L", len(body))) + body
    return _HEADER.pack(4, len(whole) + 6, len(whole) + 2, _CONTEXT, 3) + whole


def _status(pdu: bytes) -> int:
    at = pdu.rindex(b"\x00\x00\x00\x09\x02\x00\x00\x00") + 8
    return int.from_bytes(pdu[at : at + 2], "little")
