"""DICOM over TLS: who may come is who the certificate says, and a slow handshake is nobody else's."""

import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from doors import Door, dataset, eventually, item, store_one, stored

from infra.connections import Tls
from infra.settings import Receive
from infra.stack import certificates
from producers.receiver import guard
from producers.send import AssociationRefused, Destination, Lost
from schemas.errors import SettingsError
from schemas.sources import Source

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A CA with a server and two clients of its own, and another CA with one."""
    for name in ("ours", "theirs"):
        certificates.make(tmp_path / name)
    for name in ("pacs.pem", "modality.pem"):
        certificates.sign(tmp_path / "ours", name)
    certificates.sign(tmp_path / "theirs", "stranger.pem")
    return tmp_path


@pytest.fixture
def secure(open_door: Callable[..., Door], house: Path) -> Callable[..., Door]:
    """A maker of receivers that want a certificate of our CA."""

    def make(*sources: Source, **settings: Any) -> Door:
        ours = house / "ours"
        return open_door(*sources, tls_cert=str(ours / "server.pem"), tls_ca=str(ours / "ca.pem"), **settings)

    return make


def through(
    door: Door, house: Path, cert: str | None = "ours/pacs.pem", ca: str = "ours/ca.pem"
) -> Destination:
    tls = Tls(ca=house / ca, cert=house / cert if cert else None)
    return Destination(host="127.0.0.1", port=door.destination.port, tls=tls)


def fingerprint(path: Path) -> str:
    first = path.read_text().split("-----BEGIN CERTIFICATE-----")[1]
    pem = "-----BEGIN CERTIFICATE-----" + first
    return f"sha256:{sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()}"


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_bytes_come_as_sent(secure: Callable[..., Door], house: Path, tmp_path: Path, size: int) -> None:
    """Through TLS too, small and in many records."""
    door, data = secure(), dataset("1.2.3.4", size)
    assert store_one(door, item(tmp_path, "1.2.3.4", data), through(door, house)) == 0
    assert [found for _, found in stored(door.folder)] == [data]


@pytest.mark.parametrize(
    ("cert", "ca"),
    [
        (None, "ours/ca.pem"),
        ("theirs/stranger.pem", "ours/ca.pem"),
        ("ours/pacs.pem", "theirs/ca.pem"),
        ("ours/ended.pem", "ours/ca.pem"),
        ("ours/early.pem", "ours/ca.pem"),
        ("ours/server.pem", "ours/ca.pem"),
        ("ours/alone.pem", "ours/ca.pem"),
    ],
)
def test_strangers_stay_out(
    secure: Callable[..., Door],
    house: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cert: str | None,
    ca: str,
) -> None:
    """No certificate, or one of another CA, out of its time, for servers, or that nobody signed.

    And a sender that does not trust our CA does not send.
    """
    for name, days in (("ended.pem", -3 * 365), ("early.pem", 3 * 365)):
        with monkeypatch.context() as other:
            other.setattr(certificates, "datetime", Elsewhen(days))
            certificates.sign(house / "ours", name)
    certificates.make(house / "alone")
    whole = (house / "alone" / "ca.pem").read_bytes() + (house / "alone" / "ca.key").read_bytes()
    (house / "ours" / "alone.pem").write_bytes(whole)
    door = secure()
    with pytest.raises((Lost, ssl.SSLError)):
        store_one(door, item(tmp_path, "1.2", dataset("1.2")), through(door, house, cert, ca))
    assert stored(door.folder) == []


def test_plain_text_gets_nowhere(secure: Callable[..., Door], tmp_path: Path) -> None:
    """An association request in the clear is no handshake."""
    door = secure()
    with pytest.raises(Lost):
        store_one(door, item(tmp_path, "1.2", dataset("1.2")))


class Elsewhen:
    """Stands in for `datetime`: so many days from now."""

    def __init__(self, days: int) -> None:
        self._days = days

    def now(self, zone: tzinfo) -> datetime:
        """Return the moment."""
        return datetime.now(zone) + timedelta(days=self._days)


def connects(door: Door, house: Path, *options: str) -> bool:
    """Whether an independent client with our certificate and these options gets through its handshake."""
    ours = house / "ours"
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{door.destination.port}", *options,
               "-CAfile", ours / "ca.pem", "-cert", ours / "pacs.pem",
               "-key", ours / "pacs.pem", "-verify_return_error", "-brief"]  # fmt: skip
    told = subprocess.run(command, input=b"", capture_output=True, timeout=30, check=False).stderr
    return b"CONNECTION ESTABLISHED" in told


@needs_openssl
@pytest.mark.parametrize(
    ("version", "works"), [("-tls1", False), ("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)]
)
def test_versions(secure: Callable[..., Door], house: Path, version: str, works: bool) -> None:
    """TLS 1.2 at least (PS3.15 B.12), by an independent client."""
    assert connects(secure(), house, version, "-cipher", "ALL:@SECLEVEL=0") == works


@needs_openssl
def test_ciphers(secure: Callable[..., Door], house: Path) -> None:
    """Of all that the independent client knows for TLS 1.2: forward secrecy and authenticated encryption alone."""
    door = secure()
    known = subprocess.run(
        ["openssl", "ciphers", "-s", "-tls1_2", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"],
        capture_output=True,
        text=True,
        check=True,
    )
    names = known.stdout.strip().split(":")
    weak = [name for name in names if not re.match(r"(ECDHE|DHE)-.*(GCM|CHACHA20)", name)]
    # The server's key is an elliptic one; anonymous suites and pre-shared keys are among the weak.
    strong = [name for name in names if re.match(r"ECDHE-ECDSA-(AES.*GCM|CHACHA20)", name)]
    assert len(weak) > 10
    assert len(strong) >= 3
    assert not connects(door, house, "-tls1_2", "-cipher", ":".join([*weak, "@SECLEVEL=0"]))
    assert [name for name in strong if not connects(door, house, "-tls1_2", "-cipher", name)] == []


@needs_openssl
def test_nobody_renegotiates(secure: Callable[..., Door], house: Path) -> None:
    """A client that asks for another handshake within the connection gets none."""
    door, ours = secure(), house / "ours"
    command = ["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{door.destination.port}",
               "-CAfile", ours / "ca.pem", "-cert", ours / "pacs.pem", "-key", ours / "pacs.pem"]  # fmt: skip
    done = subprocess.run(command, input=b"R\n", capture_output=True, timeout=60, check=False)
    assert b"RENEGOTIATING" in done.stdout + done.stderr
    assert b"no renegotiation" in done.stderr


def test_a_source_is_its_certificate_too(secure: Callable[..., Door], house: Path, tmp_path: Path) -> None:
    """AE title and address may be right: with another's certificate it is not this source."""
    pacs = Source(name="pacs", certificates=(fingerprint(house / "ours/pacs.pem"),))
    named = Source(name="modality", certificates=("LOCALHOST",), called_ae_title="MODALITY")
    door = secure(pacs, named)
    one = item(tmp_path, "1.2", dataset("1.2"))
    assert store_one(door, one, through(door, house)) == 0
    with pytest.raises(AssociationRefused, match="1/1/3"):
        store_one(door, one, through(door, house, "ours/modality.pem"))
    assert store_one(door, one, through(door, house, "ours/modality.pem"), called="MODALITY") == 0
    assert [header.source for header, _ in stored(door.folder)] == ["pacs", "modality"]


