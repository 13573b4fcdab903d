"""What a peer sends, read into memory once and cut where it lies (PS3.8 9.3): no byte of a dataset is copied.

1. `receive` takes whatever the socket holds, in one system call.
2. Iterating cuts it into pieces of presentation data values; what is no P-DATA-TF comes whole, as `Other`.
3. A piece is a view of a block. Blocks that a message fills stay until `release`, then the next one uses them.

An object belongs to the one thread that reads its socket. Lengths are checked before anything is kept for them,
and a PDU has a total deadline, however its bytes are dealt out.
"""

import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from infra.clock import Clock
from producers.receiver.guard import MAX_PDU_BYTES, PDU_SECONDS
from producers.upper_layer import P_DATA
from schemas.errors import ProdromeError

#: A common CT slice and its PDU headers fit; the second one lies where the first did, in the cache still.
BLOCK_BYTES: Final = 1 << 20
#: A read into less room than this would be a system call for little.
_ROOM_BYTES: Final = 64 << 10
#: Blocks kept for the next message while the association is busy: a dataset in memory has no more.
_SPARE_BLOCKS: Final = 16

_PDU: Final = struct.Struct(">BxL")
_PDV: Final = struct.Struct(">LBB")


class InvalidPdu(ProdromeError):
    """What came is no PDU of PS3.8, or one that nobody needs to send."""


class Piece(msgspec.Struct, gc=False):
    """Bytes of one presentation data value; `control` is its header (PS3.8 E.2), `ends` whether it is complete."""

    context: int
    control: int
    data: memoryview
    ends: bool


class Other(NamedTuple):
    """A PDU that is no P-DATA-TF, header included."""

    pdu: bytearray


class Inbound:
    """The receiving half of one connection."""

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._socket, self._clock = sock, clock
        self._block = memoryview(bytearray(BLOCK_BYTES))
        self._full: list[memoryview] = []
        self._spare: list[memoryview] = []
        self._at = self._end = 0  # in the block: what was not cut yet
        self._pdu_left = self._value_left = 0
        self._context = self._control = 0
        self._in_value = False
        self._other = bytearray()
        self._begun: float | None = None  # since when the rest of a PDU is waited for

    def receive(self) -> int:
        """Read once; return how many bytes came, 0 where the peer has closed.

        Raises
        ------
        TimeoutError
            Nothing came within the socket's time-out.
        InvalidPdu
            A PDU was not complete in time.
        OSError
            The connection is gone.
        """
        if self._at < self._end or self._in_value or self._pdu_left:
            self._check_time()
        if len(self._block) - self._end < _ROOM_BYTES:
            self._next_block()
        count = self._socket.recv_into(self._block[self._end :])
        self._end += count
        return count

    def __iter__(self) -> Iterator[Piece | Other]:
        """Cut what has come; may be left at any piece and taken up again.

        Raises
        ------
        InvalidPdu
            Lengths that contradict each other, an unknown type, or more than anyone needs to send.
        """
        while True:
            at = self._at
            if self._in_value:
                take = min(self._value_left, self._end - at)
                if not take and self._value_left:
                    return
                self._at = at + take
                self._value_left -= take
                self._in_value = more = self._value_left > 0
                if not (more or self._pdu_left):
                    self._begun = None
                yield Piece(self._context, self._control, self._block[at : at + take], not more)
            elif self._other:
                if self._pdu_left and at == self._end:
                    return
                if (other := self._gather()) is not None:
                    yield other
            elif not (self._value_header() if self._pdu_left else self._pdu_header()):
                return  # the header is not complete yet

    def release(self) -> None:
        """Nothing that was cut is needed any more: its blocks may be written over."""
        self._spare += self._full[: _SPARE_BLOCKS - len(self._spare)]
        self._full.clear()
        if self._at == self._end:
            self._at = self._end = 0

    def idle(self) -> None:
        """Give back what only a busy association needs."""
        self._spare.clear()

    def _check_time(self) -> None:
        now = self._clock.monotonic()
        if self._begun is None:
            self._begun = now
        elif now - self._begun > PDU_SECONDS:
            raise InvalidPdu("a PDU was not complete in time")

    def _next_block(self) -> None:
        # A header is at most six bytes, and all else has been cut: little moves.
        rest = bytes(self._block[self._at : self._end])
        self._full.append(self._block)
        self._block = self._spare.pop() if self._spare else memoryview(bytearray(BLOCK_BYTES))
        self._block[: len(rest)] = rest
        self._at, self._end = 0, len(rest)

    def _pdu_header(self) -> bool:
        if self._end - self._at < _PDU.size:
            return False
        kind, length = _PDU.unpack_from(self._block, self._at)
        if length > MAX_PDU_BYTES or not 1 <= kind <= 7:
            raise InvalidPdu("PDU over the length limit, or of no known type")
        if kind == P_DATA:
            self._at += _PDU.size
            self._pdu_left = length
            if not length:
                raise InvalidPdu("P-DATA-TF without a value")
        else:
            self._other += self._block[self._at : self._at + _PDU.size]
            self._at += _PDU.size
            self._pdu_left = length
        return True

    def _value_header(self) -> bool:
        if self._end - self._at < _PDV.size:
            return False
        length, self._context, self._control = _PDV.unpack_from(self._block, self._at)
        if length < 2 or length + 4 > self._pdu_left:
            raise InvalidPdu("a value's length and that of its PDU contradict each other")
        self._at += _PDV.size
        self._pdu_left -= length + 4
        self._value_left = length - 2
        self._in_value = True
        return True

    def _gather(self) -> Other | None:
        take = min(self._pdu_left, self._end - self._at)
        self._other += self._block[self._at : self._at + take]
        self._at += take
        self._pdu_left -= take
        if self._pdu_left:
            return None
        other, self._other = Other(self._other), bytearray()
        self._begun = None
        return other
