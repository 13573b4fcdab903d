"""Listen: pynetdicom's events wired to the rooms beside this one.

`serve` runs until it is told to stop. Then nobody new comes in, what is being stored ends with its true
status, and every association is ended.

pynetdicom is set process-wide to take any storage SOP class, known or not, and to keep what peers send out
of its log lines; so a process that serves does nothing else with it.
"""

import contextlib
import functools
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import pydicom.config
from pydicom import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import MediaStorageDirectoryStorage, Verification
from pynetdicom.transport import ThreadedAssociationServer

from infra import metrics
from infra.clock import Clock, SystemClock
from infra.plaintext import refuse_plaintext
from infra.server_tls import ServerTls, peer_names
from infra.settings import Receive
from infra.spool import Spool
from infra.spool.drain import draining
from producers.receiver import guard
from producers.receiver.admission import Caller, Session, identify, transient
from producers.receiver.intake import Budget, Intake
from producers.receiver.negotiation import TRANSFER_SYNTAX_ORDER, by_preference
from producers.receiver.plain import NO_UID, MessageFile, response
from producers.receiver.slots import Slots
from producers.receiver.statuses import LOCAL_LIMIT, NOT_AUTHORISED, UNKNOWN_CALLER, Answer, Rejection
from producers.receiver.store import StoreRequest, store
from producers.receiver.strangers import Strangers
from producers.receiver.takeover import fits, take_over
from producers.receiver.tally import Tally
from producers.receiver.waiting import wait_for_events
from schemas.errors import Refused
from schemas.ids import valid_uid
from schemas.sources import Source

_log = logging.getLogger(__name__)

MAX_PDU_BYTES: Final = 128 << 10
#: Connections that wait to be accepted: a flood must not cost a sender its first SYN, which is sent again after 1 s.
BACKLOG: Final = 1024
#: A stranger has this long to say who it is.
ACSE_SECONDS: Final = 10.0
#: A store in flight at stop: 20 s, so that the role has left within the 30 s that supervisors give.
STOP_SECONDS: Final = 20.0
#: For aborts to be sent; they need a look of each association's thread.
ABORT_SECONDS: Final = 2.0
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


