"""Raw bytes for who cannot see the folder: ranges of a folder's spools over HTTP/1.1, to who has a token.

::

    GET /v1/spools/<spool id>/segments/<number>
    Authorization: Bearer <token>
    Range: bytes=<first>-<last>

1. Beyond loopback it listens with TLS, or where a setting says that plain text is meant.
2. A connection has a deadline for its request and for each block of its answer; there are only so many.
3. A request is a spool's id and three whole numbers, or it is refused: no path is made of what was received.
4. Only durable bytes are answered, in blocks of 1 MB: memory does not grow with the range.

It reads and never writes; it knows no record and no table. The other side is `infra.spool.client`.
"""

import asyncio
import hmac
import logging
import re
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

from infra import metrics
from infra.plaintext import refuse_plaintext
from infra.secret_files import read_tokens
from infra.settings import Reader
from infra.spool.reader import NotDurable, OutOfRange, SegmentFreed, SpoolReader, read_range, readers
from schemas.errors import SettingsError

_log = logging.getLogger(__name__)

#: A request has about 250 bytes; what a proxy adds fits too.
HEAD_BYTES: Final = 8192
#: For a request whose connection is new, and for a block of an answer: no stranger holds a place for longer.
STALL_SECONDS: Final = 10.0
#: Between requests: a reader keeps its connection through a quiet minute.
IDLE_SECONDS: Final = 60.0
#: How soon new tokens and certificates are seen.
RELOAD_SECONDS: Final = 1.0

