"""C-STORE taken over from pynetdicom in place; everything else stays its own.

pynetdicom negotiates, speaks TLS, answers C-ECHO, releases and aborts. While an association is established, its
provider thread reads here instead:

1. pieces of a C-STORE-RQ's dataset go to an `Intake`, where they lie in memory;
2. the last one stores it, in this thread, and the response is written to the socket from a template;
3. a message that is no C-STORE is handed to pynetdicom, and nothing is read until its answer is due;
4. so is a PDU that is no P-DATA-TF, and an end of the connection, as an event of its state machine.

So an instance costs no object of pynetdicom, no wake-up of another thread, and no copy before the page cache.
`infra.spool` syncs for all associations at once.

The names used are private to pynetdicom, which is pinned: `fits` says whether they are there.
"""

import functools
import logging
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.sop_class import Verification

from infra.clock import Clock
from producers import upper_layer as ul
from producers.receiver.guard import MAX_COMMAND_BYTES, PDU_SECONDS, SOCKET_SECONDS
from producers.receiver.inbound import Inbound, InvalidPdu, Other, Piece
from producers.receiver.intake import Intake
from producers.receiver.plain import NO_UID
from producers.receiver.statuses import Answer
from producers.receiver.store import StoreRequest
from producers.receiver.waiting import LOOK_SECONDS
from schemas.dicom_reader import FIRST_BYTES
from schemas.errors import Refused
from schemas.ids import valid_uid

_log = logging.getLogger(__name__)

#: A whole message: so much, and the time that a line of 64 kbit/s takes; silence within one has a PDU's deadline.
MESSAGE_SECONDS: Final = 60.0
BYTES_PER_SECOND: Final = 8000.0
_COMMAND, _LAST = 0x01, 0x02
_CLOSED: Final = "Evt17"
_INVALID: Final = "Evt19"
#: (where, names) of what is used of pynetdicom's inside.
_SEAM: Final = (
    ("", ("_accepted_cx", "is_established", "_reactor_checkpoint")),
    ("dul", ("_is_transport_event", "_process_recv_primitive", "_decode_pdu", "_recv_pdu", "_kill_thread")),
    ("dul", ("event_queue", "to_provider_queue", "to_user_queue", "socket", "state_machine", "artim_timer")),
    ("dimse", ("receive_primitive", "msg_queue", "message")),
)


def _let_wait(sock: socket.socket) -> None:
    # Python's own time-out asks `poll` before each read and write; the kernel's is part of them. OpenSSL does
    # not know that one.
    if isinstance(sock, ssl.SSLSocket):
        sock.settimeout(LOOK_SECONDS)
        return
    seconds = int(LOOK_SECONDS)
    time_out = struct.pack("@ll", seconds, round(1e6 * (LOOK_SECONDS - seconds)))
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, time_out)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, time_out)


class Stores(Protocol):
    """What a taken-over association needs of its door."""

    def begin(self, assoc: Any) -> Intake:
        """Return where the dataset of a C-STORE that begins goes."""

    def finish(self, assoc: Any, request: StoreRequest, intake: Intake) -> Answer:
        """Store a complete dataset and return what to answer."""

    def refused(self, assoc: Any, reason: str) -> None:
        """Count a message that ends its association."""


def fits(assoc: Any) -> bool:
    """Whether this pynetdicom has all that is taken over; if not, its own way is the one to go."""
    owners = ((getattr(assoc, where) if where else assoc, names) for where, names in _SEAM)
    return all(hasattr(owner, name) for owner, names in owners for name in names)


def take_over(assoc: Any, stores: Stores, clock: Clock) -> Callable[[], bool]:
    """Return what reads for this association while it is established, for `waiting`; nothing is kept before."""

    @functools.cache
    def established() -> _Established:
        return _Established(assoc, stores, clock)

    return lambda: established().run()


class _Arriving(NamedTuple):
    """A C-STORE-RQ whose dataset is on its way."""

    message_id: int
    request: StoreRequest
    intake: Intake


