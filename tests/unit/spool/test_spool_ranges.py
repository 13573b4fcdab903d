"""Ranges over HTTP: the bytes that the folder holds, to who has a token, whatever lies on the way."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from range_rig import TOKEN, Way, certificate, private

from infra import metrics
from infra.settings import Reader
from infra.settings import Spool as Settings
from infra.spool import Kind, Record, Spool, SpoolLimits, SpoolReader, SpoolStore, UnknownSpool, pointer_to
from infra.spool import client as client_module
from infra.spool import server as server_module
from infra.spool.client import RangeClient
from infra.spool.files import segment_path
from infra.spool.server import RangeServer, parse, serving
from schemas.errors import BadMessage, SettingsError, SlowDown
from schemas.events import Pointer

#: More than a segment: the first is sealed.
PAYLOADS = [bytes([n]) * (7000 + n) for n in range(12)]


class Served(NamedTuple):
    """A spool with records, and the server of its ranges."""

    folder: Path
    spool: Spool
    server: RangeServer
    tokens: Path
    records: list[Record]

    def pointer(self, n: int) -> Pointer:
        return pointer_to(self.spool.id, self.records[n])

    def get(self, *, segment: int = 1, spool: str = "", range_: str = "bytes=5000-5009", **more: str) -> str:
        """A request with our token."""
        fields = {"Authorization": f"Bearer {TOKEN}", "Range": range_, **more}
        head = "".join(f"{name}: {text}\r\n" for name, text in fields.items() if text)
        return f"GET /v1/spools/{spool or self.spool.id}/segments/{segment} HTTP/1.1\r\n{head}\r\n"

    def ask(self, request: str) -> tuple[int, bytes]:
        """Send these bytes; return status and body. The connection ends with the answer, or is ended here."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as peer:
            peer.sendall(request.encode("latin-1"))
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += peer.recv(1 << 16)
            head, _, body = answer.partition(b"\r\n\r\n")
            length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
            while len(body) < length:
                body += peer.recv(1 << 16)
            return int(head.split()[1]), body


@pytest.fixture
def served(
    tmp_path: Path, header: Callable[[int], Any], records: Callable[[Path], list[Record]], limits: SpoolLimits
) -> Iterator[Served]:
    folder, tokens = tmp_path / "spool", private(tmp_path / "tokens", TOKEN)
    spool = Spool(folder, limits)
    for n, payload in enumerate(PAYLOADS):
        spool.store(header(n), payload)
    with serving(Reader(port=0, tokens_file=str(tokens)), folder) as server:
        assert server is not None
        found = [record for record in records(folder) if record.kind == Kind.INSTANCE]
        yield Served(folder, spool, server, tokens, found)
    spool.close()


@pytest.fixture
def client(served: Served) -> RangeClient:
    return client_of(served)


def client_of(served: Served, *ports: int) -> RangeClient:
    urls = tuple(f"http://127.0.0.1:{port}" for port in ports or (served.server.port,))
    return RangeClient(Settings(readers=urls, token_file=str(served.tokens)))


_asked: list[RangeClient] = []


