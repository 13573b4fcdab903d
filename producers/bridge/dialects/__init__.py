"""How stores speak of their objects: a module a dialect, with `recognises` and `sighting`, and a line in
`producers.bridge.notifications`. Pure.

An event's times, sizes, digests, regions and endpoints are not even read.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol


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
