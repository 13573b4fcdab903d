"""PDUs cut where they lie: whatever the chunks, the same pieces; whatever the lengths, an error and no memory."""

import struct
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.clock import ManualClock
from producers.receiver import inbound as inbound_room
from producers.receiver.guard import MAX_PDU_BYTES, PDU_SECONDS
from producers.receiver.inbound import Inbound, InvalidPdu, Other
from producers.upper_layer import ABORT_REQUEST, RELEASE_REQUEST

Value = tuple[int, int, bytes]  # context, control, fragment


class Chunks:
    """A socket that gives what a test says, chunk by chunk; and then says that the peer has closed."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = [chunk for chunk in chunks if chunk]

    def recv_into(self, view: memoryview) -> int:
        if not self._chunks:
            return 0
        chunk = self._chunks.pop(0)
        if len(chunk) > len(view):
            self._chunks.insert(0, chunk[len(view) :])
        count = min(len(chunk), len(view))
        view[:count] = chunk[:count]
        return count


def reader(*chunks: bytes, clock: ManualClock | None = None) -> Inbound:
    return Inbound(Chunks(chunks), clock or ManualClock())  # type: ignore[arg-type]


def p_data(*values: Value) -> bytes:
    body = b"".join(
        struct.pack(">LBB", len(data) + 2, context, control) + data for context, control, data in values
    )
    return struct.pack(">BxL", 4, len(body)) + body


def read_all(inbound: Inbound, *, release: bool = False) -> list[Value | bytes]:
    """Return whole values and other PDUs, read until the peer closes."""
    found: list[Value | bytes] = []
    parts: list[bytes] = []
    while True:
        for one in inbound:
            if isinstance(one, Other):
                found.append(bytes(one.pdu))
                continue
            parts.append(bytes(one.data))
            if one.ends:
                found.append((one.context, one.control, b"".join(parts)))
                parts.clear()
        if release:
            inbound.release()
        if not inbound.receive():
            return found


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    at = sorted({place % (len(data) + 1) for place in places})
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


values = st.tuples(st.sampled_from([1, 3, 255]), st.integers(0, 3), st.binary(max_size=300))
pdus = st.one_of(st.lists(values, min_size=1, max_size=4), st.sampled_from([RELEASE_REQUEST, ABORT_REQUEST]))


@given(
    said=st.lists(pdus, max_size=8),
    places=st.lists(st.integers(0, 1 << 20), max_size=40),
    release=st.booleans(),
)
def test_any_cut_gives_the_same_values(said: list[Any], places: list[int], *, release: bool) -> None:
    """Headers torn anywhere, empty fragments, several values a PDU, blocks that end anywhere."""
    patch = pytest.MonkeyPatch()
    with patch.context() as small:
        small.setattr(inbound_room, "BLOCK_BYTES", 256)
        small.setattr(inbound_room, "_ROOM_BYTES", 16)
        stream = b"".join(one if isinstance(one, bytes) else p_data(*one) for one in said)
        wanted = [value for one in said for value in ([one] if isinstance(one, bytes) else one)]
        assert read_all(reader(*cut(stream, places)), release=release) == wanted


def test_pieces_lie_in_blocks_until_they_are_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was cut stays as it is while later bytes come; after the release the memory is used again."""
    monkeypatch.setattr(inbound_room, "BLOCK_BYTES", 128 << 10)
    sent = [bytes([n]) * (64 << 10) for n in range(8)]
    inbound = reader(*(p_data((1, 0, data)) for data in sent))
    pieces = []
    while inbound.receive():
        pieces += list(inbound)
    assert b"".join(piece.data for piece in pieces) == b"".join(sent)  # type: ignore[union-attr]
    blocks = {id(piece.data.obj) for piece in pieces}  # type: ignore[union-attr]
    assert len(blocks) > 1
    inbound.release()
    assert {id(block.obj) for block in (*inbound._spare, inbound._block)} >= blocks
    inbound.idle()
    assert not inbound._spare


@pytest.mark.parametrize(
    "stream",
    [
        struct.pack(">BxL", 9, 4),
        struct.pack(">BxL", 0, 4),
        struct.pack(">BxL", 4, 0),
        struct.pack(">BxL", 4, MAX_PDU_BYTES + 1),
        struct.pack(">BxL", 1, 0xFFFFFFFF),
        struct.pack(">BxLLBB", 4, 6, 100, 1, 0),
        struct.pack(">BxLLBB", 4, 6, 1, 1, 0),
        struct.pack(">BxLLBB", 4, 6, 0xFFFFFFFF, 1, 0),
        struct.pack(">BxLLBB", 4, 3, 2, 1, 0),
    ],
)
def test_lengths_that_lie(stream: bytes) -> None:
    """They end the association before anything is kept for them."""
    inbound = reader(stream)
    inbound.receive()
    with pytest.raises(InvalidPdu):
        list(inbound)


def test_a_pdu_that_trickles_has_a_deadline() -> None:
    """A byte a second keeps no slot: the deadline is of the whole PDU; the next one has its own."""
    clock = ManualClock()
    whole = p_data((1, 0, bytes(50)))
    inbound = reader(whole, *(bytes([byte]) for byte in whole), clock=clock)
    assert inbound.receive()
    list(inbound)
    clock.advance(PDU_SECONDS + 1)  # silence between PDUs is the idle time's
    assert inbound.receive() == 1
    clock.advance(PDU_SECONDS + 1)  # so is what we did meanwhile: a store that waited for the disk
    assert inbound.receive() == 1
    clock.advance(PDU_SECONDS / 2)
    assert inbound.receive() == 1
    clock.advance(PDU_SECONDS / 2 + 1)
    with pytest.raises(InvalidPdu, match="in time"):
        inbound.receive()