def store_of(client: RangeClient) -> SpoolStore:
    _asked.append(client)
    return SpoolStore({}, client)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test waits as long as a hospital does."""
    monkeypatch.setattr(client_module, "PAUSES", (0.0, 0.02, 0.05, 0.1))
    monkeypatch.setattr(client_module, "STALL_SECONDS", 0.5)
    monkeypatch.setattr(client_module, "PATIENCE_SECONDS", 1.5)
    monkeypatch.setattr(server_module, "RELOAD_SECONDS", 0.02)
    yield
    while _asked:
        _asked.pop().close()


def test_ranges_are_the_bytes_of_the_folder(served: Served, client: RangeClient) -> None:
    """Every instance, over one connection, as the folder has it."""
    store = store_of(client)
    assert [store.read(served.pointer(n)) for n in range(len(PAYLOADS))] == PAYLOADS


def test_many_readers_at_once(served: Served) -> None:
    """Sixteen, each over a connection of its own."""

    def read_all(_: int) -> list[bytes]:
        store = store_of(client_of(served))
        return [store.read(served.pointer(n)) for n in range(len(PAYLOADS))]

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(read_all, range(16))) == [PAYLOADS] * 16


def test_a_large_instance_comes_in_blocks(served: Served, header: Callable[[int], Any]) -> None:
    """One that has a segment of its own, many blocks long."""
    large = bytes(range(256)) * (20 << 10)
    pointer = _store(served, header, large)
    assert store_of(client_of(served)).read(pointer) == large


def test_no_instance_without_bytes_is_asked_for(served: Served, header: Callable[[int], Any]) -> None:
    """An empty dataset has no range; its checksum holds all the same."""
    assert store_of(client_of(served)).read(_store(served, header, b"")) == b""


def _store(served: Served, header: Callable[[int], Any], payload: bytes) -> Pointer:
    number = served.spool.store(header(99), payload).place.segment
    found = [r for r in SpoolReader(served.folder).records(number) if r.kind == Kind.INSTANCE]
    return pointer_to(served.spool.id, found[-1])


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        (206, {}),
        (401, {"Authorization": ""}),
        (401, {"Authorization": "Bearer " + "x" * 64}),
        (401, {"Authorization": "Bearer "}),
        (401, {"Authorization": "Basic " + TOKEN}),
        (401, {"Authorization": "Bearer " + TOKEN[:-1]}),
        (404, {"spool": "00000000-0000-0000-0000-000000000000"}),
        (410, {"segment": 999}),
        (410, {"segment": 0}),
        (416, {"range_": ""}),
        (416, {"range_": "bytes=5000-"}),
        (416, {"range_": "bytes=-5"}),
        (416, {"range_": "bytes=5009-5000"}),
        (416, {"range_": "bytes=5000-5001,6000-6001"}),
        (416, {"range_": "bytes=0-10"}),
        (416, {"range_": "bytes=4000-5000"}),
        (416, {"range_": "bytes=5000-999999999999"}),
        (400, {"range_": "bytes=5000-5001\r\nRange: bytes=6000-6001"}),
        (400, {"Content-Length": "3"}),
        (400, {"Transfer-Encoding": "chunked"}),
        (400, {"segment": "../../secrets"}),
        (400, {"segment": "1%2f..%2f1"}),
        (400, {"segment": "1" * 13}),
        (400, {"segment": "+1"}),
        (400, {"spool": "../../../../../../../../../etc/hosts"}),
        (400, {"spool": "x" * 36}),
        (431, {"X-More": "y" * 9000}),
    ],
)
def test_only_what_is_meant_is_answered(served: Served, status: int, changes: dict[str, Any]) -> None:
    """Ten durable bytes to who has the token; anything else has no body."""
    found, body = served.ask(served.get(**changes))
    assert (found, len(body)) == (status, 10 if status == 206 else 0)


@pytest.mark.parametrize(
    "line", ["POST / HTTP/1.1", "GET / HTTP/1.0", "GET /", "", "\x16\x03\x01", "GET  /  HTTP/1.1"]
)
def test_another_protocol_is_refused(line: str) -> None:
    """No first line but ours makes a request."""
    assert parse(f"{line}\r\nHost: x\r\n\r\n".encode("latin-1")) is None


def test_what_is_not_durable_is_not_given(served: Served, header: Callable[[int], Any]) -> None:
    """Bytes past the watermark are "come again", not "gone": the writer may be recovering."""
    active = served.spool._active
    assert active is not None
    at = active.tail
    active.append(Kind.INSTANCE, header(7), [b"unsynced" * 20])
    request = served.get(segment=active.number, range_=f"bytes={at}-{at + 99}")
    assert served.ask(request) == (503, b"")
    served.spool.store(header(8), b"next")
    assert served.ask(request)[0] == 206


def test_answers_become_outcomes(served: Served) -> None:
    """Freed is `missing_raw`, other bytes are `raw_corrupt`; both are for good."""
    pointer = served.pointer(0)
    store = store_of(client_of(served))
    path = segment_path(served.folder, 1)
    data = bytearray(path.read_bytes())
    data[pointer.offset] ^= 1
    path.write_bytes(data)
    for n, (reason, change) in enumerate([("raw_corrupt", lambda: None), ("missing_raw", path.unlink)]):
        change()
        with pytest.raises(BadMessage) as raised:
            store.read(pointer)
        assert raised.value.reason == reason, n


def test_a_range_that_never_was_is_corrupt(served: Served, client: RangeClient) -> None:
    """A pointer beyond a sealed segment is as wrong here as in the folder."""
    beyond = Pointer(uri=served.pointer(0).uri, offset=1 << 40, length=10)
    with pytest.raises(BadMessage, match="raw_corrupt"):
        store_of(client).read(beyond)


def test_the_relay_that_has_the_spool_is_found(served: Served, tmp_path: Path) -> None:
    """Among several, one of which is down; and nobody's spool is told apart from a relay that is down."""
    other = Spool(tmp_path / "other")
    with serving(Reader(port=0, tokens_file=str(served.tokens)), tmp_path / "other") as second:
        assert second is not None
        store = store_of(client_of(served, _closed_port(), second.port, served.server.port))
        assert store.read(served.pointer(3)) == PAYLOADS[3]
        nobodys = Pointer(uri="spool://00000000-0000-0000-0000-000000000000/1", offset=5000, length=1)
        with pytest.raises(UnknownSpool):
            store_of(client_of(served, second.port, served.server.port)).read(nobodys)
        with pytest.raises(SlowDown, match="Refused") as raised:
            store.read(nobodys)
        assert not isinstance(raised.value, UnknownSpool)
    other.close()


