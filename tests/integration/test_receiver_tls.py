"""DICOM over TLS: who may come is who the certificate says, and a slow handshake is nobody else's."""

import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
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
    [(None, "ours/ca.pem"), ("theirs/stranger.pem", "ours/ca.pem"), ("ours/pacs.pem", "theirs/ca.pem")],
)
def test_strangers_stay_out(
    secure: Callable[..., Door], house: Path, tmp_path: Path, cert: str | None, ca: str
) -> None:
    """No certificate, one of another CA; and a sender that does not trust ours does not send."""
    door = secure()
    with pytest.raises((Lost, ssl.SSLError)):
        store_one(door, item(tmp_path, "1.2", dataset("1.2")), through(door, house, cert, ca))
    assert stored(door.folder) == []


def test_plain_text_gets_nowhere(secure: Callable[..., Door], tmp_path: Path) -> None:
    """An association request in the clear is no handshake."""
    door = secure()
    with pytest.raises(Lost):
        store_one(door, item(tmp_path, "1.2", dataset("1.2")))


@needs_openssl
@pytest.mark.parametrize(("version", "works"), [("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)])
def test_versions(secure: Callable[..., Door], house: Path, version: str, works: bool) -> None:
    """TLS 1.2 at least (PS3.15 B.12), by an independent client."""
    door, ours = secure(), house / "ours"
    command = ["openssl", "s_client", version, "-connect", f"127.0.0.1:{door.destination.port}",
               "-cipher", "ALL:@SECLEVEL=0", "-CAfile", ours / "ca.pem", "-cert", ours / "pacs.pem",
               "-key", ours / "pacs.pem", "-verify_return_error", "-brief"]  # fmt: skip
    told = subprocess.run(command, input=b"", capture_output=True, timeout=30, check=False).stderr
    assert (b"CONNECTION ESTABLISHED" in told) == works, told


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