class Door:
    """The handlers of one listener, and the table of its admitted associations."""

    def __init__(
        self, settings: Receive, sources: Sequence[Source], spool: Spool, slots: Slots, clock: Clock
    ) -> None:
        self.stopping = False
        self.slots = slots
        self._settings, self._sources, self._spool, self._clock = settings, sources, spool, clock
        self._deny = frozenset(settings.deny_sop_classes)
        self._budget = Budget()
        self._sessions: dict[Any, Session] = {}
        self._strangers = Strangers()
        self._tally = Tally()
        self._lock = threading.Lock()

    def handlers(self) -> list[tuple[Any, Callable[[Any], Any]]]:
        """Return pynetdicom's events and what handles them."""
        return [
            (evt.EVT_CONN_OPEN, self._on_connection),
            (evt.EVT_REQUESTED, self._on_request),
            (evt.EVT_DIMSE_RECV, self._on_message),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_ECHO, lambda _event: 0x0000),
            (evt.EVT_RELEASED, lambda event: self._close(event.assoc, "released")),
            (evt.EVT_ABORTED, lambda event: self._close(event.assoc, "aborted")),
        ]

    def tick(self) -> None:
        """Once a second: metrics, the age of segments, associations that ended without saying so."""
        for assoc in list(self._sessions):
            if assoc.ident is not None and not assoc.is_alive():
                self._close(assoc, "aborted")
        self._spool.tick()
        self._tally.count()
        metrics.put("prodrome_receive_strangers", self._strangers.sweep())
        with self._lock:
            self._count_open()
        metrics.put("prodrome_receive_slots", self._settings.max_associations)
        metrics.put("prodrome_spool_used_ratio", self._spool.ratio())
        metrics.put("prodrome_receive_draining", int(draining(self._spool.folder)))

    def end_associations(self) -> None:
        """Let stores in flight end, then end every association."""
        deadline = self._clock.monotonic() + STOP_SECONDS
        while self._sessions:
            late = self._clock.monotonic() > deadline
            until = self._clock.monotonic() + ABORT_SECONDS
            idle = [assoc for assoc, session in list(self._sessions.items()) if late or not session.busy]
            # An abort waits for the association's threads, which a peer may hold up for a while: this does not.
            enders = [threading.Thread(target=assoc.abort, daemon=True) for assoc in idle]
            for ender in enders:
                ender.start()
            for ender in enders:
                ender.join(max(0.0, until - self._clock.monotonic()))
            for assoc in idle:
                self._close(assoc, "aborted")
            self._clock.sleep(0.02)  # a store in flight ends within a few syncs

    def _on_connection(self, event: Any) -> None:
        self._strangers.add(event.assoc)
        with self._lock:
            self._count_open()
        guard.bound_connection(event.assoc)
        guard.bound_messages(
            event.assoc,
            lambda: MessageFile(self.begin(event.assoc)),
            lambda reason: self.refused(event.assoc, reason),
        )
        if self._settings.take_over and fits(event.assoc):
            wait_for_events(event.assoc, take_over(event.assoc, self, self._clock))

    def _on_request(self, event: Any) -> None:
        # pynetdicom goes on to accept where a handler fails: so whatever fails here rejects.
        try:
            rejection = self._admit(event.assoc)
        except Exception as error:
            _log.error("association request failed: %s", type(error).__name__)
            rejection = UNKNOWN_CALLER
            self._count_refusal("", rejection.reason)
        if rejection is not None:
            event.assoc.acse.send_reject(rejection.result, rejection.source, rejection.diagnostic)
            event.assoc.kill()

    def _admit(self, assoc: Any) -> Rejection | None:
        self._strangers.discard(assoc)
        request = assoc.requestor.primitive
        caller = Caller(
            calling=request.calling_ae_title.strip(),
            called=request.called_ae_title.strip(),
            address=assoc.requestor.address,
            certificate=peer_names(assoc.dul.socket.socket),
        )
        source = identify(caller, self._sources, own_title=self._settings.ae_title)
        if isinstance(source, Rejection):
            self._count_refusal("", source.reason)
            return source
        session = Session(caller=caller, source=source)
        with self._lock, self.slots.locked():
            later = LOCAL_LIMIT if self.stopping else self._later(source)
            if later is not None:
                self._count_refusal(source.name, later.reason)
                return later
            self._sessions[assoc] = session
            self._count_open()
        _prefer_syntaxes(request, source)
        _log.info("association %s: open, source %s", session.association, source.name)
        return None

    def _later(self, source: Source) -> Rejection | None:
        return transient(
            source,
            self._sources,
            open_associations=self.slots.associations(),
            max_associations=self._settings.max_associations,
            spool_ratio=self._spool.ratio(),
            refuse_ratio=self._spool.limits.refuse_ratio,
            draining=draining(self._spool.folder),
        )

    def begin(self, assoc: Any) -> Intake:
        """Return where the dataset of a message that begins goes."""
        session = self._sessions.get(assoc)
        if session is not None:
            session.busy = True
        return Intake(self._spool, self._budget, self._settings.max_object_bytes)

    def finish(self, assoc: Any, request: StoreRequest, intake: Intake) -> Answer:
        """Store a complete dataset and return what to answer; the association is idle then."""
        session = self._sessions.get(assoc)
        if session is None:
            intake.discard()
            self._count_refusal("", NOT_AUTHORISED.reason)
            return NOT_AUTHORISED
        begin, length = self._clock.monotonic(), intake.length
        answer = store(request, intake, session, deny=self._deny, clock=self._clock)
        if answer.stored:
            self._tally.add(session.source.name, length, self._clock.monotonic() - begin)
        else:
            self._count_refusal(session.source.name, answer.reason)
        session.busy = False
        return answer

    def refused(self, assoc: Any, reason: str) -> None:
        """Count a message that ends its association."""
        session = self._sessions.get(assoc)
        self._count_refusal(session.source.name if session else "", reason)

    def _count_refusal(self, source: str, reason: str) -> None:
        metrics.inc("prodrome_receive_refused_total", reason=reason, source=source)

    def _count_open(self) -> None:
        # Under the lock: a row that was counted before an admission must not be written behind it.
        counted = Counter(session.source.name for session in list(self._sessions.values()))
        self.slots.put(len(self._strangers) + counted.total(), counted)
        for source in self._sources:
            metrics.put("prodrome_receive_associations", counted[source.name], source=source.name)

    def _on_message(self, event: Any) -> None:
        # A request that lacks what PS3.7 demands would be dropped without an answer: complete it, so that
        # the handler is called and can refuse.
        command, file = event.message.command_set, event.message.data_set
        if not isinstance(file, MessageFile):
            return
        if command.get("CommandField") != 0x0001:
            self._done(event.assoc)
            return
        uid = command.get("AffectedSOPInstanceUID")
        if not isinstance(uid, str) or not valid_uid(uid):
            file.usable_uid = False
            command.AffectedSOPInstanceUID = NO_UID
        context = event.assoc._accepted_cx.get(event.message.context_id)
        sop_class = command.get("AffectedSOPClassUID")
        if context is not None and (not isinstance(sop_class, str) or not valid_uid(sop_class)):
            command.AffectedSOPClassUID = context.abstract_syntax
        if command.get("Priority") not in (0, 1, 2):
            command.Priority = 0

    def _on_store(self, event: Any) -> Dataset:
        file = event.request.DataSet
        request = StoreRequest(
            sop_class_uid=str(event.request.AffectedSOPClassUID),
            sop_instance_uid=str(event.request.AffectedSOPInstanceUID) if file.usable_uid else "",
            transfer_syntax_uid=str(event.context.transfer_syntax),
        )
        return response(self.finish(event.assoc, request, file.intake))

    def _done(self, assoc: Any) -> None:
        session = self._sessions.get(assoc)
        if session is not None:
            session.busy = False

    def _close(self, assoc: Any, cause: str) -> None:
        self._strangers.discard(assoc)
        with self._lock:
            session = self._sessions.pop(assoc, None)
            self._count_open()
        if session is None:
            return
        message = assoc.dimse.message
        if message is not None and isinstance(message.data_set, MessageFile):
            message.data_set.close()  # half a dataset: its file and its memory go now
        _log.info("association %s: %s, %d stored", session.association, cause, session.ordinal)
        with contextlib.suppress(Refused):  # the marker only makes closing a study faster
            self._spool.close_association(session.association, cause)


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


def _prefer_syntaxes(request: Any, source: Source) -> None:
    # pynetdicom takes the first syntax of a storage context: so the best one is put first.
    for context in request.presentation_context_definition_list:
        context.transfer_syntax = by_preference(context.transfer_syntax, source.transfer_syntax_order)


def _configure_library() -> None:
    _config.UNRESTRICTED_STORAGE_SERVICE = True
    _config.LOG_HANDLER_LEVEL = "none"
    # Its log lines and warnings quote what peers sent.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
