"""One version of an object of a bucket: what makes it this one, and how a pointer writes it. Pure.

An object is (bucket, key, eTag, size): the eTag changes with the bytes, whether or not the bucket keeps
versions, and a listing says it as well as an answer. Where there is a version id it says how to read those very
bytes after the key was overwritten.
"""

from typing import Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

from schemas.events import Value

SCHEME: Final = "s3://"


class ObjectVersion(Value, frozen=True, kw_only=True):
    """Attributes
    ----------
    bucket, key : str
        As the store knows them; the key unquoted.
    size : int
        Bytes.
    etag : str
        Without its quotes.
    version_id : str or None
        None where the bucket keeps no versions, or only a listing has been seen.
    modified : float
        When the store says that it was written, seconds since the epoch; 0 where nobody asked.
    """

    bucket: str
    key: str
    size: int
    etag: str
    version_id: str | None = None
    modified: float = 0.0

    @property
    def version(self) -> str:
        """What tells the contents of one key apart."""
        return f"{self.etag}/{self.size}"

    @property
    def uri(self) -> str:
        """How a pointer names it: no text of the key is left unquoted."""
        name = f"version={quote(self.version_id, safe='')}&" if self.version_id else ""
        return f"{SCHEME}{self.bucket}/{quote(self.key, safe='/')}?{name}etag={quote(self.etag, safe='')}"


def version_id_of(said: str | None) -> str | None:
    """Return the version id that a store says; None for all the ways of saying that there is none."""
    return None if said in ("", "null") else said


def object_of(uri: str, size: int = 0) -> ObjectVersion:
    """Return what a pointer's URI names; raises ValueError where it is none of a bucket."""
    parts = urlsplit(uri)
    names = parse_qs(parts.query, strict_parsing=True)
    if parts.scheme != "s3" or not parts.netloc or "etag" not in names:
        raise ValueError("expected s3://bucket/key?etag=...")
    return ObjectVersion(
        bucket=parts.netloc,
        key=unquote(parts.path[1:]),
        size=size,
        etag=names["etag"][0],
        version_id=names.get("version", [None])[0],
    )


def address_of(text: str) -> tuple[str, str]:
    """Return bucket and prefix of what a person writes: ``s3://bucket/prefix``, unquoted; raises ValueError."""
    if not text.startswith(SCHEME) or not text[len(SCHEME) :]:
        raise ValueError("expected s3://bucket or s3://bucket/prefix")
    bucket, _, prefix = text[len(SCHEME) :].partition("/")
    return bucket, prefix
