"""The deidentify stage: from `instance.received` to clean events, settled intakes and a filled vault.

For each batch

1. every instance crosses the boundary in a worker process (`consumers.boundary`);
2. what each is beside earlier arrivals is decided and written (`consumers.intakes`);
3. clean events, exclusions, markers, settlements and dead letters (`consumers.settle`) are published and
   confirmed together.

An instance that cannot be worked on (its bytes are gone, its worker died three times) settles as `dead`: its
bytes are kept in the quarantine store where there are any, and a dead letter of it alone can be replayed. A repeat
that comes when its segment has settled and was freed is passed over.

If the process dies anywhere, the batch comes again and does the same: objects and rows have the same keys,
decisions are remembered by intake, messages have the same bodies. It does not assemble or index.
"""

import logging
from collections.abc import Callable, Iterator, Sequence

from consumers import boundary, settle
from consumers.intakes import Intakes
from consumers.ledger import was_freed
from consumers.loop import Record
from consumers.settle import NAME, Decided
from consumers.vault import Vault
from consumers.workers import Job, Workers, own_journal
from infra import metrics
from infra.cassandra import Tables
from infra.clock import Clock
from infra.kafka import Zones
from infra.settings import Settings, sealing_secrets
from schemas.codec import Message
from schemas.errors import BadMessage, SlowDown
from schemas.events import AssociationClosed, InstanceReceived, ObjectDeleted, Pointer, ReceivedInstance
from schemas.topics import RECEIVED, Zone

log = logging.getLogger(__name__)


