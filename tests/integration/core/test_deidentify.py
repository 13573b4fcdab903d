"""The deidentify stage on a real spool, Cassandra and stores: every intake settles once, whatever dies when."""

import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from stage_rig import Outbox, record

from consumers import boundary, deidentify
from consumers.deidentify import Deidentify
from consumers.workers import Job
from infra.cassandra import Tables
from infra.clock import ManualClock
from infra.demo import VIEWS, make_exams, to_bytes
from infra.settings import Settings, load
from infra.spool import Spool, SpoolReader
from infra.spool.format import InstanceHeader
from producers.outbox import messages
from schemas.codec import Message, decode
from schemas.errors import BadMessage, SlowDown
from schemas.events import InstanceDeidentified, InstanceExcluded, InstanceReceived
from schemas.topics import BY_NAME

pytestmark = pytest.mark.stack


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


class DyingWrites:
    """Tables of a process that dies when it has written so many partitions."""

    def __init__(self, tables: Tables, left: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self._tables, self._left, self._error = tables, left, error

    def write(self, partitions: Any) -> None:
        for rows in partitions:
            if self._left == 0:
                self._left = -1
                raise self._error
            self._left -= 1
            self._tables.write([rows])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tables, name)


def _event(message: Message) -> Any:
    return decode(message.value, message.headers, accepts=BY_NAME[message.topic].types)


def _dataset_bytes(dataset: Dataset) -> bytes:
    """The dataset as it comes over an association: without preamble and file meta."""
    from schemas.dicom_reader import read_file_header

    data = to_bytes(dataset)
    return data[read_file_header(data).dataset_offset :]


@pytest.fixture
def views() -> list[Dataset]:
    """One patient's four views, small."""
    images = {view: np.full((16, 12), i, np.uint8) for i, view in enumerate(VIEWS)}
    return list(make_exams(images, 1, seed=uuid.uuid4().hex)[0].datasets.values())


@pytest.fixture
def door(tmp_path: Path, tables: Tables, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Door:
    monkeypatch.setattr(deidentify, "Workers", Inline)
    key = tmp_path / "secrets" / "master.key"
    key.parent.mkdir()
    key.write_text("07" * 32)
    key.chmod(0o600)
    return Door(load({"PRODROME_HOME": str(tmp_path)}), tables, clock)


def test_what_is_clean_passes_and_settles(door: Door, views: list[Dataset]) -> None:
    """Four events' worth of clean instances of one pseudonymous study; each intake settles once."""
    door.take(door.store(*views))
    assert door.settled() == dict.fromkeys(range(4), "clean")
    assert len({i.sop_instance_uid for i in door.clean()}) == 4
    sent = b"".join(m.value + m.key for m in door.outbox.sent if BY_NAME[m.topic].zone == "clean")
    for raw in (views[0].PatientID, views[0].StudyInstanceUID, str(views[0].PatientName)):
        assert raw.encode() not in sent


def test_the_same_again_is_a_duplicate_without_effect(door: Door, views: list[Dataset]) -> None:
    """Another association, other intakes; a batch may even hold both."""
    door.take(door.store(*views), door.store(*views))
    door.take(door.store(*views))
    assert Counter(door.settled().values()) == {"clean": 4, "duplicate": 8}
    assert len(door.clean()) == 4
    assert door.excluded() == ["duplicate"] * 8


def test_corrected_and_conflicting_instances_are_told_apart(door: Door, views: list[Dataset]) -> None:
    """Other content in the same pixels, then other pixels."""
    door.take(door.store(views[0]))
    views[0].InstanceNumber = 77
    door.take(door.store(views[0]))
    views[0].PixelData = bytes(16 * 12)[:-1] + b"\1"
    door.take(door.store(views[0]))
    assert list(door.settled().values()) == ["clean", "corrected", "conflict"]
    assert [(i.version, i.conflict) for i in door.clean()] == [(0, False), (1, False), (2, True)]
    assert door.outbox.kinds() == ["uid_conflict"]


@pytest.mark.parametrize("write", range(3))
def test_a_crash_anywhere_gives_the_same_messages_again(door: Door, views: list[Dataset], write: int) -> None:
    """Before the vault, before the identities, before the intakes: clean stays clean, nothing is a duplicate."""
    event = door.store(*views)
    door.start(DyingWrites(door.tables, write))
    with pytest.raises(KeyboardInterrupt):
        door.take(event)
    assert door.outbox.sent == []
    door.start()
    door.take(event)
    once = list(door.outbox.sent)
    door.start()
    door.take(event)
    assert door.outbox.sent == 2 * once
    assert door.settled() == dict.fromkeys(range(4), "clean")


def test_a_database_that_is_down_repeats_no_work_behind_the_boundary(
    door: Door, views: list[Dataset]
) -> None:
    """The loop hands the same batch over again; instances crossed already."""
    event = door.store(*views)
    door.start(DyingWrites(door.tables, 1, SlowDown))
    with pytest.raises(SlowDown):
        door.take(event)
    door.take(event)
    assert door.workers.crossed == 4
    assert len(door.clean()) == 4


def test_a_store_that_is_down_is_waited_for(door: Door, views: list[Dataset]) -> None:
    """Nothing is said, nothing is a dead letter."""
    event = door.store(*views)
    door.workers.errors[2] = SlowDown("full")
    with pytest.raises(SlowDown):
        door.take(event)
    assert door.outbox.sent == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [(BadMessage("crashed_worker"), "crashed_worker"), (KeyError("DOE^JANE"), "stage_failed")],
)
def test_one_instance_that_cannot_be_worked_on_is_dead_and_the_others_are_clean(
    door: Door, views: list[Dataset], error: Exception, reason: str
) -> None:
    """It settles, nobody waits for it, its bytes are kept, a letter of it alone can be replayed."""
    door.workers.errors[1] = error
    door.take(door.store(*views))
    assert door.settled() == {0: "clean", 1: "dead", 2: "clean", 3: "clean"}
    assert door.excluded() == ["dead"]
    assert door.quarantined() == [reason]
    [letter] = door.outbox.of("deadletter.trusted.v1")
    assert letter.reason == reason
    assert "DOE" not in letter.detail