def test_a_relay_that_comes_back_is_used_again(served: Served) -> None:
    """Down is `SlowDown`; the same client goes on once it listens again."""
    settings, store = Reader(port=0, tokens_file=str(served.tokens)), None
    with serving(settings, served.folder) as server:
        assert server is not None
        store = store_of(client_of(served, server.port))
        assert store.read(served.pointer(1)) == PAYLOADS[1]
    with pytest.raises(SlowDown):
        store.read(served.pointer(1))
    with serving(Reader(port=server.port, tokens_file=str(served.tokens)), served.folder):
        assert store.read(served.pointer(2)) == PAYLOADS[2]


def test_a_spool_that_is_not_there_yet_is_waited_for(served: Served, tmp_path: Path) -> None:
    """The relay may start before the receiver."""
    with serving(Reader(port=0, tokens_file=str(served.tokens)), tmp_path / "later") as server:
        assert server is not None
        with pytest.raises(SlowDown, match="503"):
            store_of(client_of(served, server.port)).read(served.pointer(0))


@pytest.mark.parametrize("fault", ["cut", "flip", "slice"])
def test_a_bad_way_gives_no_wrong_bytes(served: Served, fault: str) -> None:
    """Cut, altered or in crumbs, now and then: all instances arrive whole, none otherwise."""
    with Way(served.server.port, fault, every=3) as way:
        store = store_of(client_of(served, way.port))
        assert [store.read(served.pointer(n)) for n in range(len(PAYLOADS))] == PAYLOADS
        assert way.faults >= 4


@pytest.mark.parametrize("fault", ["cut", "flip", "hole"])
def test_a_way_that_stays_bad_is_a_dependency_that_is_down(served: Served, fault: str) -> None:
    """Cut or altered each time, or never an answer: `SlowDown`, not a dead letter."""
    with Way(served.server.port, fault, every=1) as way, pytest.raises(SlowDown):
        store_of(client_of(served, way.port)).read(served.pointer(5))


def test_tokens_are_exchanged_without_a_restart(served: Served) -> None:
    """Two are admitted, then only the new one; readable by others, nobody is."""
    new = "n" * 40
    private(served.tokens, f"# old, new\n{TOKEN}\n\n{new}")
    _until(served, 206, f"Bearer {new}")
    assert served.ask(served.get())[0] == 206
    private(served.tokens, new)
    _until(served, 401, f"Bearer {TOKEN}")
    assert served.ask(served.get(Authorization=f"Bearer {new}"))[0] == 206
    served.tokens.chmod(0o644)
    private(served.tokens.with_name("other"), new).chmod(0o644)
    served.tokens.with_name("other").rename(served.tokens)
    _until(served, 401, f"Bearer {new}")


def _until(served: Served, status: int, authorization: str) -> None:
    waited = threading.Event()
    for _ in range(500):
        if served.ask(served.get(Authorization=authorization))[0] == status:
            return
        waited.wait(0.02)
    raise AssertionError(f"never {status}")


@pytest.mark.parametrize("lines", ["", "# nothing", "short"])
def test_tokens_that_protect_nothing_are_refused(served: Served, lines: str) -> None:
    """No file, an empty one, a word: the relay does not start."""
    with pytest.raises(SettingsError):
        RangeServer(Reader(port=0, tokens_file=str(private(served.tokens, lines))), served.folder)
    with pytest.raises(SettingsError, match="PRODROME_READER_TOKENS_FILE"):
        RangeServer(Reader(port=0), served.folder)


