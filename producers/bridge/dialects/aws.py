"""Amazon S3's notifications (message structure 2.x), and what speaks like it: ministack, moto, MinIO.

Keys are URL-encoded, a space as ``+``; what is encoded is decoded once. `versionId` is absent without versioning.
(Amazon S3 User Guide, "Event message structure".)
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_plus

from producers.bridge.dialects import Sighting, seen


def recognises(record: Mapping[str, Any]) -> bool:
    """See `Dialect.recognises`."""
    return "s3" in record and isinstance(record.get("eventName"), str)


def sighting(record: Mapping[str, Any]) -> Sighting | None:
    """See `Dialect.sighting`."""
    name = record["eventName"].removeprefix("s3:")
    # What came back out of an archive can be read from then on.
    created = name.startswith("ObjectCreated:") or name == "ObjectRestore:Completed"
    if not created and not name.startswith(("ObjectRemoved:", "LifecycleExpiration:")):
        return None
    return seen(record, unquote_plus(record["s3"]["object"]["key"], errors="strict"), created=created)
