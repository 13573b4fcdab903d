"""The bytes of a DICOM association as its requestor sends and reads them (PS3.8 9.3, PS3.7 6.3). Pure.

Enough for C-ECHO and C-STORE, with the response that the receiver sends, and nothing that would touch a
dataset: what goes in comes out on the wire.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from schemas.errors import ProdromeError

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
RELEASE_REQUEST: Final = struct.pack(">BxLL", RELEASE_RQ, 4, 0)
ABORT_REQUEST: Final = struct.pack(">BxLL", ABORT, 4, 0)
MAX_CONTEXTS: Final = 128

_APPLICATION_CONTEXT: Final = b"1.2.840.10008.3.1.1.1"
#: UUID-derived (PS3.5 B.2), fixed for prodrome's sender.
_IMPLEMENTATION_CLASS: Final = b"2.25.147825736914205283361820904421176384911"
_C_STORE_RQ, _C_STORE_RSP, _C_ECHO_RQ = 0x0001, 0x8001, 0x0030
_ELEMENT: Final = struct.Struct("<HHL")
_NO_DATASET, _DATASET = struct.pack("<H", 0x0101), struct.pack("<H", 0x0001)
_STORE_FIELD: Final = struct.pack("<H", _C_STORE_RQ)
_COMMAND_LAST, _DATA, _DATA_LAST = 0x03, 0x00, 0x02


class StoreCommand(NamedTuple):
    """A C-STORE-RQ, as it says; nothing is checked but that it is one."""

    message_id: int
    sop_class_uid: str
    sop_instance_uid: str


class ProtocolError(ProdromeError):
    """The peer said something that is no valid answer."""


class Accepted(NamedTuple):
    """An A-ASSOCIATE-AC: context id to the accepted transfer syntax, and the peer's largest PDU (0: any)."""

    contexts: dict[int, str]
    max_pdu: int


class Rejected(NamedTuple):
    """An A-ASSOCIATE-RJ; result 1 is permanent, 2 transient."""

    result: int
    source: int
    diagnostic: int


def associate_request(
    calling: str, called: str, contexts: Mapping[int, tuple[str, Sequence[str]]], max_pdu: int
) -> bytes:
    """Return an A-ASSOCIATE-RQ.

    Parameters
    ----------
    calling, called : str
        AE titles, at most 16 characters.
    contexts : mapping
        Odd context id to (abstract syntax, transfer syntaxes).
    max_pdu : int
        The largest PDU that we take.
    """
    items = [_item(0x10, _APPLICATION_CONTEXT)]
    for number, (abstract, syntaxes) in contexts.items():
        names = _item(0x30, abstract.encode()) + b"".join(_item(0x40, name.encode()) for name in syntaxes)
        items.append(_item(0x20, bytes((number, 0, 0, 0)) + names))
    items.append(_item(0x50, _item(0x51, struct.pack(">L", max_pdu)) + _item(0x52, _IMPLEMENTATION_CLASS)))
    titles = called.encode("ascii").ljust(16) + calling.encode("ascii").ljust(16)
    body = struct.pack(">HH", 1, 0) + titles + bytes(32) + b"".join(items)
    return struct.pack(">BxL", ASSOCIATE_RQ, len(body)) + body


def parse_associate_response(kind: int, body: bytes) -> Accepted | Rejected:
    """Return what the peer answered to an association request; `body` is the PDU without its six bytes."""
    if kind == ASSOCIATE_RJ and len(body) >= 4:
        return Rejected(*body[1:4])
    if kind != ASSOCIATE_AC:
        raise ProtocolError(f"expected A-ASSOCIATE-AC or -RJ, came PDU type {kind}")
    contexts: dict[int, str] = {}
    max_pdu = 0
    for item, value in _items(body[68:]):
        if item == 0x21 and value[2] == 0:
            syntax = next((text for sub, text in _items(value[4:]) if sub == 0x40), b"")
            contexts[value[0]] = syntax.rstrip(b"\0 ").decode("ascii", "replace")
        elif item == 0x50:
            max_pdu = next((int.from_bytes(data[:4]) for sub, data in _items(value) if sub == 0x51), 0)
    return Accepted(contexts, max_pdu)