class _Established:
    """One association's reading; it belongs to the provider's thread."""

    def __init__(self, assoc: Any, stores: Stores, clock: Clock) -> None:
        self._assoc, self._dul, self._stores, self._clock = assoc, assoc.dul, stores, clock
        self._socket: socket.socket = assoc.dul.socket.socket
        _let_wait(self._socket)
        self._inbound = Inbound(self._socket, clock)
        self._contexts = {
            number: (str(context.abstract_syntax), str(context.transfer_syntax[0]))
            for number, context in assoc._accepted_cx.items()
            if context.abstract_syntax != Verification
        }
        self._command = bytearray()
        self._context = 0
        self._arriving: _Arriving | None = None
        self._passing = False  # the dataset that comes belongs to a message of pynetdicom's
        self._begun = self._heard = 0.0

    def run(self) -> bool:
        """Serve until pynetdicom has something to do: True where an event was queued for it."""
        inbound = self._inbound
        try:
            while True:
                for found in inbound:
                    if isinstance(found, Other):
                        return self._other(found.pdu)
                    if self._take(found):
                        return False  # handed over: its answer comes first
                if self._dul.to_provider_queue.queue or self._dul._kill_thread:
                    return False
                try:
                    came = inbound.receive()
                except (TimeoutError, BlockingIOError):
                    self._check_time(heard=False)
                    inbound.idle()
                    return False
                if not came:
                    return self._event(_CLOSED)
                self._dul._idle_timer.restart()
                self._check_time(heard=True)
        except Refused as refusal:
            self._stores.refused(self._assoc, refusal.reason)
            return self._event(_INVALID)
        except InvalidPdu:
            self._stores.refused(self._assoc, "local_limit")
            return self._event(_INVALID)
        except (OSError, AttributeError):  # pynetdicom sets its socket to None when it closes it
            return self._event(_CLOSED)
        except Exception as error:  # a provider's thread that dies takes its association's slot with it
            _log.error("an association failed: %s", type(error).__name__)
            return self._event(_INVALID)

    def _check_time(self, *, heard: bool) -> None:
        if self._arriving or self._command or self._passing:
            now, length = self._clock.monotonic(), self._arriving.intake.length if self._arriving else 0
            if heard:
                self._heard = now
            late = now - self._begun > MESSAGE_SECONDS + length / BYTES_PER_SECOND
            if late or now - self._heard > PDU_SECONDS:
                raise InvalidPdu("a message was not complete in time")

    def _take(self, piece: Piece) -> bool:
        """Take a piece of a message; True where a message was completed that pynetdicom answers."""
        if piece.control & _COMMAND:
            return self._take_command(piece)
        if self._passing:
            return self._pass_on(piece.context, piece.control, bytes(piece.data), piece.ends)
        if self._arriving is None or piece.context != self._context:
            raise InvalidPdu("a dataset that no command announces")
        intake = self._arriving.intake
        kept = intake.add(piece.data)
        if piece.control & _LAST and piece.ends:
            self._store(self._arriving)
        elif not kept:
            self._inbound.release()
        elif intake.length == len(piece.data) >= FIRST_BYTES:
            intake.look(self._arriving.request.transfer_syntax_uid)  # while the rest is on its way
        return False

    def _take_command(self, piece: Piece) -> bool:
        if self._arriving or self._passing:
            raise InvalidPdu("a command within a dataset")
        if not self._command:
            self._begun = self._heard = self._clock.monotonic()
            self._context = piece.context
        elif piece.context != self._context:
            raise InvalidPdu("a command in two contexts")
        self._command += piece.data
        if len(self._command) > MAX_COMMAND_BYTES:
            raise Refused("local_limit")
        if not (piece.control & _LAST and piece.ends):
            return False
        command, self._command = bytes(self._command), bytearray()
        asked = ul.parse_store_command(command)
        if asked is None or self._context not in self._contexts:
            self._passing = ul.has_dataset(command)
            return self._pass_on(self._context, _COMMAND | _LAST, command, ends=True)
        abstract, syntax = self._contexts[self._context]
        request = StoreRequest(
            sop_class_uid=asked.sop_class_uid if valid_uid(asked.sop_class_uid) else abstract,
            sop_instance_uid=asked.sop_instance_uid,
            transfer_syntax_uid=syntax,
        )
        self._arriving = _Arriving(asked.message_id, request, self._stores.begin(self._assoc))
        return False

    def _pass_on(self, context: int, control: int, data: bytes, ends: bool) -> bool:
        """Hand a piece to pynetdicom; True where its message is complete."""
        last = ends and bool(control & _LAST)
        primitive = P_DATA()
        header = bytes((control if ends else control & ~_LAST,))
        primitive.presentation_data_value_list.append((context, header + data))
        self._assoc.dimse.receive_primitive(primitive)
        if not last:
            return False
        if control & _COMMAND:
            return not self._passing
        self._passing = False
        return True

    def _store(self, arrived: _Arriving) -> None:
        self._arriving = None
        answer = self._stores.finish(self._assoc, arrived.request, arrived.intake)
        self._inbound.release()
        instance = arrived.request.sop_instance_uid
        command = ul.store_response_command(
            arrived.message_id,
            arrived.request.sop_class_uid,
            instance if valid_uid(instance) else NO_UID,
            answer.status,
            answer.reason,
            answer.offending,
        )
        self._send(ul.command_pdu(self._context, command))

    def _send(self, data: bytes) -> None:
        deadline = self._clock.monotonic() + SOCKET_SECONDS
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except (TimeoutError, BlockingIOError):
                if self._clock.monotonic() > deadline:
                    raise

    def _other(self, pdu: bytearray) -> bool:
        try:
            decoded, event = self._dul._decode_pdu(pdu)
        except Exception:  # whatever a hostile PDU does to its decoder
            return self._event(_INVALID)
        self._dul._recv_pdu.put(decoded)
        return self._event(event)

    def _event(self, event: str) -> bool:
        if self._arriving is not None:
            self._arriving.intake.discard()  # half a dataset: its file and its memory go now
            self._arriving = None
        self._dul.event_queue.put(event)
        return True
