"""The bucket of a running system, as a user's tool sees it, and what came out of it."""

import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from botocore.config import Config
from botocore.session import Session
from house import House, eventually

from infra.settings import GATEWAY_BUCKET
from producers.bridge.sources import Event

#: Folders whose names have bitten somebody: spaces, plus, percent, quotes, other alphabets, and length.
ODD: Final = (
    "plain", "with space", "a+b", "50%", "per%20cent", "quo\"te'", "ünï/côdé 漢字",
    "/".join(letter * 200 for letter in "abcd"),
)  # fmt: skip
KEY_BYTES: Final = 1000


class Bucket:
    """A client with the gateway's key."""

    def __init__(self, house: House) -> None:
        self._house = house
        name, secret = Path(house.settings.buckets.credentials_file).read_text().split()
        self.client = Session().create_client(
            "s3",
            endpoint_url=house.settings.buckets.endpoint,
            region_name="us-east-1",
            aws_access_key_id=name,
            aws_secret_access_key=secret,
            config=Config(s3={"addressing_style": "path"}, max_pool_connections=16),
        )

    def put(self, key: str, data: bytes) -> str:
        """Put an object and return its key."""
        self.client.put_object(Bucket=GATEWAY_BUCKET, Key=key, Body=data)
        return key

    def put_files(self, prefix: str, files: Sequence[Path]) -> list[str]:
        """Put files under odd keys that begin so, some at once; return the keys in their order."""
        with ThreadPoolExecutor(8) as pool:
            keys = [odd_key(prefix, i, path.name) for i, path in enumerate(files)]
            return list(
                pool.map(lambda at: self.put(at[0], at[1].read_bytes()), zip(keys, files, strict=True))
            )

    def delete(self, key: str) -> None:
        """Delete an object."""
        self.client.delete_object(Bucket=GATEWAY_BUCKET, Key=key)

    def events(self, prefix: str) -> list[Event]:
        """Return the gateway's events of the objects that begin so."""
        found = []
        for message in self._house.topic("s3.events"):
            records = json.loads(message.value).get("Records") or [{}]
            if records[0].get("s3", {}).get("object", {}).get("key", "").startswith(prefix):
                found.append(Event(message.value, (message.topic, message.partition, message.offset), None))
        return found


class Given:
    """A source of events that gives what it was given, once, in batches."""

    name = "given"

    def __init__(self, events: Iterable[Event], together: int = 100) -> None:
        self._events, self._together, self.done_with = list(events), together, 0

    def receive(self) -> list[Event]:
        """See `EventSource.receive`."""
        some, self._events = self._events[: self._together], self._events[self._together :]
        return some

    def done(self, events: Sequence[Event]) -> None:
        """See `EventSource.done`."""
        self.done_with += len(events)

    def close(self) -> None:
        """See `EventSource.close`."""


def odd_key(prefix: str, number: int, name: str) -> str:
    """Return a key of one of the odd folders; the long ones have 1,000 bytes."""
    key = f"{prefix}{ODD[number % len(ODD)]}/{number:04d} {name}"
    return key.ljust(KEY_BYTES, "v")[:KEY_BYTES] if number % len(ODD) == len(ODD) - 1 else key


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip archive."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return made.getvalue()


def effective(house: House, project: str) -> set[tuple[str, str]]:
    """Return what a project has taken: SOP Instance UID and content of every version that counts.

    Of one content in two encodings the first to come counts, so that pixels depend on the order.
    """
    rows = house.trusted.stream("SELECT project, sop_uid, content_id FROM identities")
    return {(row.sop_uid, row.content_id.hex()) for row in rows if row.project == project}


def intakes_of(house: House, project: str) -> dict[str, int]:
    """Return how many intakes of a project ended how, by the ledger's rows of its bucket."""
    found: dict[str, int] = {}
    query = "SELECT records, counts FROM ledger_segments WHERE spool = ?"
    for row in house.trusted.run(query, (f"s3-bucket-{project}",)):
        counts = row.counts or {}
        for outcome, count in counts.items():
            found[outcome] = found.get(outcome, 0) + count
        flying = max(0, (row.records or 0) - sum(counts.values()))
        found["in_flight"] = found.get("in_flight", 0) + flying
    return found


def settled(house: House, project: str, wanted: int, seconds: float = 180.0) -> dict[str, int]:
    """Return the outcomes of a project once so many intakes of its bucket have one and none is in flight."""

    def look() -> dict[str, int] | None:
        found = intakes_of(house, project)
        flying = found.pop("in_flight", 0)
        return found if not flying and sum(found.values()) >= wanted else None

    return eventually(look, f"{wanted} settled intakes of {project}", seconds)


@contextmanager
def paused(house: House, *stages: str) -> Iterator[Callable[[], None]]:
    """Let stages stand still for a while."""
    for stage in stages:
        assert house.prodrome("pause", stage).returncode == 0
    eventually(lambda: set(stages) <= set(house.json("status", "--json")["paused"]), "pause")

    def resume() -> None:
        for stage in stages:
            assert house.prodrome("resume", stage).returncode == 0

    try:
        yield resume
    finally:
        resume()


def lifecycle_of(house: House, kind: str) -> list[dict[str, Any]]:
    """Return what was said of this kind."""
    return [said for said in house.lifecycle if said["kind"] == kind]
