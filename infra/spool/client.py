"""Read the spools of other machines from their relays: the other side of `infra.spool.server`.

1. Which relay has a spool is found by asking, and remembered: who has it not says 404.
2. An attempt that fails, or whose answer is cut short, is made again after a pause, within a deadline that
   `patience` tells beforehand. Then it is `SlowDown`, as for every dependency.
3. The record's checksum is judged here, over what arrived. The same wrong bytes twice, over two connections,
   are what the spool holds; else it was the way.

One connection a relay is kept open; token and certificates are read when it is made. An object belongs to one
thread. It follows no redirection and takes no proxy from the environment.
"""

import http.client
import time
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import xxhash

from infra.connections import Tls
from infra.plaintext import refuse_plaintext
from infra.secret_files import read_tokens
from infra.settings import Spool
from infra.spool.format import digest_text
from infra.spool.reader import OutOfRange, SegmentFreed, UnknownSpool, corrupt, missing
from schemas.errors import SettingsError, SlowDown
from schemas.events import Pointer

#: One silence of a relay.
STALL_SECONDS: Final = 5.0
#: For a range, all attempts together: so much, and the time that a line of 1 MB/s takes.
PATIENCE_SECONDS: Final = 10.0
BYTES_PER_SECOND: Final = 1e6
#: A batch has up to a thousand reads and begins again when one fails for good: so one is tried this often.
PAUSES: Final = (0.0, 0.1, 0.4, 1.6)
_BLOCK_BYTES: Final = 256 << 10
_FAILURES: Final = (OSError, http.client.HTTPException, SettingsError)


def patience(length: int) -> float:
    """Return the seconds after which `RangeClient.read` of so many bytes has ended, one way or the other."""
    return PATIENCE_SECONDS + length / BYTES_PER_SECOND + STALL_SECONDS


class RangeClient:
    """The relays of the settings.

    Raises
    ------
    SettingsError
        An address is no URL of a relay, or would carry the token in the clear.
    """

    def __init__(self, settings: Spool) -> None:
        self._relays = [_Relay(url, settings) for url in settings.readers]
        self._found: dict[str, _Relay] = {}

    def read(self, spool: str, segment: int, pointer: Pointer) -> bytes:
        """Return the bytes of a pointer, verified.

        Raises
        ------
        BadMessage
            `missing_raw`: the segment was freed. `raw_corrupt`: the spool holds other bytes.
        UnknownSpool
            No relay has this spool.
        SlowDown
            The relay does not answer, refuses the token, or gives other bytes each time.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS + pointer.length / BYTES_PER_SECOND
        wrong: set[str] = set()
        for pause in (*PAUSES, None):
            data, problem = self._attempt(spool, segment, pointer, deadline)
            if data is not None:
                digest = digest_text(xxhash.xxh3_64_intdigest(data))
                if pointer.digest in (None, digest):
                    return data
                if digest in wrong:
                    raise corrupt(segment, pointer)
                wrong.add(digest)
                problem = "checksum differs"
                self._found[spool].close()
            if pause is None or time.monotonic() + pause > deadline:
                break
            time.sleep(pause)
        self._found.pop(spool, None)  # perhaps it has moved: all are asked again
        if problem is None:
            raise UnknownSpool(f"no reader has spool {spool}")
        raise SlowDown(f"spool {spool}: {problem}")

    def close(self) -> None:
        """End the connections."""
        for relay in self._relays:
            relay.close()

    def _attempt(
        self, spool: str, segment: int, pointer: Pointer, deadline: float
    ) -> tuple[bytes | None, str | None]:
        """Ask who has the spool, or everybody; return the bytes, or what went wrong, or neither: nobody has it."""
        problem = None
        path = f"/v1/spools/{spool}/segments/{segment}"
        known = self._found.pop(spool, None)
        for relay in [known] if known else self._relays:
            if time.monotonic() > deadline:
                return None, problem or "no time left"
            try:
                data = relay.get(path, pointer.offset, pointer.length, deadline)
            except SegmentFreed:
                raise missing(spool, segment) from None
            except OutOfRange:
                raise corrupt(segment, pointer) from None
            except _FAILURES as error:
                relay.close()
                problem = f"reader {relay.name}: {_told(error)}"
                continue
            if data is not None:
                self._found[spool] = relay
                return data, None
        return None, problem


class _Relay:
    """One relay's reader, and the connection to it."""

    def __init__(self, url: str, settings: Spool) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
            raise SettingsError("PRODROME_SPOOL_READERS: expected URLs like https://host:port")
        if parts.scheme == "http":
            refuse_plaintext(
                parts.hostname,
                settings.allow_plaintext,
                "PRODROME_SPOOL_READERS",
                "https://, or PRODROME_SPOOL_ALLOW_PLAINTEXT=true",
            )
        self._settings = settings
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, parts.port
        self._prefix = parts.path.rstrip("/")
        self._connection: http.client.HTTPConnection | None = None
        self._token = ""
        self.name = parts.netloc

    def get(self, path: str, offset: int, length: int, deadline: float) -> bytes | None:
        """Return the bytes of a range; None where this relay does not have the spool.

        Raises
        ------
        SegmentFreed, OutOfRange
            As the relay says.
        OSError, HTTPException, SettingsError
            No whole answer.
        """
        if length == 0:  # no range of HTTP has no bytes
            return b""
        if self._connection is None:
            self._connection = self._connect()
        asked = f"{offset}-{offset + length - 1}"
        headers = {"Authorization": f"Bearer {self._token}", "Range": f"bytes={asked}"}
        self._connection.request("GET", self._prefix + path, headers=headers)
        response = self._connection.getresponse()
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            self.close()
            _refused(response.status)
            return None
        if response.length != length or not response.headers.get("Content-Range", "").startswith(
            f"bytes {asked}/"
        ):
            raise http.client.HTTPException("another range than was asked for")
        blocks: list[bytes] = []
        while length:
            if time.monotonic() > deadline:
                raise TimeoutError("the answer is too slow")
            block = response.read1(min(length, _BLOCK_BYTES))
            if not block:
                raise http.client.IncompleteRead(b"", length)
            blocks.append(block)
            length -= len(block)
        response.close()
        return b"".join(blocks)

    def close(self) -> None:
        """End the connection; the next range makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> http.client.HTTPConnection:
        hint = "PRODROME_SPOOL_TOKEN_FILE names the file of the token"
        self._token = read_tokens(Path(self._settings.token_file), hint)[0]
        if not self._secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=STALL_SECONDS)
        context = Tls(ca=Path(self._settings.tls_ca) if self._settings.tls_ca else None).context()
        return http.client.HTTPSConnection(self._host, self._port, timeout=STALL_SECONDS, context=context)


def _refused(status: int) -> None:
    """Return where the relay does not have the spool; raise what else it says."""
    if status == HTTPStatus.NOT_FOUND:
        return
    if status == HTTPStatus.GONE:
        raise SegmentFreed("freed")
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise OutOfRange("no such bytes")
    raise http.client.HTTPException(f"HTTP {status}")


def _told(error: Exception) -> str:
    # Ours speak for themselves; a library's text may quote what it read.
    own = isinstance(error, SettingsError) or type(error) is http.client.HTTPException
    return str(error) if own else type(error).__name__
