"""Send DICOM files, byte for byte: what stands in the file behind its meta goes on the wire, unchanged.

1. `inspect_file` finds dataset, transfer syntax and UIDs with the byte reader; what is no DICOM file becomes
   a result that says so.
2. `send` opens associations that offer exactly the files' own transfer syntaxes, at most 128 contexts each,
   and yields one result a file as the answers come.
3. What was lost or refused for a passing cause is sent again while `retry_seconds` last.

Nothing is decoded or converted; a peer that does not accept a file's own syntax gets nothing of it.
"""

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from infra.connections import Tls
from producers import upper_layer as ul
from schemas.dicom_reader import META_BYTES, SCAN_BYTES, DicomReadError, read_file_header, scan

#: Longer than a receiver may take for its largest sync, shorter than a person waits.
RESPONSE_SECONDS: Final = 60.0
CONNECT_SECONDS: Final = 10.0
#: Between attempts at a receiver that is down or full: soon enough to notice its restart.
RETRY_PAUSE_SECONDS: Final = 0.2
_MAX_PDU: Final = 128 << 10
_BLOCK_BYTES: Final = 1 << 20
_REJECTED_TRANSIENT: Final = 2
_VERIFICATION: Final = "1.2.840.10008.1.1"
_IMPLICIT_LE: Final = "1.2.840.10008.1.2"


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where to send, and as whom."""

    host: str
    port: int
    called: str = "PRODROME"
    calling: str = "PRODROME_SEND"
    tls: Tls | None = None


class Item(NamedTuple):
    """A file that can be sent."""

    path: Path
    dataset_offset: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


class Result(NamedTuple):
    """How it ended for one file: the status of the response, or why there was none."""

    path: Path
    status: int | None
    error: str = ""

    @property
    def stored(self) -> bool:
        """Whether the receiver took responsibility: success or a warning."""
        return self.status is not None and (self.status == 0 or self.status & 0xF000 == 0xB000)

    @property
    def transient(self) -> bool:
        """Whether the same file may be taken later."""
        return self.error.startswith("lost") or (self.status is not None and self.status & 0xFF00 == 0xA700)


class Lost(Exception):
    """The association ended, or never began, for a cause that may pass."""


class AssociationRefused(Exception):
    """The association was rejected for good."""


def inspect_file(path: Path) -> Item | Result:
    """Return what is needed to send a file, or a result that says why it cannot be sent."""
    try:
        with path.open("rb") as file:
            begin = file.read(META_BYTES + SCAN_BYTES)
        header = read_file_header(begin)
    except (DicomReadError, OSError) as error:
        return Result(path, None, f"not sent: {error if isinstance(error, DicomReadError) else 'unreadable'}")
    found = scan(begin[header.dataset_offset :], header.transfer_syntax_uid)
    # The dataset is what is stored: a file meta that somebody forgot to change would have it quarantined.
    sop_class = found.sop_class_uid or header.sop_class_uid
    sop_instance = found.sop_instance_uid or header.sop_instance_uid
    if sop_class is None or sop_instance is None:
        return Result(path, None, "not sent: no SOP Class or SOP Instance UID in file meta or dataset")
    return Item(path, header.dataset_offset, sop_class, sop_instance, header.transfer_syntax_uid)


def send(
    paths: Sequence[Path], destination: Destination, *, associations: int = 1, retry_seconds: float = 0.0
) -> Iterator[Result]:
    """Send files and yield one result each, in the order in which answers come.

    Parameters
    ----------
    paths : sequence of Path
        Files; folders are not walked.
    destination : Destination
        The receiver.
    associations : int
        How many at once; files are dealt out in turn.
    retry_seconds : float
        How long a file that was lost or refused for a passing cause is tried again.
    """
    items: list[Item] = []
    for path in paths:
        found = inspect_file(path)
        if isinstance(found, Result):
            yield found
        else:
            items.append(found)
    results: queue.Queue[Result] = queue.Queue()
    lanes = [items[lane::associations] for lane in range(min(associations, len(items)))]
    for lane in lanes:
        sender = _Lane(lane, destination, results, retry_seconds)
        threading.Thread(target=sender.run, name="prodrome-send", daemon=True).start()
    for _ in items:
        yield results.get()


def echo(destination: Destination) -> int:
    """Return the status of a C-ECHO; raise ConnectionError or ProtocolError where none comes."""
    try:
        association = Association(destination, {(_VERIFICATION, _IMPLICIT_LE): 1})
        try:
            status = association.call(ul.command_pdu(1, ul.echo_command(1)))
            association.release()
            return status
        finally:
            association.close()
    except (Lost, AssociationRefused) as error:
        raise ConnectionError(str(error)) from None


class Association:
    """An open association; `contexts` maps (SOP class, transfer syntax) to context ids.

    Raises
    ------
    Lost, AssociationRefused
        It did not come about.
    """

    def __init__(self, destination: Destination, contexts: dict[tuple[str, str], int]) -> None:
        try:
            self._socket = _connect(destination)
        except OSError as error:
            raise Lost(f"no connection: {type(error).__name__}") from None
        self._socket.settimeout(RESPONSE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        offered = {number: (pair[0], [pair[1]]) for pair, number in contexts.items()}
        request = ul.associate_request(destination.calling, destination.called, offered, _MAX_PDU)
        try:
            answer = ul.parse_associate_response(*self._exchange(request))
        except BaseException:
            self._socket.close()
            raise
        if isinstance(answer, ul.Rejected):
            self._socket.close()
            text = f"association rejected {answer.result}/{answer.source}/{answer.diagnostic}"
            raise Lost(text) if answer.result == _REJECTED_TRANSIENT else AssociationRefused(text)
        self.contexts = {pair: n for pair, n in contexts.items() if answer.contexts.get(n) == pair[1]}
        self._fragment = ul.fragment_bytes(answer.max_pdu)
        self._message = 0

    def store(self, item: Item) -> int:
        """Send one file and return the status of the response."""
        with item.path.open("rb") as file:
            file.seek(item.dataset_offset)
            return self.store_from(
                file.read, item.sop_class_uid, item.sop_instance_uid, item.transfer_syntax_uid
            )

    def store_from(
        self, read: Callable[[int], bytes], sop_class_uid: str, sop_instance_uid: str, syntax: str
    ) -> int:
        """Send one dataset and return the status of the response; `read` gives its next bytes."""
        context = self.contexts[sop_class_uid, syntax]
        self._message = self._message % 0xFFFF + 1
        command = ul.store_command(self._message, sop_class_uid, sop_instance_uid)
        parts, waiting = [ul.command_pdu(context, command)], 0
        fragment = read(self._fragment)
        while True:
            following = read(self._fragment) if fragment else b""
            parts.append(ul.data_pdu(context, fragment, last=not following))
            waiting += len(fragment)
            if not following:
                return self.call(b"".join(parts))
            if waiting >= _BLOCK_BYTES:
                self._send(b"".join(parts))
                parts, waiting = [], 0
            fragment = following

    def call(self, message: bytes) -> int:
        """Send the rest of a message and return the status of its response."""
        kind, body = self._exchange(message)
        if kind != ul.P_DATA:
            raise Lost("the association was aborted")
        return ul.response_status(body)

    def release(self) -> None:
        """End the association in order."""
        try:
            self._exchange(ul.RELEASE_REQUEST)
        except Lost:
            return
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _exchange(self, message: bytes) -> tuple[int, bytes]:
        self._send(message)
        head = self._receive(6)
        return head[0], self._receive(int.from_bytes(head[2:6]))

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise Lost(type(error).__name__) from None

    def _receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                more = self._socket.recv(count - len(data))
            except OSError as error:
                raise Lost(type(error).__name__) from None
            if not more:
                raise Lost("the peer closed the connection")
            data += more
        return data


def _connect(destination: Destination) -> socket.socket:
    address = (destination.host, destination.port)
    connected = socket.create_connection(address, timeout=CONNECT_SECONDS)
    if destination.tls is None:
        return connected
    try:
        return destination.tls.context().wrap_socket(connected, server_hostname=destination.host)
    except BaseException:
        connected.close()
        raise


class _Lane:
    """The files of one association at a time, in order, until each has its result."""

    def __init__(
        self,
        items: list[Item],
        destination: Destination,
        results: "queue.Queue[Result]",
        retry_seconds: float,
    ) -> None:
        self._pending = items
        self._destination = destination
        self._results = results
        self._retry_seconds = retry_seconds
        self._first_failure: float | None = None

    def run(self) -> None:
        """Send all; an unexpected error ends as the result of what is left."""
        try:
            while self._pending:
                self._send_group(self._next_group())
        except Exception as error:
            self._give_up(f"failed: {type(error).__name__}", self._pending)
            self._pending = []

    def _next_group(self) -> list[Item]:
        pairs: dict[tuple[str, str], None] = {}
        for index, item in enumerate(self._pending):
            pairs[item.sop_class_uid, item.transfer_syntax_uid] = None
            if len(pairs) > ul.MAX_CONTEXTS:
                return self._pending[:index]
        return self._pending

    def _send_group(self, group: list[Item]) -> None:
        pairs = dict.fromkeys((item.sop_class_uid, item.transfer_syntax_uid) for item in group)
        contexts = {pair: 2 * index + 1 for index, pair in enumerate(pairs)}
        try:
            association = Association(self._destination, contexts)
        except (Lost, AssociationRefused) as error:
            self._lost(str(error), group, final=isinstance(error, AssociationRefused))
            return
        try:
            for item in group:
                self._send_one(association, item)
        except Lost as error:
            self._lost(str(error), self._pending[:1], final=False)
        else:
            association.release()
        finally:
            association.close()

    def _send_one(self, association: Association, item: Item) -> None:
        if (item.sop_class_uid, item.transfer_syntax_uid) not in association.contexts:
            result = Result(item.path, None, "not accepted: the receiver takes no context for this file")
        else:
            result = Result(item.path, association.store(item))
        while result.transient and self._may_retry():
            time.sleep(RETRY_PAUSE_SECONDS)
            result = Result(item.path, association.store(item))
        self._first_failure = None
        self._pending = self._pending[1:]
        self._results.put(result)

    def _lost(self, text: str, items: list[Item], *, final: bool) -> None:
        if not final and self._may_retry():
            time.sleep(RETRY_PAUSE_SECONDS)
            return
        self._first_failure = None
        self._give_up(text if final else f"lost: {text}", items)
        self._pending = self._pending[len(items) :]

    def _give_up(self, text: str, items: list[Item]) -> None:
        for item in items:
            self._results.put(Result(item.path, None, text))

    def _may_retry(self) -> bool:
        now = time.monotonic()
        self._first_failure = now if self._first_failure is None else self._first_failure
        return now - self._first_failure < self._retry_seconds
