"""Listen and accept, with or without TLS, and serve until told to stop.

Then nobody new comes in, what is being stored ends with its true status, and every association is ended.

pynetdicom is set process-wide to take any storage SOP class, known or not, and to keep what peers send out
of its log lines; so a process that serves does nothing else with it.
"""

import contextlib
import functools
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import pydicom.config
from pynetdicom import AE, _config
from pynetdicom.sop_class import MediaStorageDirectoryStorage, Verification
from pynetdicom.transport import ThreadedAssociationServer

from infra.clock import Clock, SystemClock
from infra.plaintext import refuse_plaintext
from infra.server_tls import ServerTls
from infra.settings import Receive
from infra.spool import Spool
from producers.receiver.door import Door
from producers.receiver.negotiation import TRANSFER_SYNTAX_ORDER
from producers.receiver.slots import Slots
from schemas.sources import Source

_log = logging.getLogger(__name__)

MAX_PDU_BYTES: Final = 128 << 10
#: Connections that wait to be accepted: a flood must not cost a sender its first SYN, which is sent again after 1 s.
BACKLOG: Final = 1024
#: A stranger has this long to say who it is.
ACSE_SECONDS: Final = 10.0
_TICK_SECONDS: Final = 1.0
#: How long a process leaves a connection to one that has fewer.
_YIELD_SECONDS: Final = 0.002


def serve(
    settings: Receive,
    sources: Sequence[Source],
    spool: Spool,
    stop: threading.Event,
    *,
    ready: Callable[[int], None] | None = None,
    clock: Clock | None = None,
    listening: socket.socket | None = None,
    slots: Slots | None = None,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Receive until `stop` is set; returns when every association has ended.

    Parameters
    ----------
    settings : Receive
        Where to listen and what to bound.
    sources : sequence of Source
        Who may send.
    spool : Spool
        Where it goes; stays the caller's to close.
    stop : threading.Event
        Ends the service.
    ready : callable
        Called with the port once the socket listens.
    clock : Clock
        For times of receipt.
    listening : socket, optional
        What `listen` returned; stays the caller's to close.
    slots : Slots, optional
        Shared with other processes that accept on that socket.
    tick : callable
        Called about once a second.

    Raises
    ------
    SettingsError
        The address is not loopback and plain text there was not allowed; or a certificate cannot be read.
    """
    tls = ServerTls(settings.tls_cert, settings.tls_key, settings.tls_ca) if settings.tls_cert else None
    with contextlib.ExitStack() as closing:
        if listening is None:
            listening = closing.enter_context(contextlib.closing(listen(settings)))
        if slots is None:
            slots = Slots(spool.folder, sources)
        closing.callback(slots.close)
        _configure_library()
        door = Door(settings, sources, spool, slots, clock or SystemClock())
        server = _Server.start(door, settings, tls, listening)
        if ready is not None:
            ready(server.server_address[1])
        _log.info("listening on port %d", server.server_address[1])
        while not stop.wait(_TICK_SECONDS):
            door.tick()
            tick()
        _log.info("stopping")
        door.stopping = True
        server.shutdown()
        door.end_associations()


def listen(settings: Receive) -> socket.socket:
    """Return the socket that listens; one that several processes may accept on.

    Raises
    ------
    SettingsError
        The address is not loopback, there is no certificate, and plain text there was not allowed.
    """
    if not settings.tls_cert:
        refuse_plaintext(
            settings.host,
            settings.allow_plaintext,
            "PRODROME_RECEIVE_HOST",
            "PRODROME_RECEIVE_TLS_CERT, or PRODROME_RECEIVE_ALLOW_PLAINTEXT=true",
        )
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    listening.setblocking(False)  # who comes second to a connection goes on
    return listening


class _Server(ThreadedAssociationServer):  # type: ignore[misc]
    """pynetdicom's server with a backlog for a department's morning."""

    daemon_threads = True

    def __init__(
        self, door: Door, tls: ServerTls | None, listening: socket.socket, *args: Any, **kwargs: Any
    ):
        self.door, self.tls, self._listening = door, tls, listening
        super().__init__(*args, **kwargs)

    def server_bind(self) -> None:
        """Take the socket that listens already."""
        self.socket.close()
        self.socket: socket.socket = self._listening
        self.server_address = self.socket.getsockname()

    def server_activate(self) -> None:
        """Nothing is left to do."""

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; a handshake would hold up whoever comes next, so it is not made here.

        Raises
        ------
        BlockingIOError
            Another process has accepted it.
        """
        if self.door.slots.busiest():
            time.sleep(_YIELD_SECONDS)
        sock, address = self.socket.accept()
        return (self.tls.wrap(sock) if self.tls else sock), address

    @classmethod
    def start(
        cls, door: Door, settings: Receive, tls: ServerTls | None, listening: socket.socket
    ) -> "_Server":
        """Accept in a thread of its own."""
        ae = AE(ae_title=settings.ae_title)
        ae.add_supported_context(Verification)
        # A directory is no storage class to pynetdicom; it is kept, and quarantined later, like all else.
        ae.add_supported_context(MediaStorageDirectoryStorage, [uid for uid, _ in TRANSFER_SYNTAX_ORDER])
        ae.maximum_pdu_size = MAX_PDU_BYTES
        ae.acse_timeout = ACSE_SECONDS
        ae.network_timeout = settings.idle_seconds
        # Ours is counted over admitted associations; pynetdicom's would count silent strangers too.
        ae.maximum_associations = 1 << 20
        make = functools.partial(cls, door, tls, listening)
        address = (settings.host, settings.port)
        server: _Server = ae.make_server(address, evt_handlers=door.handlers(), server_class=make)
        ae._servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        return server


def _configure_library() -> None:
    _config.UNRESTRICTED_STORAGE_SERVICE = True
    _config.LOG_HANDLER_LEVEL = "none"
    # Its log lines and warnings quote what peers sent.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
