"""Objects: immutable bytes under keys of our own making; the only door to obstore.

`Store.put` writes an object once: a key names its content, so an object that is there already is the same.
Keys hold digests and pseudonyms, never text that came from outside. A local put is written beside and
renamed, so that nobody sees half an object; it is not synced (what is lost with the power comes again from
the spool, see docs/decisions). What a kill leaves beside an object, obstore never lists: `delete` takes it along,
and `Store.leftovers` finds the rest.
"""

import glob
import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import obstore
import xxhash
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, from_url

from infra.connections import S3Connection, store_of
from infra.settings import Settings, Zone
from infra.spool.format import digest_text
from schemas.errors import BadMessage, SettingsError, SlowDown
from schemas.events import Pointer

SCHEMES: Final = ("file", "s3")
#: How obstore names a local file until it is renamed to its key.
_UNFINISHED: Final = re.compile(r"#\d+$")


def open_results(settings: Settings) -> "Store":
    """Return the store of what scoring keeps; a bucket is reached as that of the clean zone is."""
    return Store(settings.score.store, "results", store_of(settings.clean, "clean"))


def open_store(zone: Zone, name: str, scheme: str) -> "Store":
    """Return the store of a zone, ``trusted`` or ``clean``, as its settings say."""
    return Store(zone.store, scheme, store_of(zone, name))


