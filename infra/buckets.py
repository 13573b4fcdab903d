"""The buckets of others, which prodrome reads and never writes.

1. `begin` asks for the first bytes of an object: one request that confirms it and says what it is.
2. `read` returns bytes of exactly the version that was confirmed (If-Match, version id), checked against length and,
   where the eTag is a digest, against that; large ones in parts beside each other.
3. `pages` lists a prefix, a page in memory at a time.

The endpoint comes from the settings alone. A request that fails is made again after a pause with jitter, a few
times, then it is `SlowDown`. Keys go to the store byte for byte, odd ones too.

Two clients: obstore reads for a fifth of the CPU, but takes ``/a`` for ``a``, refuses ``a//b``, and tells few errors
apart. So it makes the first attempt at an object of a plain key; botocore makes every other one, lists, and says what
is wrong.
"""

import hashlib
import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta
from functools import cache, partial
from http import HTTPStatus
from typing import Any, Final, NamedTuple, TypeVar

import obstore
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.session import Session
from botocore.utils import parse_timestamp
from obstore.store import S3Store
from urllib3.exceptions import HTTPError as StreamError

from infra.connections import S3Connection
from infra.objects import s3_options
from schemas.buckets import ObjectVersion, version_id_of
from schemas.errors import BadMessage, Refused, SlowDown

T = TypeVar("T")

#: Before each further attempt, seconds, each times a random number between a half and one and a half: a store that
#: refuses every other request is then asked twice for one answer, and one that is down is left alone soon.
PAUSES: Final = (0.1, 0.4, 1.6)
CONNECT_SECONDS: Final = 4.0
#: One answer of the store: a part of 8 MB within it is 0.4 MB/s.
READ_SECONDS: Final = 20.0
#: For one object, all attempts together: so much, and the time that a line of 1 MB/s takes.
PATIENCE_SECONDS: Final = 10.0
BYTES_PER_SECOND: Final = 1e6
#: Larger objects are read in parts of this size, so many beside each other.
PART_BYTES: Final = 8 << 20
PARTS: Final = 4
#: As many keys as the protocol gives.
PAGE_KEYS: Final = 1000

_GONE: Final = frozenset({"404", "NoSuchKey", "NoSuchVersion", "NoSuchBucket", "405", "MethodNotAllowed"})
_PAST_END: Final = frozenset({"416", "InvalidRange"})
#: About us and not about the object: waited for until somebody mends it.
_LOGIN: Final = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "RequestTimeTooSkewed"}
)
#: The answer that may be another one later (RFC 9110, RFC 6585), besides all of 500 and above.
_LATER: Final = frozenset({408, 425, 429})
#: What botocore calls what, to obstore.
_QUICK_NAMES: Final = {"VersionId": "version", "IfMatch": "if_match"}
#: An eTag that may be an MD5; that of an object that came in parts has a dash.
_MD5: Final = re.compile(r"[0-9a-f]{32}")


def patience(length: int) -> float:
    """Return the seconds after which `Buckets.read` of so many bytes has ended, one way or the other."""
    return PATIENCE_SECONDS + length / BYTES_PER_SECOND + CONNECT_SECONDS + READ_SECONDS


