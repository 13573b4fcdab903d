"""A message on the wire and back: JSON body, CloudEvents headers, one function each way.

1. `encode` makes a `Message` of an event: topic, key, body, headers (CloudEvents 1.0, Kafka binary binding).
2. `decode` reads a body by the type its headers name, and raises `BadMessage` for what it does not know.

The body of a repeat is identical; what may differ (trace, attempt, durations) stands in headers. There is no
`ce_time`: on clean topics a time of receipt would give a shifted date away.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from schemas.errors import BadMessage
from schemas.events import EVENT_TYPES, Value
from schemas.ids import event_id
from schemas.topics import BY_NAME

Headers = Sequence[tuple[str, bytes]]

MAX_MESSAGE_BYTES: Final = 256 * 1024
MAX_INSTANCES: Final = 64

#: Names the one stage that a message is put back for: others that read its topic have worked on it.
MEANT_FOR: Final = "meant_for"
#: header -> what it says; others (trace, attempt, `duration_ms`, `meant_for`) may stand beside them
HEADERS: Final = (
    ("content-type", "`application/json`"),
    ("ce_specversion", "`1.0`: CloudEvents, Kafka binding, binary mode"),
    ("ce_id", "UUIDv5 of what makes the event itself: a repeat has the same id"),
    ("ce_type", "names the type and version of the body; readers go by it"),
    ("ce_source", "`/prodrome/<role>`"),
    ("ce_dataschema", "`prodrome:schemas/json/<ce_type>.json`"),
    ("ce_subject", "the pseudonymous Study Instance UID, where there is one"),
)

_TYPE_OF: Final = {cls: name for name, cls in EVENT_TYPES.items()}
_ENCODER: Final = msgspec.json.Encoder(order="deterministic")
_DECODERS: Final = {name: msgspec.json.Decoder(cls) for name, cls in EVENT_TYPES.items()}


class Message(NamedTuple):
    """What a producer sends: topic, key, body and headers."""

    topic: str
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


def body(event: Value) -> bytes:
    """Return the canonical JSON body of an event or any other value (fields in a fixed order)."""
    return _ENCODER.encode(event)


def encode(
    topic: str,
    key: bytes,
    event: Value,
    *,
    identity: Sequence[str | int],
    source: str,
    subject: str = "",
    extra: Mapping[str, str] | None = None,
) -> Message:
    """Return the message of an event.

    Parameters
    ----------
    topic : str
        A name of `schemas.topics.TOPICS` that carries this type.
    key : bytes
        Decides the partition; no identifier of a patient on a clean topic.
    event : Value
        One of `EVENT_TYPES`.
    identity : sequence of str or int
        What makes this event itself; its UUIDv5 is `ce_id`, so that a repeat has the same id.
    source : str
        The role that speaks.
    subject : str
        The pseudonymous Study Instance UID on clean topics, else empty.
    extra : mapping
        Trace, attempt and durations.

    Raises
    ------
    ValueError
        The topic does not carry this type: a defect of the caller.
    """
    kind = _TYPE_OF[type(event)]
    if kind not in BY_NAME[topic].types:
        raise ValueError(f"topic {topic} carries {BY_NAME[topic].types}, not {kind}")
    headers = {
        "content-type": "application/json",
        "ce_specversion": "1.0",
        "ce_id": event_id(kind, *identity),
        "ce_type": kind,
        "ce_source": f"/prodrome/{source}",
        "ce_dataschema": f"prodrome:schemas/json/{kind}.json",
    }
    if subject:
        headers["ce_subject"] = subject
    headers.update(extra or {})
    return Message(topic, key, body(event), [(name, text.encode()) for name, text in headers.items()])


def decode(value: bytes | None, headers: Headers | None, *, accepts: Sequence[str]) -> Value:
    """Return the event of a message.

    Parameters
    ----------
    value : bytes or None
        The body.
    headers : sequence of (str, bytes) or None
        At least `ce_type`.
    accepts : sequence of str
        The CloudEvents types that this topic carries.

    Raises
    ------
    BadMessage
        `unknown_version` for a type that is not accepted here, `malformed_message` for a body that is not
        what its type says. The text names fields, never values.
    """
    # Kafka allows a header without a value.
    kind = (dict(headers or ()).get("ce_type") or b"").decode("ascii", "replace")
    if kind not in accepts:
        shown = kind if kind in EVENT_TYPES else "an unknown type" if kind else "no ce_type header"
        raise BadMessage("unknown_version", f"expected one of {', '.join(accepts)}; came {shown}")
    if value is None or len(value) > 4 * MAX_MESSAGE_BYTES:
        raise BadMessage("malformed_message", f"expected a body of 1 to {4 * MAX_MESSAGE_BYTES} bytes")
    try:
        return _DECODERS[kind].decode(value)
    except msgspec.ValidationError as error:
        raise BadMessage("malformed_message", _without_values(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadMessage("malformed_message", "the body is not JSON") from None


def _without_values(text: str) -> str:
    # msgspec quotes an invalid literal's value; keep the part that names types and the field's path.
    return text if "Invalid enum value" not in text else "Invalid enum value - " + text.rpartition(" - ")[2]


def b64(data: bytes) -> str:
    """Return base64 text of bytes."""
    return base64.b64encode(data).decode("ascii")
