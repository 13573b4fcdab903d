"""The buckets of others on a real gateway: exact keys, exact versions, and answers that go wrong."""

import contextlib
import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest
from botocore.config import Config
from botocore.session import Session

from infra.buckets import PART_BYTES, Buckets
from infra.connections import S3Connection
from schemas.buckets import ObjectVersion, object_of
from schemas.errors import BadMessage, Refused, SlowDown
from tests.gateway import Gateway, Trouble

#: Read while answers go wrong.
OBJECTS = 100
KEYS = (
    "plain.dcm",
    "a b+c%d/e%20f",
    "quo\"te'",
    "ünï/côdé 漢字",
    "a/" + "b/" * 20 + "c",
    "/".join(["d" * 200] * 4),
    "~!*()",
)


@pytest.fixture(scope="module")
def put(s3_gateway: Gateway) -> Callable[[str, bytes], str]:
    """Puts an object into the bucket `raw` and returns its key."""
    s3_gateway.bucket("raw")
    name, secret = s3_gateway.connection.credentials() or ("", "")
    client = Session().create_client(
        "s3", endpoint_url=s3_gateway.connection.endpoint, region_name="us-east-1", aws_access_key_id=name,
        aws_secret_access_key=secret, config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip

    def put_object(key: str, data: bytes) -> str:
        client.put_object(Bucket="raw", Key=key, Body=data)
        return key

    return put_object


@pytest.fixture
def buckets(s3_gateway: Gateway) -> Buckets:
    """A client of the gateway."""
    return Buckets(s3_gateway.connection)


@pytest.mark.parametrize("key", KEYS, ids=range(len(KEYS)))
def test_an_object_is_confirmed_by_its_first_bytes_and_read_by_its_pointer(put, buckets: Buckets, key: str):
    """Whatever its key is made of, and through the text of a pointer."""
    data = key.encode() * 3000
    version, begin = buckets.begin("raw", put(key, data), 100)
    assert (version.size, version.etag) == (len(data), hashlib.md5(data).hexdigest())
    assert begin == data[:100]
    again = object_of(version.uri, version.size)
    assert (again.bucket, again.key, again.etag) == ("raw", key, version.etag)
    assert buckets.read(again, 0, len(data)) == data
    assert buckets.read(again, 7, 20) == data[7:27]


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, 2 * PART_BYTES + 1])
def test_every_size_is_read_whole(put, buckets: Buckets, size: int):
    """None, one byte, one part exactly, and several."""
    data = bytes(i % 251 for i in range(1009)) * (size // 1009 + 1)
    version, _ = buckets.begin("raw", put(f"size {size}", data[:size]), 100)
    assert buckets.read(version, 0, size) == data[:size]


def test_a_listing_is_in_order_and_whole_and_goes_on(put, buckets: Buckets):
    """More than a page of keys, and from behind any of them."""
    for number in range(30):
        put(f"listed/{number:03d}", b"x")
    listed = [version for page in buckets.pages("raw", "listed/") for version in page]
    assert [version.key for version in listed] == [f"listed/{number:03d}" for number in range(30)]
    assert listed[3].version == buckets.look("raw", "listed/003").version
    behind = [version.key for page in buckets.pages("raw", "listed/", "listed/017") for version in page]
    assert behind == [f"listed/{number:03d}" for number in range(18, 30)]


def test_what_was_overwritten_or_deleted_is_not_read_as_what_it_was(
    put, buckets: Buckets, s3_gateway: Gateway
):
    """The pointer means the first version; the second has a pointer of its own."""
    version, _ = buckets.begin("raw", put("over", b"first"), 100)
    put("over", b"other")
    with pytest.raises(BadMessage, match="missing_raw: the object was overwritten"):
        buckets.read(version, 0, 5)
    (s3_gateway.folder / "data" / "raw" / "over").unlink()
    with pytest.raises(BadMessage, match="missing_raw: the object was deleted"):
        buckets.read(version, 0, 5)


@pytest.mark.parametrize(
    ("bucket", "key"), [("raw", "none"), ("nobody", "none"), ("raw", "a/../../etc/passwd")]
)
def test_what_is_not_there_is_refused(put, buckets: Buckets, bucket: str, key: str):
    """With its reason; nothing waits for it."""
    with pytest.raises(Refused, match=r"object_gone|object_denied"):
        buckets.begin(bucket, key, 10)


def test_a_stranger_is_denied(put, s3_gateway: Gateway, tmp_path: Path):
    """A wrong key is a reason that an operator can mend."""
    (tmp_path / "credentials").write_text("tests\nwrong\n")
    (tmp_path / "credentials").chmod(0o600)
    connection = S3Connection(
        endpoint=s3_gateway.connection.endpoint, region="us-east-1", credentials_file=tmp_path / "credentials"
    )
    with pytest.raises((Refused, SlowDown)):
        Buckets(connection).begin("raw", "plain.dcm", 10)


@pytest.mark.parametrize("kind", ["refused", "short", "reset"])
def test_half_of_all_answers_may_go_wrong(put, s3_gateway: Gateway, kind: str):
    """Nothing is lost, nothing is short, and no object costs three requests."""
    data = bytes(range(256)) * 50
    put("troubled", data)
    version = Buckets(s3_gateway.connection).look("raw", "troubled")
    with Trouble(s3_gateway.port, **{kind: 0.5}) as trouble, ThreadPoolExecutor(16) as pool:
        buckets = Buckets(s3_gateway.through(trouble.server_port))

        def read(_: int) -> None:
            while True:
                with contextlib.suppress(SlowDown):
                    assert buckets.read(version, 0, len(data)) == data
                    return

        list(pool.map(read, range(OBJECTS)))
        buckets.close()
    assert sum(trouble.asked.values()) <= 3 * OBJECTS


def test_other_bytes_than_the_etag_says_are_not_taken(put, s3_gateway: Gateway):
    """One wrong answer is asked again; a store that goes on giving others holds others."""
    data = bytes(range(256)) * 50
    put("changed", data)
    version = Buckets(s3_gateway.connection).look("raw", "changed")
    with Trouble(s3_gateway.port, changed=1.0) as always:
        buckets = Buckets(s3_gateway.through(always.server_port))
        with pytest.raises(BadMessage, match="raw_corrupt"):
            buckets.read(version, 0, len(data))
        buckets.close()
        unchecked = Buckets(s3_gateway.through(always.server_port), etag_md5=False)
        assert len(unchecked.read(version, 0, len(data))) == len(data)
        unchecked.close()


class _Recording(http.server.BaseHTTPRequestHandler):
    paths: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.paths.append(self.path)
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Buckets]:
    """A client of a server that notes what is asked for."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Recording)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "credentials").write_text("a\nb\n")
    (tmp_path / "credentials").chmod(0o600)
    _Recording.paths.clear()
    yield Buckets(S3Connection(
        endpoint=f"http://127.0.0.1:{server.server_port}", region="us-east-1", credentials_file=tmp_path / "credentials"
    ))  # fmt: skip
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("a//b", "/raw/a//b"),
        ("/a", "/raw//a"),
        ("a/../b", "/raw/a/../b"),
        ("./a", "/raw/./a"),
        ("a\tb", "/raw/a%09b"),
        ("a?b#c", "/raw/a%3Fb%23c"),
        ("a%2Fb", "/raw/a%252Fb"),
    ],
)
def test_a_key_goes_to_the_store_as_it_is(recording: Buckets, key: str, path: str):
    """Nothing is tidied up on the way: to S3 these are keys like others."""
    with pytest.raises(Refused, match="object_gone"):
        recording.begin("raw", key, 10)
    assert {*_Recording.paths} == {path}


@pytest.mark.parametrize(
    "uri", ["s3://", "s3://b/k", "file:///etc/passwd?etag=1", "s3:///k?etag=1", "s3://b/k?version=1"]
)
def test_what_is_no_pointer_into_a_bucket_is_refused(uri: str):
    """A pointer names bucket, key and eTag."""
    with pytest.raises(ValueError, match=r"expected s3|bad query"):
        object_of(uri)


def test_a_pointer_names_its_version():
    """The version id is part of what is read, and no part of what the object is."""
    version = ObjectVersion(bucket="b", key="k é", size=3, etag="e-1", version_id="v/+=")
    assert object_of(version.uri, 3) == version
    assert version.version == "e-1/3"
