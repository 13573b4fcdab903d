"""The door of one listener: pynetdicom's events wired to the rooms beside this one.

Its handlers run in the threads of associations. `Door` keeps who is in, lets nobody in beyond what `admission` and
`slots` say, and has each dataset stored; `tick` and `end_associations` are the serving thread's.
"""

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from pydicom import Dataset
from pynetdicom import evt

from infra import metrics
from infra.clock import Clock
from infra.server_tls import peer_names
from infra.settings import Receive
from infra.spool import Spool
from infra.spool.drain import draining
from producers.receiver import guard
from producers.receiver.admission import Caller, Session, identify, transient
from producers.receiver.intake import Budget, Intake
from producers.receiver.negotiation import by_preference
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

#: A store in flight at stop: 20 s, so that the role has left within the 30 s that supervisors give.
STOP_SECONDS: Final = 20.0
#: For aborts to be sent; they need a look of each association's thread.
ABORT_SECONDS: Final = 2.0


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
        self._tally.count()

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


def _prefer_syntaxes(request: Any, source: Source) -> None:
    # pynetdicom takes the first syntax of a storage context: so the best one is put first.
    for context in request.presentation_context_definition_list:
        context.transfer_syntax = by_preference(context.transfer_syntax, source.transfer_syntax_order)