class Buckets:
    """A client of one endpoint; may be shared by threads, not by processes.

    Parameters
    ----------
    connection : S3Connection
        Where the store is and who we are to it.
    etag_md5 : bool
        Whether the eTag of an object that was put whole is its MD5.
    """

    def __init__(self, connection: S3Connection, *, etag_md5: bool = True) -> None:
        self._etag_md5 = etag_md5
        session = Session()
        # botocore's own reading of times is three quarters of what a listing costs.
        session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_time_of)
        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"total_max_attempts": 1},  # ours, below, are counted
            max_pool_connections=32,
            s3={"addressing_style": "path"} if connection.endpoint else {},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            ignore_configured_endpoint_urls=True,
            proxies={},
        )
        self._client = session.create_client("s3", config=config, **connection.client_arguments())
        self._quick = cache(partial(_quick_store, connection))
        self._parts = ThreadPoolExecutor(PARTS, "bucket-part")

    def begin(
        self, bucket: str, key: str, length: int, version_id: str | None = None
    ) -> tuple[ObjectVersion, bytes]:
        """Return an object as it is now, and its first `length` bytes or all that it has.

        Raises
        ------
        Refused
            `object_gone`: there is none of this key or version. `object_denied`: the store does not let us read it, or
            has moved it to an archive.
        SlowDown
            The store does not answer.
        """
        named = {"VersionId": version_id} if version_id else {}
        try:
            return self._persist(*self._ways(_Asked(bucket, key, 0, length, named)))
        except ClientError as error:
            if _code(error) in _PAST_END:  # no byte can be asked of an object without any
                return self.look(bucket, key, version_id), b""
            raise _refusal(error) from None

    def look(self, bucket: str, key: str, version_id: str | None = None) -> ObjectVersion:
        """Return an object as it is now; raises as `begin`."""
        named = {"VersionId": version_id} if version_id else {}

        def ask() -> ObjectVersion:
            return _version(bucket, key, self._client.head_object(Bucket=bucket, Key=key, **named))

        try:
            return self._persist(ask)
        except ClientError as error:
            raise _refusal(error) from None

    def read(self, version: ObjectVersion, offset: int, length: int) -> bytes:
        """Return bytes of exactly this version, checked.

        Raises
        ------
        BadMessage
            `missing_raw`: it was deleted or overwritten, or the store denies it. `raw_corrupt`: twice it gave other
            bytes than its eTag says.
        SlowDown
            The store does not answer.
        """
        named = {"VersionId": version.version_id} if version.version_id else {"IfMatch": f'"{version.etag}"'}
        checked = self._etag_md5 and _MD5.fullmatch(version.etag) and (offset, length) == (0, version.size)
        for _ in range(2):
            data = self._read(version, offset, length, named)
            if not checked or hashlib.md5(data, usedforsecurity=False).hexdigest() == version.etag:
                return data
        raise BadMessage("raw_corrupt", f"{length} bytes of a bucket are not what their eTag says")

    def pages(self, bucket: str, prefix: str, after: str = "") -> Iterator[list[ObjectVersion]]:
        """Yield the objects whose keys begin so and lie behind `after`, in the order of keys, as pages.

        Raises
        ------
        Refused
            `object_denied`, `object_gone`: the bucket is not there for us.
        SlowDown
            The store does not answer.
        """
        while True:
            asked = {"Bucket": bucket, "Prefix": prefix, "StartAfter": after, "MaxKeys": PAGE_KEYS}
            try:
                answer = self._persist(lambda asked=asked: self._client.list_objects_v2(**asked))  # type: ignore[misc]
            except ClientError as error:
                raise _refusal(error) from None
            page = [_listed(bucket, item) for item in answer.get("Contents", ())]
            if page:
                yield page
                after = page[-1].key
            if not answer.get("IsTruncated") or not page:
                return

    def close(self) -> None:
        """End the connections."""
        self._parts.shutdown()
        self._client.close()

    def _read(self, version: ObjectVersion, offset: int, length: int, named: dict[str, str]) -> bytes:
        if length == 0:
            return b""
        starts = range(offset, offset + length, PART_BYTES)

        def part(start: int) -> bytes:
            wanted = min(PART_BYTES, offset + length - start)
            asked = _Asked(version.bucket, version.key, start, wanted, named, version)
            return self._persist(*self._ways(asked), length=length)[1]

        try:
            if len(starts) == 1:
                return part(offset)
            return b"".join(self._parts.map(part, starts))
        except ClientError as error:
            what = "overwritten" if _status(error) == HTTPStatus.PRECONDITION_FAILED else "deleted or denied"
            raise BadMessage("missing_raw", f"the object was {what} before it was read") from None

    def _ways(self, asked: "_Asked") -> list[Callable[[], tuple[ObjectVersion, bytes]]]:
        """Return how bytes are asked for: the first time, and every other time."""
        quick = [partial(self._get_quick, asked)] if _is_plain(asked.key) else []
        return [*quick, partial(self._get, asked)]

    def _get(self, asked: "_Asked") -> tuple[ObjectVersion, bytes]:
        last = asked.start + asked.length - 1
        answer = self._client.get_object(
            Bucket=asked.bucket, Key=asked.key, Range=f"bytes={asked.start}-{last}", **asked.named
        )
        found = _version(asked.bucket, asked.key, answer)
        with closing(answer["Body"]) as body:
            data = bytes(body.read(asked.length + 1))
        _check(asked, found, data)
        return found, data

    def _get_quick(self, asked: "_Asked") -> tuple[ObjectVersion, bytes]:
        options: dict[str, Any] = {"range": (asked.start, asked.start + asked.length)}
        options |= {_QUICK_NAMES[name]: value for name, value in asked.named.items()}
        try:
            answer = obstore.get(self._quick(asked.bucket), asked.key, options=options)
            meta, data = answer.meta, bytes(answer.bytes())
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            raise _Unlike(type(error).__name__) from None
        found = ObjectVersion(
            bucket=asked.bucket,
            key=asked.key,
            size=meta["size"],
            etag=(meta["e_tag"] or "").strip('"'),
            version_id=version_id_of(meta["version"]),
            modified=meta["last_modified"].timestamp(),
        )
        _check(asked, found, data)
        return found, data

    def _persist(self, *ways: Callable[[], T], length: int = 0) -> T:
        """Return what the first way gives, or, again and again, the last one."""
        deadline = time.monotonic() + PATIENCE_SECONDS + length / BYTES_PER_SECOND
        for attempt, pause in enumerate((*PAUSES, None)):
            try:
                return ways[min(attempt, len(ways) - 1)]()
            except ClientError as error:
                if _is_final(error):
                    raise
                problem = f"the store answers {_code(error)}"
            except (BotoCoreError, HTTPClientError, StreamError, OSError, _Unlike) as error:
                # Only its kind: a library's text may quote the key.
                problem = str(error) if isinstance(error, _Unlike) else type(error).__name__
            if time.monotonic() > deadline:
                break
            if pause is not None:
                time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  jitter, no secret
        raise SlowDown(f"a bucket cannot be read: {problem}")


