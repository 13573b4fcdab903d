"""versitygw's notifications (1.7): Amazon's structure, but **the key is as it is**, not URL-encoded.

Told apart by the configuration's id, which ends in ``-global`` here. The eTag has its quotes and the sequencer starts
anew with the process; neither is read.
"""

from collections.abc import Mapping
from typing import Any

from producers.bridge.dialects import Sighting, seen


def recognises(record: Mapping[str, Any]) -> bool:
    """See `Dialect.recognises`."""
    s3 = record.get("s3")
    return isinstance(s3, dict) and str(s3.get("configurationId", "")).endswith("-global")


def sighting(record: Mapping[str, Any]) -> Sighting | None:
    """See `Dialect.sighting`."""
    name = record["eventName"].removeprefix("s3:")
    created = name.startswith("ObjectCreated:")
    if not created and not name.startswith("ObjectRemoved:"):
        return None
    return seen(record, record["s3"]["object"]["key"], created=created)