_TARGET: Final = re.compile(r"/v1/spools/([0-9a-f-]{36})/segments/([0-9]{1,12})")
_RANGE: Final = re.compile(r"bytes=(([0-9]{1,15})-([0-9]{1,15}))")
#: Said twice, two readers may differ on which one counts.
_ONCE: Final = frozenset({"authorization", "range", "content-length", "transfer-encoding"})
#: What a refusal says besides.
_MORE: Final[dict[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "WWW-Authenticate: Bearer\r\n",
    HTTPStatus.SERVICE_UNAVAILABLE: "Retry-After: 1\r\n",
}
#: After these the connection goes on.
_WELL_FORMED: Final = frozenset({206, 404, 410, 416, 503})


class Request(NamedTuple):
    """What is asked for; token and range are empty where the request does not say."""

    spool: str
    segment: int
    token: str
    range: str


class RangeServer:
    """The server of the spools in a folder; `port` is where it listens.

    Parameters
    ----------
    settings : Reader
        Address, tokens, TLS, limits.
    folder : Path
        The spool, and those of further processes in it; while none is there yet, the answer is "come again".
    """

    def __init__(self, settings: Reader, folder: Path) -> None:
        if not settings.tls_cert:
            refuse_plaintext(
                settings.host,
                settings.allow_plaintext,
                "PRODROME_READER_HOST",
                "PRODROME_READER_TLS_CERT, or PRODROME_READER_ALLOW_PLAINTEXT=true",
            )
        self._settings, self._folder = settings, folder
        self._spools: dict[str, SpoolReader] = {}
        self._open = 0
        self._peers: set[asyncio.WriteTransport] = set()
        self._tokens: Sequence[bytes] = ()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if settings.tls_cert else None
        self._stamps: list[tuple[int, int]] = []
        self._load()
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        self._socket = socket.create_server((settings.host, settings.port), family=family, backlog=128)
        self.port: int = self._socket.getsockname()[1]
        self._stopped = False
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> None:
        """Serve until `stop`. Blocks."""
        asyncio.run(self._run())

    def stop(self) -> None:
        """End `run`, from another thread, be it about to begin."""
        self._stopped = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        patience = STALL_SECONDS if self._tls else None
        server = await asyncio.start_server(
            self._connected,
            sock=self._socket,
            limit=HEAD_BYTES,
            ssl=self._tls,
            ssl_handshake_timeout=patience,
        )
        while not self._stopped:
            try:
                await asyncio.wait_for(self._stopping.wait(), RELOAD_SECONDS)
            except TimeoutError:
                self._reload()
        server.close()
        for peer in list(self._peers):
            self._drop(peer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count_open(+1)
        self._peers.add(writer.transport)
        # asyncio does it only for sockets that it has made: without it each small answer waits 40 ms.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self._open > self._settings.connections:
                await _answer(writer, HTTPStatus.SERVICE_UNAVAILABLE)
                return
            patience = STALL_SECONDS
            while await self._serve(reader, writer, patience) in _WELL_FORMED:
                patience = IDLE_SECONDS
        except (OSError, EOFError, TimeoutError, asyncio.CancelledError):
            pass  # the peer went, or was too slow, or we stop; it comes again if it needs to
        finally:
            self._count_open(-1)
            writer.close()  # once what was written has gone
            asyncio.get_running_loop().call_later(STALL_SECONDS, self._drop, writer.transport)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, patience: float
    ) -> int:
        """Answer one request and return the status."""
        try:
            async with asyncio.timeout(patience):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return await _answer(writer, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        request = parse(head)
        if request is None:
            return await _answer(writer, HTTPStatus.BAD_REQUEST)
        # All are compared, whichever fits: the time that it takes says nothing.
        if not sum(hmac.compare_digest(request.token.encode(), token) for token in self._tokens):
            return await _answer(writer, HTTPStatus.UNAUTHORIZED)
        asked = _RANGE.fullmatch(request.range)
        first, last = (int(asked[2]), int(asked[3])) if asked else (0, -1)
        try:
            if request.spool not in self._spools:
                self._spools = readers(self._folder)
            if not self._spools:
                return await _answer(writer, HTTPStatus.SERVICE_UNAVAILABLE)
            spool = self._spools.get(request.spool)
            if spool is None:
                return await _answer(writer, HTTPStatus.NOT_FOUND)
            spool.check_range(request.segment, first, last - first + 1)
            blocks = read_range(spool.folder, request.segment, first, last - first + 1)
            blocks = chain(
                [next(blocks)], blocks
            )  # it is open now: freed from here on, it is read to its end
        except SegmentFreed:
            return await _answer(writer, HTTPStatus.GONE)
        except OutOfRange:
            return await _answer(writer, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
        except (NotDurable, FileNotFoundError):
            return await _answer(writer, HTTPStatus.SERVICE_UNAVAILABLE)
        return await _answer(writer, HTTPStatus.PARTIAL_CONTENT, first, last, blocks)

    def _drop(self, peer: asyncio.WriteTransport) -> None:
        self._peers.discard(peer)
        peer.abort()

    def _count_open(self, change: int) -> None:
        self._open += change
        metrics.put("prodrome_relay_reader_connections", self._open)

    def _load(self) -> None:
        self._tokens = ()  # what cannot be read admits nobody
        tokens = read_tokens(
            Path(self._settings.tokens_file), "PRODROME_READER_TOKENS_FILE names the file of tokens"
        )
        self._tokens = [token.encode() for token in tokens]
        if self._tls is not None:
            self._tls.load_cert_chain(self._settings.tls_cert, self._settings.tls_key or None)
        self._stamps = self._stamp()

    def _reload(self) -> None:
        """Take new tokens and a new certificate without a restart."""
        try:
            if self._stamp() != self._stamps:
                self._load()
                _log.info("reader: tokens and certificate read again")
        except (SettingsError, OSError) as error:
            if self._stamps:
                _log.error("reader: tokens or certificate: %s", error)
            self._stamps = []  # and again, until they are whole

    def _stamp(self) -> list[tuple[int, int]]:
        names = (self._settings.tokens_file, self._settings.tls_cert, self._settings.tls_key)
        found = [Path(name).stat() for name in names if name]
        return [(stat.st_ino, stat.st_mtime_ns) for stat in found]


@contextmanager
def serving(settings: Reader, folder: Path) -> Iterator[RangeServer | None]:
    """Serve the spool from a thread for as long as the block lasts; nothing where no port is set."""
    if settings.port < 0:
        yield None
        return
    server = RangeServer(settings, folder)
    thread = threading.Thread(target=server.run, name="reader", daemon=True)
    thread.start()
    _log.info("reader: listening on port %d", server.port)
    try:
        yield server
    finally:
        server.stop()
        thread.join()


def parse(head: bytes) -> Request | None:
    """Return the request of these bytes; None for anything that is not exactly one of ours."""
    method, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    words = method.split(" ")
    place = _TARGET.fullmatch(words[1]) if len(words) == 3 and words[::2] == ["GET", "HTTP/1.1"] else None
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, text = line.partition(":")
        if not colon or name != name.strip() or (name.lower() in fields and name.lower() in _ONCE):
            return None
        fields[name.lower()] = text.strip()
    if place is None or "transfer-encoding" in fields or fields.get("content-length", "0") != "0":
        return None
    scheme, _, token = fields.get("authorization", "").partition(" ")
    return Request(
        spool=place[1],
        segment=int(place[2]),
        token=token.strip() if scheme.lower() == "bearer" else "",
        range=fields.get("range", ""),
    )


async def _answer(
    writer: asyncio.StreamWriter,
    status: HTTPStatus,
    first: int = 0,
    last: int = -1,
    blocks: Iterable[bytes] = (b"",),
) -> int:
    """Send a status, and a range where there is one; return the status."""
    left = last - first + 1
    place = f"Content-Range: bytes {first}-{last}/*\r\n" if left else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Length: {left}\r\n{place}{_MORE.get(status, '')}"
        "Content-Type: application/octet-stream\r\nCache-Control: no-store\r\n"
        f"Connection: {'keep-alive' if status in _WELL_FORMED else 'close'}\r\n\r\n"
    )
    metrics.inc("prodrome_relay_reader_requests_total", status=str(status.value))
    writer.write(head.encode())
    for block in blocks:
        async with asyncio.timeout(STALL_SECONDS):
            writer.write(block)
            await writer.drain()
        metrics.inc("prodrome_relay_reader_bytes_total", len(block))
        left -= len(block)
    if left:
        raise EOFError("the file is shorter than it was")  # so the peer sees the connection end
    return status