class _Asked(NamedTuple):
    """A range of an object; `named` says which version to botocore, `known` what it has to be."""

    bucket: str
    key: str
    start: int
    length: int
    named: dict[str, str]
    known: ObjectVersion | None = None


class _Unlike(Exception):
    """The answer is not what its header, or the request, said."""


def _check(asked: _Asked, found: ObjectVersion, data: bytes) -> None:
    known = asked.known
    if known and (found.etag != known.etag or known.size not in (found.size, -1)):
        raise _Unlike("another object than was asked for")
    if len(data) != (expected := min(asked.length, found.size - asked.start)):
        raise _Unlike(f"expected {expected} bytes, came {len(data)}")


def _is_plain(key: str) -> bool:
    """Whether obstore sends a key as it is."""
    return key.isprintable() and not {"", ".", ".."} & {*key.split("/")}


def _quick_store(connection: S3Connection, bucket: str) -> Any:
    options = s3_options(connection)
    times = {"connect_timeout": f"{CONNECT_SECONDS:.0f}s", "timeout": f"{READ_SECONDS:.0f}s"}
    options["client_options"] |= times
    return S3Store(bucket, retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=1)}, **options)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _is_final(error: ClientError) -> bool:
    """Whether the same question has the same answer later."""
    status = _status(error)
    return 400 <= status < 500 and status not in _LATER and _code(error) not in _LOGIN


def _refusal(error: ClientError) -> Refused:
    if _code(error) in _GONE:
        return Refused("object_gone", "there is no such object now")
    return Refused("object_denied", f"the store does not let us read it: {_status(error)}")


def _version(bucket: str, key: str, answer: dict[str, Any]) -> ObjectVersion:
    # Of a part the whole size stands behind the slash: bytes 0-8191/204800.
    size = answer.get("ContentRange", "").rpartition("/")[2]
    return ObjectVersion(
        bucket=bucket,
        key=key,
        size=int(size) if size.isdigit() else answer["ContentLength"],
        etag=answer["ETag"].strip('"'),
        version_id=version_id_of(answer.get("VersionId")),
        modified=answer["LastModified"].timestamp(),
    )


def _time_of(text: Any) -> datetime:
    if isinstance(text, str) and text[4:5] == "-":
        return datetime.fromisoformat(text)  # as listings have it
    found: datetime = parse_timestamp(text)  # as headers have it
    return found


def _listed(bucket: str, item: dict[str, Any]) -> ObjectVersion:
    return ObjectVersion(
        bucket=bucket,
        key=item["Key"],
        size=item["Size"],
        etag=item["ETag"].strip('"'),
        modified=item["LastModified"].timestamp(),
    )