def store_command(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """Return the command set of a C-STORE-RQ."""
    return _command(
        {
            0x0002: _uid(sop_class_uid),
            0x0100: struct.pack("<H", _C_STORE_RQ),
            0x0110: struct.pack("<H", message_id),
            0x0700: struct.pack("<H", 0),
            0x0800: _DATASET,
            0x1000: _uid(sop_instance_uid),
        }
    )


def store_response_command(
    message_id: int,
    sop_class_uid: str,
    sop_instance_uid: str,
    status: int,
    comment: str = "",
    offending: Sequence[int] = (),
) -> bytes:
    """Return the command set of a C-STORE-RSP (PS3.7 9.3.1.2, C.2).

    Parameters
    ----------
    comment : str
        Error Comment, at most 64 characters; empty where nothing went wrong.
    offending : sequence of int
        Tags of the elements at fault.
    """
    elements = {
        0x0002: _uid(sop_class_uid),
        0x0100: struct.pack("<H", _C_STORE_RSP),
        0x0120: struct.pack("<H", message_id),
        0x0800: _NO_DATASET,
        0x0900: struct.pack("<H", status),
    }
    if offending:
        elements[0x0901] = b"".join(struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in offending)
    if comment:
        elements[0x0902] = comment.encode("ascii").ljust(len(comment) + len(comment) % 2)
    elements[0x1000] = _uid(sop_instance_uid)
    return _command(elements)


def parse_store_command(command: bytes) -> StoreCommand | None:
    """Return what a C-STORE-RQ with a dataset says; None for any other command set, whatever its bytes."""
    found = _elements(command)
    if found.get(0x0100) != _STORE_FIELD or found.get(0x0800, _NO_DATASET) == _NO_DATASET:
        return None
    if len(found.get(0x0110, b"")) != 2:
        return None
    return StoreCommand(
        int.from_bytes(found[0x0110], "little"), _uid_text(found.get(0x0002)), _uid_text(found.get(0x1000))
    )


def has_dataset(command: bytes) -> bool:
    """Whether a command set says that a dataset follows."""
    return _elements(command).get(0x0800, _NO_DATASET) != _NO_DATASET


def echo_command(message_id: int) -> bytes:
    """Return the command set of a C-ECHO-RQ."""
    return _command(
        {
            0x0002: _uid("1.2.840.10008.1.1"),
            0x0100: struct.pack("<H", _C_ECHO_RQ),
            0x0110: struct.pack("<H", message_id),
            0x0800: _NO_DATASET,
        }
    )


def command_pdu(context: int, command: bytes) -> bytes:
    """Return the P-DATA-TF of a whole command set."""
    return _p_data(context, _COMMAND_LAST, command)


def data_pdu(context: int, fragment: bytes, *, last: bool) -> bytes:
    """Return the P-DATA-TF of one fragment of a dataset."""
    return _p_data(context, _DATA_LAST if last else _DATA, fragment)


def fragment_bytes(max_pdu: int, ours: int = 1 << 20) -> int:
    """Return how much of a dataset fits into one PDU for this peer; even, as PS3.8 9.3.5 wants."""
    return ((min(max_pdu, ours) if max_pdu else ours) - 6) & ~1


def response_status(body: bytes) -> int:
    """Return the status of a response command set, from the body of its P-DATA-TF."""
    command = b"".join(value[2:] for value in _values(body) if len(value) > 2 and value[1] & 1)
    status = _elements(command).get(0x0900)
    if status is not None:
        return int.from_bytes(status, "little")
    raise ProtocolError("the response has no status")


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _items(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at + 4 <= len(data):
        kind, length = struct.unpack_from(">BxH", data, at)
        found.append((kind, data[at + 4 : at + 4 + length]))
        at += 4 + length
    return found


def _values(body: bytes) -> list[bytes]:
    found, at = [], 0
    while at + 4 <= len(body):
        length = int.from_bytes(body[at : at + 4])
        found.append(body[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def _elements(command: bytes) -> dict[int, bytes]:
    # Group 0000, implicit little endian (PS3.7 6.3.1); what is cut short, or of another group, ends it.
    found: dict[int, bytes] = {}
    at, last = 0, len(command) - 8
    while at <= last:
        group, element, length = _ELEMENT.unpack_from(command, at)
        if group:
            break
        found[element] = command[at + 8 : at + 8 + length]
        at += 8 + length
    return found


def _uid_text(value: bytes | None) -> str:
    return (value or b"").rstrip(b"\0 ").decode("ascii", "replace")


def _uid(text: str) -> bytes:
    value = text.encode("ascii")
    return value + b"\0" * (len(value) % 2)


def _command(elements: dict[int, bytes]) -> bytes:
    body = b"".join([_ELEMENT.pack(0, tag, len(value)) + value for tag, value in elements.items()])
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def _p_data(context: int, control: int, fragment: bytes) -> bytes:
    return struct.pack(">BxLLBB", P_DATA, len(fragment) + 6, len(fragment) + 2, context, control) + fragment