def test_a_client_without_a_token_waits(served: Served) -> None:
    """The file may be on its way; no instance becomes a dead letter for it."""
    client = RangeClient(Settings(readers=(f"http://127.0.0.1:{served.server.port}",), token_file="/nowhere"))
    with pytest.raises(SlowDown, match="PRODROME_SPOOL_TOKEN_FILE"):
        store_of(client).read(served.pointer(0))
    private(served.tokens, "w" * 40)
    _until(served, 401, f"Bearer {TOKEN}")
    wrong = Settings(
        readers=(f"http://127.0.0.1:{served.server.port}",),
        token_file=str(private(served.tokens.with_name("wrong"), TOKEN)),
    )
    with pytest.raises(SlowDown, match="401"):
        store_of(RangeClient(wrong)).read(served.pointer(0))


def test_plain_text_stays_on_loopback(served: Served) -> None:
    """Neither side speaks in the clear beyond it, unless told to."""
    with pytest.raises(SettingsError, match="PRODROME_READER_ALLOW_PLAINTEXT"):
        RangeServer(Reader(host="0.0.0.0", port=0, tokens_file=str(served.tokens)), served.folder)
    with pytest.raises(SettingsError, match="PRODROME_SPOOL_ALLOW_PLAINTEXT"):
        RangeClient(Settings(readers=("http://relay.example:1",)))
    RangeClient(Settings(readers=("http://relay.example:1",), allow_plaintext=True))
    for url in ("relay:1", "ftp://relay", "https://", "https://user@relay", "https://relay?x=1"):
        with pytest.raises(SettingsError, match="https://host:port"):
            RangeClient(Settings(readers=(url,)))


def test_tls_is_verified(served: Served, tmp_path: Path) -> None:
    """The right name and signer are read from; another signer, or plain text, is nobody."""
    mine, others = certificate(tmp_path / "mine"), certificate(tmp_path / "others")
    settings = Reader(port=0, tokens_file=str(served.tokens), tls_cert=str(mine))
    with serving(settings, served.folder) as server:
        assert server is not None
        url = f"https://127.0.0.1:{server.port}"
        right = RangeClient(Settings(readers=(url,), token_file=str(served.tokens), tls_ca=str(mine)))
        assert store_of(right).read(served.pointer(4)) == PAYLOADS[4]
        for ca, at in (
            (others, url),
            (mine, url.replace("127.0.0.1", "localhost")),
            (mine, f"http{url[5:]}"),
        ):
            wrong = RangeClient(Settings(readers=(at,), token_file=str(served.tokens), tls_ca=str(ca)))
            with pytest.raises(SlowDown):
                store_of(wrong).read(served.pointer(4))
        others.rename(mine)
        _eventually_reads(served, url, mine)


def _eventually_reads(served: Served, url: str, ca: Path) -> None:
    client = RangeClient(Settings(readers=(url,), token_file=str(served.tokens), tls_ca=str(ca)))
    for _ in range(20):
        try:
            assert store_of(client).read(served.pointer(6)) == PAYLOADS[6]
            return
        except SlowDown:
            continue
    raise AssertionError("the new certificate was never taken")


def test_places_are_bounded_and_given_back(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who says nothing, or half a request, holds a place for a moment; above the limit others come again."""
    monkeypatch.setattr(server_module, "STALL_SECONDS", 0.3)
    settings = Reader(port=0, tokens_file=str(served.tokens), connections=2)
    with serving(settings, served.folder) as server:
        assert server is not None
        full = served._replace(server=server)
        idle = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(2)]
        idle[1].sendall(b"GET /v1/spo")
        _until(full, 503, f"Bearer {TOKEN}")
        assert [peer.recv(1) for peer in idle] == [b"", b""]
        for peer in idle:
            peer.close()
        _until(full, 206, f"Bearer {TOKEN}")


def test_requests_are_counted(served: Served) -> None:
    """By answer, and the bytes that were given."""
    names = ("prodrome_relay_reader_requests_total", "prodrome_relay_reader_bytes_total")

    def count() -> tuple[float, float]:
        refused = metrics.registry.get_sample_value(names[0], {"status": "404"}) or 0
        return refused, metrics.registry.get_sample_value(names[1]) or 0

    before = count()
    served.ask(served.get())
    served.ask(served.get(spool="00000000-0000-0000-0000-000000000000"))
    assert count() == (before[0] + 1, before[1] + 10)


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