def test_bytes_that_are_gone_are_dead_without_a_copy(door: Door, views: list[Dataset]) -> None:
    """There is nothing left to keep; the letter says why."""
    event = door.store(*views[:1])
    for path in door.folder.glob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.unlink()
    door.take(event)
    assert door.settled() == {0: "dead"}
    assert door.outbox.of("deadletter.trusted.v1")[0].reason == "missing_raw"
    assert door.quarantined() == []


def test_a_doubtful_instance_is_quarantined_and_said(door: Door, views: list[Dataset]) -> None:
    """Burned-in text is flagged: sealed bytes, a row, a lifecycle word; nothing passes."""
    views[0].BurnedInAnnotation = "YES"
    door.take(door.store(*views))
    assert door.settled()[0] == "quarantined"
    assert door.excluded() == ["quarantined"]
    assert door.quarantined() == ["burned_in_flag"]
    assert door.outbox.kinds() == ["quarantined"]
    kept = [p.read_bytes() for p in Path(door.settings.trusted.store[7:]).rglob("*") if p.is_file()]
    assert len(kept) == 1
    assert views[0].PatientID.encode() not in kept[0]


def test_a_message_that_is_given_up_settles_its_intakes(door: Door, views: list[Dataset]) -> None:
    """The loop writes the letter of the whole message; nothing stays in flight behind it."""
    door.stage.abandon(record(door.store(*views)), BadMessage("stage_failed"))
    assert door.settled() == dict.fromkeys(range(4), "dead")
    assert door.excluded() == ["dead"] * 4


def test_two_patients_in_one_study_are_two_messages(door: Door, views: list[Dataset]) -> None:
    """The catalog flags the study; here each instance keeps its own patient."""
    views[1].PatientID = "SOMEBODY-ELSE"
    door.take(door.store(*views))
    events = [e for e in door.outbox.of("instance.deidentified.v1") if isinstance(e, InstanceDeidentified)]
    assert sorted(len(e.instances) for e in events) == [1, 3]
    assert len({e.patient_id for e in events}) == 2