class Store:
    """One store behind a URL.

    Parameters
    ----------
    url : str
        ``file:///folder`` or ``s3://bucket/prefix``.
    scheme : str
        What pointers into this store begin with: ``clean``, ``trusted`` or ``results``.
    connection : S3Connection, optional
        How the bucket's service is reached; without one Amazon's own, as whoever the environment says.
    """

    def __init__(self, url: str, scheme: str, connection: S3Connection | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES:
            raise SettingsError(
                f"expected a store URL of {' or '.join(SCHEMES)}, came {parts.scheme or 'none'}"
            )
        self.scheme = scheme
        self._folder = Path(parts.path) if parts.scheme == "file" else None
        if self._folder:
            self._store = LocalStore(prefix=parts.path, automatic_cleanup=False, mkdir=True)
        else:
            self._store = from_url(url, **s3_options(connection or S3Connection()))

    def put(self, key: str, data: bytes) -> Pointer:
        """Write an object unless it is there already, and return the pointer to it.

        What a power loss left of an object (its name, and too few bytes) is written again.

        Raises
        ------
        SlowDown
            The store does not answer or is full.
        """
        try:
            try:
                obstore.put(self._store, key, data, mode="create")
            except AlreadyExistsError:
                if obstore.head(self._store, key)["size"] != len(data) or self._read(key) != data:
                    obstore.put(self._store, key, data)
        except (OSError, obstore.exceptions.BaseError) as error:
            raise SlowDown(f"the {self.scheme} store refused a put: {type(error).__name__}") from None
        return Pointer(uri=f"{self.scheme}://{key}", offset=0, length=len(data), checksum=_checksum(data))

    def put_again(self, key: str, data: bytes) -> Pointer:
        """Write an object over one that may be there: for sealed bytes, which differ each time."""
        try:
            obstore.put(self._store, key, data)
        except (OSError, obstore.exceptions.BaseError) as error:
            raise SlowDown(f"the {self.scheme} store refused a put: {type(error).__name__}") from None
        return Pointer(uri=f"{self.scheme}://{key}", offset=0, length=len(data))

    def get(self, pointer: Pointer) -> bytes:
        """Return the bytes of a pointer, checked against its length and digest.

        Raises
        ------
        BadMessage
            `missing_object`: there is no such object, or other bytes than the pointer names.
        SlowDown
            The store does not answer.
        """
        key = self._key(pointer)
        try:
            # A range beyond the end is an error like any other in obstore, so the size is asked first.
            if obstore.head(self._store, key)["size"] < pointer.offset + pointer.length:
                raise BadMessage("missing_object", f"expected {pointer.length} bytes, the object is shorter")
            data = self._read(key, pointer.offset, pointer.length)
        except FileNotFoundError:
            raise BadMessage("missing_object", f"nothing at a pointer of {pointer.length} bytes") from None
        except (OSError, obstore.exceptions.BaseError) as error:
            raise SlowDown(f"the {self.scheme} store refused a get: {type(error).__name__}") from None
        if len(data) != pointer.length or not _matches(data, pointer):
            raise BadMessage(
                "missing_object", f"expected {pointer.length} bytes of a known digest, came others"
            )
        return data

    def find(self, key: str) -> bytes | None:
        """Return a whole object by its key, or None: for what shows damage by its own form, as no pointer does.

        Raises
        ------
        SlowDown
            The store does not answer.
        """
        try:
            return self._read(key)
        except FileNotFoundError:
            return None
        except (OSError, obstore.exceptions.BaseError) as error:
            raise SlowDown(f"the {self.scheme} store refused a get: {type(error).__name__}") from None

    def delete(self, pointer: Pointer) -> None:
        """Remove an object and what kills left beside it; one that is gone already is no error."""
        key = self._key(pointer)
        with suppress(FileNotFoundError):
            obstore.delete(self._store, key)
        if self._folder:
            path = self._folder / key
            for beside in _unfinished(path.parent.glob(f"{glob.escape(path.name)}#*")):
                beside.unlink(missing_ok=True)

    def leftovers(self, before: float) -> Iterator[Path]:
        """Yield the files that a kill left of local puts, begun before a time (Unix, s); a bucket has its own rule.

        None is an object: it may be half of one, or a second name of a whole one.
        """
        for path in _unfinished(self._folder.rglob("*#*")) if self._folder else ():
            with suppress(FileNotFoundError):  # it was finished while we looked
                if path.stat().st_mtime < before:
                    yield path

    def holds(self, pointer: Pointer) -> bool:
        """Whether there is an object of at least the pointer's length; raises `SlowDown` while the store is away."""
        try:
            size: int = obstore.head(self._store, self._key(pointer))["size"]
        except FileNotFoundError:
            return False
        except (OSError, obstore.exceptions.BaseError) as error:
            raise SlowDown(f"the {self.scheme} store refused a look: {type(error).__name__}") from None
        return size >= pointer.offset + pointer.length

    def entries(self, prefix: str = "") -> Iterator[tuple[str, float]]:
        """Yield key and time of writing of each object, a page in memory at a time."""
        for page in obstore.list(self._store, prefix=prefix or None):
            for item in page:
                yield item["path"], item["last_modified"].timestamp()

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys below a prefix; for tests and repairs, not for a hot path."""
        return [item["path"] for page in obstore.list(self._store, prefix=prefix or None) for item in page]

    def _read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if length == 0:
            return b""
        if length is None:
            return bytes(obstore.get(self._store, key).bytes())
        return bytes(obstore.get_range(self._store, key, start=start, length=length))

    def _key(self, pointer: Pointer) -> str:
        scheme, _, key = pointer.uri.partition("://")
        if scheme != self.scheme or ".." in key.split("/"):
            raise BadMessage("missing_object", f"expected a pointer into the {self.scheme} store")
        return key


def s3_options(connection: S3Connection) -> dict[str, Any]:
    """Return what obstore makes a client of S3 with."""
    client: dict[str, Any] = {"allow_http": True} if connection.endpoint.startswith("http://") else {}
    if connection.ca:
        client["root_certificate"] = connection.ca.read_text()
    found: dict[str, Any] = {"client_options": client}
    if connection.region:
        found["region"] = connection.region
    if connection.endpoint:
        found |= {"endpoint": connection.endpoint, "virtual_hosted_style_request": False}
    if credentials := connection.credentials():
        found |= dict(zip(("access_key_id", "secret_access_key"), credentials, strict=True))
    return found


def _unfinished(paths: Iterable[Path]) -> Iterator[Path]:
    return (path for path in paths if _UNFINISHED.search(path.name))


def _checksum(data: bytes) -> str:
    # Against damage, not against a forger: who can write into the store can write events too.
    return digest_text(xxhash.xxh3_64_intdigest(data))


def _matches(data: bytes, pointer: Pointer) -> bool:
    if isinstance(pointer.checksum, str) and pointer.checksum != _checksum(data):
        return False
    return pointer.digest is None or pointer.digest == hashlib.sha256(data).hexdigest()
