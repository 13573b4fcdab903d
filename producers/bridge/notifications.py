"""A message of a store, whatever its dialect, as sightings. Pure.

Nothing here is believed: an event says where to look, no more.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from producers.bridge.dialects import Dialect, Sighting, aws, versitygw
from schemas.errors import BadMessage

#: The first that recognises a record reads it.
DIALECTS: Final[Sequence[Dialect]] = (versitygw, aws)
#: A notification of 1,000 objects has some 700 kB; queues carry no more than 1 MB.
EVENT_BYTES: Final = 2 << 20
RECORDS: Final = 10_000
#: What S3 allows a key to be, in UTF-8.
KEY_BYTES: Final = 1024


def sightings(message: bytes) -> list[Sighting]:
    """Return what a message of a store says, in its order; nothing for a test event.

    Raises
    ------
    BadMessage
        `malformed_message`: it is no notification of a dialect that is known.
    """
    if len(message) > EVENT_BYTES:
        raise _bad(f"at most {EVENT_BYTES} bytes", f"{len(message)}")
    try:
        said = msgspec.json.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _bad("JSON", f"{len(message)} bytes of something else") from None
    if isinstance(said, dict) and isinstance(said.get("Message"), str) and "TopicArn" in said:
        return sightings(said["Message"].encode())  # SNS stands between the bucket and its queue
    if isinstance(said, dict) and str(said.get("Event", "")).endswith(":TestEvent"):
        return []
    records = said.get("Records") if isinstance(said, dict) else None
    if not isinstance(records, list) or len(records) > RECORDS:
        raise _bad(f"a list of at most {RECORDS} Records", type(records).__name__)
    return [seen for record in records if (seen := _read(record)) is not None]


def _read(record: Any) -> Sighting | None:
    dialect = next((d for d in DIALECTS if isinstance(record, dict) and d.recognises(record)), None)
    if dialect is None:
        raise _bad("a record of a dialect that is known", "another")
    try:
        seen = dialect.sighting(record)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _bad("bucket and key", type(error).__name__) from None
    if seen is not None:
        _check(seen)
    return seen


def _check(seen: Sighting) -> None:
    texts = (seen.bucket, seen.key, *([] if seen.version_id is None else [seen.version_id]))
    if not all(isinstance(text, str) and text for text in texts):
        raise _bad("bucket and key as text", "none")
    if (
        len(seen.key.encode("utf-8", "surrogatepass")) > KEY_BYTES
        or "\0" in seen.key
        or not _is_utf8(seen.key)
    ):
        raise _bad(f"a key of at most {KEY_BYTES} bytes of UTF-8", "another")


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _bad(expected: str, came: str) -> BadMessage:
    return BadMessage("malformed_message", f"expected {expected}, came {came}")