def test_a_certificate_is_wanted_where_there_is_no_tls(
    open_door: Callable[..., Door], tmp_path: Path
) -> None:
    """A source that names certificates never matches in the clear."""
    door = open_door(Source(name="pacs", certificates=("localhost",)))
    with pytest.raises(AssociationRefused):
        store_one(door, item(tmp_path, "1.2", dataset("1.2")))


def test_certificates_change_without_a_restart(
    secure: Callable[..., Door], house: Path, tmp_path: Path
) -> None:
    """The next connection sees the new ones; half a file leaves those before in force."""
    door, ours = secure(), house / "ours"
    one = item(tmp_path, "1.2", dataset("1.2"))
    right = (ours / "server.pem").read_bytes()
    (ours / "server.pem").write_bytes(right[:100])
    assert store_one(door, one, through(door, house)) == 0
    (house / "theirs" / "ca.pem").replace(ours / "ca.pem")
    (house / "theirs" / "server.pem").replace(ours / "server.pem")
    assert store_one(door, one, through(door, house, "theirs/stranger.pem")) == 0
    with pytest.raises(Lost):
        store_one(door, one, through(door, house, "ours/pacs.pem"))


def test_a_slow_handshake_holds_up_nobody(
    secure: Callable[..., Door], house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty that say nothing, and one that trickles: the next one gets in, and they go."""
    monkeypatch.setattr(guard, "SOCKET_SECONDS", 1.0)
    door = secure()
    silent = [socket.create_connection(("127.0.0.1", door.destination.port)) for _ in range(50)]
    assert store_one(door, item(tmp_path, "1.2", dataset("1.2")), through(door, house)) == 0

    def closed(peer: socket.socket) -> bool:
        peer.settimeout(0.05)
        try:
            return peer.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True

    assert eventually(lambda: all(closed(peer) for peer in silent), 30.0)
    for peer in silent:
        peer.close()


def test_beyond_loopback_a_certificate_is_enough(tmp_path: Path) -> None:
    """And without one it is refused before anything listens; a file that is none is told as such."""
    from producers.receiver.server import serve

    with pytest.raises(SettingsError, match="PRODROME_RECEIVE_TLS_CERT"):
        serve(Receive(host="0.0.0.0"), (), None, None)  # type: ignore[arg-type]
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    with pytest.raises(SettingsError, match="expected certificate and key"):
        serve(Receive(host="0.0.0.0", tls_cert=str(bad)), (), None, None)  # type: ignore[arg-type]