class Deidentify:
    """The stage; see the module.

    Parameters
    ----------
    settings : Settings
        Keys, stores, profile, workers.
    tables : Tables
        The trusted keyspace.
    producer : Zones
        This role speaks in both zones.
    clock : Clock
        For the day of a quarantine.
    lane : str
        ``live`` or ``bulk``.
    must_yield : callable
        Whether to stand aside for the other lane now.
    """

    zone: Zone = "trusted"
    pace = 0.1

    def __init__(
        self,
        settings: Settings,
        tables: Tables,
        producer: Zones,
        clock: Clock,
        lane: str = "live",
        must_yield: Callable[[], bool] = lambda: False,
    ) -> None:
        self.name = NAME if lane == "live" else f"{NAME}-{lane}"
        self.topics: Sequence[str] = (RECEIVED[lane],)
        self.group = f"prodrome-deidentify-{lane}"
        self.batch = settings.deidentify.batch
        self._tables, self._producer, self._must_yield = tables, producer, must_yield
        self._boundary = boundary.Boundary(settings)
        vault = Vault(tables, sealing_secrets(settings), settings.deidentify.key_id)
        seal_event = self._boundary.kept.seal_event
        self._intakes = Intakes(tables, vault, self._keep, seal_event, clock, self._first_release_ids)
        journal = own_journal(settings.home / "work" / NAME, lane)
        self._workers = Workers(
            boundary.cross,
            boundary.setup,
            (settings,),
            settings.deidentify.workers,
            journal,
            boundary.expect,
        )
        self._crossed: tuple[Sequence[Record], list[Decided]] = ((), [])
        self._results: dict[str, object] = {}  # of intakes that crossed while others of their batch wait

    def handle(self, records: Sequence[Record]) -> None:
        """See `consumers.loop.Stage.handle`."""
        if self._must_yield():
            raise SlowDown("the live lane lags")
        if self._crossed[0] != records:  # else a dependency was down behind the boundary: not all again
            self._crossed = (records, self._cross(records))
        decided = self._intakes.decide([one for one in self._crossed[1] if not self._is_late(one)])
        self._producer.send(
            [
                *settle.clean_events(decided),
                *self._markers(records),
                *settle.settlements(decided),
                *settle.doubts(decided),
            ]
        )
        self._crossed = ((), [])
        _count(decided)

    def abandon(self, record: Record, error: BadMessage) -> None:
        """Settle the instances of a message that becomes a dead letter whole, and let nobody wait for them."""
        event = record.event
        if isinstance(event, InstanceReceived):
            decided = self._intakes.decide([self._ended(record, event, i, error) for i in event.instances])
            self._producer.send([*settle.clean_events(decided), *settle.settlements(decided)])
            _count(decided)

    def tick(self) -> None:
        """No deadlines of its own."""

    def assigned(self, partitions: frozenset[int]) -> None:
        """No state by partition."""

    def caught_up(self, partitions: frozenset[int]) -> None:
        """Waits for nobody."""

    def _cross(self, records: Sequence[Record]) -> list[Decided]:
        arrived = [
            (record, record.event, instance)
            for record in records
            if isinstance(record.event, InstanceReceived)
            for instance in record.event.instances
        ]
        jobs = [
            Job(
                str(i.intake),
                (event.project, event.study_instance_uid, i),
                i.pointer.length,
                self._boundary.patience(i),
            )
            for _, event, i in arrived
        ]
        left = [job for job in jobs if job.name not in self._results]
        for job, result in zip(left, self._workers.run(left), strict=True):
            if not isinstance(result, SlowDown):
                self._results[job.name] = result
                continue
            waits = result
        if len(self._results) < len({job.name for job in jobs}):
            raise waits  # what has crossed is kept: a store that refuses some is not asked for all again
        results, self._results = self._results, {}
        return [self._ended(record, event, i, results[str(i.intake)]) for record, event, i in arrived]

    def _ended(
        self, record: Record, event: InstanceReceived, instance: ReceivedInstance, result: object
    ) -> Decided:
        if not isinstance(result, boundary.Crossing | BadMessage):
            log.error("intake %s: %s", instance.intake, type(result).__name__)
            result = BadMessage("stage_failed", type(result).__name__)
        study = self._boundary.pseudonymous_uid(event.project, event.study_instance_uid)
        sop = self._boundary.pseudonymous_uid(event.project, instance.sop_instance_uid)
        trace = dict(record.headers).get("traceparent", b"").decode("ascii", "replace")
        return Decided(event.project, event.study_instance_uid, study, sop, instance, result, trace)

    def _is_late(self, one: Decided) -> bool:
        """Whether this is a repeat of what has long ended: after a power loss some come behind a long queue."""
        gone = isinstance(one.result, BadMessage) and one.result.reason == "missing_raw"
        ours = one.instance.pointer.uri.startswith(
            "spool://"
        )  # what a bucket's owner took away nobody has freed
        return gone and ours and was_freed(self._tables, one.instance.intake)

    def _keep(self, one: Decided) -> Pointer | None:
        """Copy what can still be read of a dead intake, so that no segment waits for a person."""
        try:
            raw = self._boundary.read(one.project, one.instance)
        except BadMessage:
            return None
        return self._boundary.keep(one.project, one.instance, raw)

    def _first_release_ids(self, one: Decided) -> tuple[str, str]:
        return self._boundary.first_release_ids(one.project, one.instance)

    def _markers(self, records: Sequence[Record]) -> Iterator[Message]:
        for record in records:
            event = record.event
            if isinstance(event, AssociationClosed):
                study = self._boundary.pseudonymous_uid(event.project, event.study_instance_uid)
                yield settle.marker(event, study)
            elif isinstance(event, ObjectDeleted):
                study = self._boundary.pseudonymous_uid(event.project, event.study_instance_uid)
                sop = self._boundary.pseudonymous_uid(event.project, event.sop_instance_uid)
                yield settle.deleted(event, study, sop)


def _count(decided: Sequence[Decided]) -> None:
    for one in decided:
        metrics.inc("prodrome_stage_instances_total", stage=NAME, outcome=one.settled.outcome)
        if one.settled.outcome == "quarantined":
            metrics.inc("prodrome_deidentify_quarantined_total", reason=one.settled.reason or "")
