"""A bucket in memory that fails when it is told to, and files to put into it."""

import hashlib
from collections import Counter
from collections.abc import Iterator

from schemas.buckets import ObjectVersion
from schemas.errors import Refused, SlowDown


class Memory:
    """What `infra.buckets.Buckets` does, over a dict; `away` are keys that do not answer so many times."""

    def __init__(self, page_keys: int = 1000) -> None:
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.away: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self._page_keys = page_keys

    def put(self, key: str, data: bytes, modified: float = 0.0) -> str:
        """Put an object."""
        self.objects[key] = (data, modified)
        return key

    def begin(
        self, bucket: str, key: str, length: int, version_id: str | None = None
    ) -> tuple[ObjectVersion, bytes]:
        """See `Buckets.begin`."""
        version = self.look(bucket, key, version_id)
        return version, self.objects[key][0][:length]

    def look(self, bucket: str, key: str, version_id: str | None = None) -> ObjectVersion:
        """See `Buckets.look`."""
        del version_id
        self.asked[key] += 1
        if self.away[key] > 0:
            self.away[key] -= 1
            raise SlowDown("away")
        if key not in self.objects:
            raise Refused("object_gone", "there is none")
        return self._version(bucket, key)

    def read(self, version: ObjectVersion, offset: int, length: int) -> bytes:
        """See `Buckets.read`."""
        return self.objects[version.key][0][offset : offset + length]

    def pages(self, bucket: str, prefix: str, after: str = "") -> Iterator[list[ObjectVersion]]:
        """See `Buckets.pages`."""
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
        for start in range(0, len(keys), self._page_keys):
            yield [self._version(bucket, key) for key in keys[start : start + self._page_keys]]

    def _version(self, bucket: str, key: str) -> ObjectVersion:
        data, modified = self.objects[key]
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        return ObjectVersion(bucket=bucket, key=key, size=len(data), etag=etag, modified=modified)
