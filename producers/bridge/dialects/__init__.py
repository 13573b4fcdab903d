"""How stores speak of their objects: a module a dialect, with `recognises` and `sighting`, and a line in
`producers.bridge.notifications`. Pure.

An event's times, sizes, digests, regions and endpoints are not even read.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

from schemas.buckets import version_id_of


class Sighting(NamedTuple):
    """Somebody says that there is, or is no more, an object."""

    kind: Literal["created", "removed"]
    bucket: str
    key: str
    version_id: str | None = None


class Dialect(Protocol):
    """How one kind of store speaks."""

    def recognises(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is of this kind."""

    def sighting(self, record: Mapping[str, Any]) -> Sighting | None:
        """Return what a record says; None for events about neither coming nor going. May raise any lookup error."""


def seen(record: Mapping[str, Any], key: str, *, created: bool) -> Sighting:
    """Return what a record of Amazon's structure says of a key; of what is gone no version is asked for."""
    version = version_id_of(record["s3"]["object"].get("versionId"))
    kind: Literal["created", "removed"] = "created" if created else "removed"
    return Sighting(kind, record["s3"]["bucket"]["name"], key, version if created else None)
