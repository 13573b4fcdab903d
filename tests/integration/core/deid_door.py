"""A spool that a test fills, and the deidentify stage behind it, with workers in the test's own process."""

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from stage_rig import Outbox, record

from consumers import boundary
from consumers.deidentify import Deidentify
from consumers.workers import Job
from infra.cassandra import Tables
from infra.clock import ManualClock
from infra.demo import to_bytes
from infra.settings import Settings
from infra.spool import Spool, SpoolReader
from infra.spool.format import InstanceHeader
from producers.outbox import messages
from schemas.codec import Message, decode
from schemas.dicom_reader import read_file_header
from schemas.events import InstanceDeidentified, InstanceExcluded, InstanceReceived
from schemas.topics import BY_NAME


class Inline:
    """Workers in this process, and a count of what crossed."""

    def __init__(self, function: Any, setup: Any, arguments: tuple[Any, ...], *_: Any) -> None:
        self._boundary = boundary.Boundary(*arguments)
        self.crossed = 0
        self.errors: dict[int, Exception] = {}

    def run(self, jobs: Sequence[Job]) -> list[Any]:
        return [self._cross(i, job) for i, job in enumerate(jobs)]

    def _cross(self, i: int, job: Job) -> Any:
        self.crossed += 1
        try:
            if i in self.errors:
                raise self.errors[i]
            return self._boundary.cross(*job.argument)
        except Exception as error:
            return error


class Door:
    """A spool that a test fills, and the stage behind it."""

    def __init__(self, settings: Settings, tables: Tables, clock: ManualClock) -> None:
        self.settings, self.tables, self.clock, self.outbox = settings, tables, clock, Outbox()
        self.folder = Path(settings.spool.path)
        self.spool = Spool(self.folder)
        self.project = f"p{uuid.uuid4().hex[:8]}"
        self.seen = 0
        self.stage = self.start()

    def start(self, tables: Any = None) -> Deidentify:
        """A new process."""
        self.stage = Deidentify(self.settings, tables or self.tables, self.outbox, self.clock)  # type: ignore[arg-type]
        return self.stage

    @property
    def workers(self) -> Any:
        return self.stage._workers

    def store(self, *datasets: Dataset, **changes: Any) -> InstanceReceived:
        """Receive instances in one association and return the event that the relay would publish."""
        association = uuid.uuid4().hex
        for ordinal, dataset in enumerate(datasets):
            self.spool.store(self._header(dataset, association, ordinal, changes), _dataset_bytes(dataset))
        reader = SpoolReader(self.folder)
        found = [r for number in reader.segments() for r in reader.records(number)]
        new, self.seen = found[self.seen :], len(found)
        sent = [_event(m) for m in messages(reader.id, new, 1 << 30)]
        [event] = [e for e in sent if isinstance(e, InstanceReceived)]
        return event

    def _header(self, dataset: Dataset, association: str, ordinal: int, changes: Any) -> InstanceHeader:
        fields = {
            "project": self.project, "source": "local", "association": association, "ordinal": ordinal,
            "calling_ae_title": "T", "called_ae_title": "P", "address": "127.0.0.1", "trace": "0" * 32,
            "received_at": self.clock.now(), "sop_class_uid": str(dataset.SOPClassUID),
            "sop_instance_uid": str(dataset.SOPInstanceUID),
            "transfer_syntax_uid": str(dataset.file_meta.TransferSyntaxUID),
            "study_instance_uid": str(dataset.StudyInstanceUID),
        }  # fmt: skip
        return InstanceHeader(**(fields | changes))  # type: ignore[arg-type]

    def take(self, *events: InstanceReceived) -> None:
        self.stage.handle([record(event) for event in events])

    def settled(self) -> dict[int, str]:
        """Outcome by record; the first that was said, as the ledger takes it."""
        outcomes: dict[int, str] = {}
        for event in self.outbox.of("instance.settled.v1"):
            for each in event.records:
                outcomes.setdefault(each.record, each.outcome)
        return outcomes

    def clean(self) -> list[Any]:
        events = self.outbox.of("instance.deidentified.v1")
        return [i for e in events if isinstance(e, InstanceDeidentified) for i in e.instances]

    def excluded(self) -> list[str]:
        events = self.outbox.of("instance.deidentified.v1")
        return [i.reason for e in events if isinstance(e, InstanceExcluded) for i in e.instances]

    def quarantined(self) -> list[str]:
        days = self.tables.run("SELECT day FROM quarantine_days WHERE project = ?", (self.project,))
        rows = "SELECT reason FROM quarantine WHERE project = ? AND day = ?"
        return sorted(r.reason for d in days for r in self.tables.run(rows, (self.project, d.day)))


def _event(message: Message) -> Any:
    return decode(message.value, message.headers, accepts=BY_NAME[message.topic].types)


def _dataset_bytes(dataset: Dataset) -> bytes:
    """The dataset as it comes over an association: without preamble and file meta."""
    data = to_bytes(dataset)
    return data[read_file_header(data).dataset_offset :]
