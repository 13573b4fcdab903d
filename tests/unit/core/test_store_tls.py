"""A store behind https: the CA of the settings is trusted, and no other is."""

import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.connections import S3Connection
from infra.objects import Store
from infra.stack import certificates
from schemas.errors import SlowDown


class Bucket(http.server.BaseHTTPRequestHandler):
    """Takes an object, as S3 does."""

    kept: dict[str, bytes] = {}  # noqa: RUF012 one server a test

    def do_PUT(self) -> None:
        self.kept[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The CA of an https endpoint that the environment names."""
    certificates.make(tmp_path)
    server = http.server.HTTPServer(("127.0.0.1", 0), Bucket)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "server.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for name, value in (
        ("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("REGION", "c"),
        ("ENDPOINT_URL", f"https://127.0.0.1:{server.server_port}"),
    ):  # fmt: skip
        monkeypatch.setenv(f"AWS_{name}", value)
    yield tmp_path / "ca.pem"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_store_is_reached_through_its_ca(ca: Path) -> None:
    """What is put arrives."""
    assert Store("s3://bucket/prefix", "clean", S3Connection(ca=ca)).put("key", b"data").length == 4
    assert Bucket.kept["/bucket/prefix/key"] == b"data"


def test_a_store_that_another_ca_signed_is_not_spoken_with(ca: Path, tmp_path: Path) -> None:
    """It may be anybody's: wait, and send nothing."""
    certificates.make(tmp_path / "other")
    with pytest.raises(SlowDown, match="refused a put"):
        Store("s3://bucket/prefix", "clean", S3Connection(ca=tmp_path / "other" / "ca.pem")).put(
            "never", b"data"
        )
    assert "/bucket/prefix/never" not in Bucket.kept
