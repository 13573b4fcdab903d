"""Bound what a connection may cost: pynetdicom's own time-outs do not (they act between PDUs, not within).

1. The socket gets a time-out, and a handshake and each PDU a deadline, so that a slow or silent peer loses its slot.
2. A PDU's length is checked before anything is read for it.
3. A message's command is bounded, and a peer that sends on without waiting for answers is slowed down.

The dataset's own bound is `intake`'s.
"""

import socket
import ssl
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any, Final

from pynetdicom.dimse_messages import DIMSEMessage

from schemas.errors import Refused

#: Silence within a PDU: three lost packets and their retransmissions take about 7 s.
SOCKET_SECONDS: Final = 10.0
#: One PDU of 128 kB on a line of 64 kbit/s takes 16 s; below that nobody sends images.
PDU_SECONDS: Final = 20.0
#: 128 contexts of 20 transfer syntaxes are 100 kB; data PDUs are negotiated to 128 kB.
MAX_PDU_BYTES: Final = 1 << 20
#: A C-STORE command set has about 300 bytes.
MAX_COMMAND_BYTES: Final = 64 << 10
#: Messages that wait for their store; a peer that keeps to one outstanding operation never has a second.
MAX_WAITING_MESSAGES: Final = 2


def bound_connection(assoc: Any) -> None:
    """Bound reading and writing on a new connection; called before its association starts."""
    assoc.dul.daemon = True  # a process that ends waits for stores, and not for a stranger's connection
    connection = assoc.dul.socket
    sock: socket.socket = connection.socket
    sock.settimeout(SOCKET_SECONDS)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    hands: list[Callable[[], None]] = [sock.do_handshake] if isinstance(sock, ssl.SSLSocket) else []

    def receive(count: int) -> bytearray:
        while hands:  # in the association's own thread, not in the one that accepts
            hands.pop()()
        return read_exactly(connection.socket, count)

    connection.recv = receive


def read_exactly(sock: socket.socket, count: int) -> bytearray:
    """Return `count` bytes, or fewer where the peer closed.

    Raises
    ------
    OSError
        The length is over the bound, or the bytes did not come in time: the connection is closed for it.
    """
    if count > MAX_PDU_BYTES:
        raise OSError("PDU over the length limit")
    buffer, got = bytearray(count), 0
    view = memoryview(buffer)
    deadline = time.monotonic() + PDU_SECONDS
    while got < count:
        received = sock.recv_into(view[got:])
        if not received:
            return buffer[:got]
        got += received
        if got < count and time.monotonic() > deadline:
            raise TimeoutError("PDU not complete in time")
    return buffer


def bound_messages(assoc: Any, new_intake: Callable[[], BytesIO], refused: Callable[[str], None]) -> None:
    """Let the datasets of this association's messages be written to intakes.

    Parameters
    ----------
    assoc : pynetdicom Association
        Before it starts.
    new_intake : callable
        Returns where the next message's dataset goes.
    refused : callable
        Told the reason word when a message ends the association.
    """
    dimse = assoc.dimse
    receive = dimse.receive_primitive

    def receive_primitive(primitive: Any) -> None:
        while dimse.msg_queue.qsize() >= MAX_WAITING_MESSAGES and assoc.is_established:
            time.sleep(0.001)  # as often as pynetdicom itself looks
        if dimse.message is None:
            dimse.message = DIMSEMessage()
            dimse.message.data_set = new_intake()
        try:
            if dimse.message.encoded_command_set.tell() > MAX_COMMAND_BYTES:
                raise Refused("local_limit")
            receive(primitive)
        except Exception as error:  # the limit, or whatever a hostile command does to its decoder
            dimse.message = None
            refused(error.reason if isinstance(error, Refused) else "local_limit")
            assoc.dul.event_queue.put("Evt19")  # invalid PDU: the state machine aborts the association

    dimse.receive_primitive = receive_primitive
