"""The deidentify stage on a real spool, Cassandra and stores: every intake settles once, whatever dies when."""

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from deid_door import Door
from pydicom.dataset import Dataset
from stage_rig import record

from consumers.ledger import Ledger
from infra.cassandra import Tables
from infra.spool.files import segment_path
from schemas.errors import BadMessage, SlowDown
from schemas.events import InstanceDeidentified, InstanceReceived, SegmentRelayed
from schemas.topics import BY_NAME

pytestmark = pytest.mark.stack


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


def test_an_instance_that_release_0_1_0_knew_is_recognised(door: Door, views: list[Dataset]) -> None:
    """By its digests of then: sent again it is a duplicate, published again it is what it was, and then corrected."""
    event = door.store(views[0])
    door.take(event)
    _as_first_release(door, event)
    door.take(event)
    door.take(door.store(views[0]))
    views[0].InstanceNumber = 77
    door.take(door.store(views[0]))
    door.take(door.store(views[0]))
    assert list(door.settled().values()) == ["clean", "duplicate", "corrected", "duplicate"]
    assert [i.version for i in door.clean()] == [0, 0, 1]


def _as_first_release(door: Door, event: InstanceReceived) -> None:
    """Turn what is known of an instance into what release 0.1.0 would have written."""
    [row] = door.tables.run(
        "SELECT * FROM identities WHERE project = ? AND study_uid = ?",
        (door.project, event.study_instance_uid),
    )
    ids = door.stage._boundary.first_release_ids(door.project, event.instances[0])
    key = (row.project, row.study_uid, row.sop_uid)
    where = "WHERE project = ? AND study_uid = ? AND sop_uid = ? AND content_id = ? AND pixel_id = ?"
    door.tables.run(f"DELETE FROM identities {where}", (*key, row.content_id, row.pixel_id))
    door.tables.run(
        "INSERT INTO identities (project, study_uid, sop_uid, content_id, pixel_id, transfer_syntax, intake, outcome,"
        " version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*key, *map(bytes.fromhex, ids), row.transfer_syntax, row.intake, row.outcome, row.version),
    )
    assert {len(digest) for digest in ids} == {64}


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


def test_a_repeat_whose_segment_was_freed_is_passed_over(door: Door, views: list[Dataset]) -> None:
    """It has ended, or nothing would be freed: no outcome changes, no letter, and nobody is told to leave it out."""
    event = door.store(*views[:1])
    door.take(event)
    said, intake = len(door.outbox.sent), event.instances[0].intake
    segment_path(door.folder, intake.segment).unlink()
    ledger = Ledger(door.settings, door.tables, door.clock)
    told = SegmentRelayed(spool=intake.spool, segment=intake.segment, records=1, sealed=True, epoch="e")
    ledger.handle([record(told), *map(record, door.outbox.of("instance.settled.v1"))])
    door.clock.advance(door.settings.ledger.grace_seconds)
    ledger.tick()
    door.take(event)
    assert len(door.outbox.sent) == said
    assert door.quarantined() == []


def test_what_a_bucket_does_not_have_any_more_is_said(door: Door, views: list[Dataset]) -> None:
    """Nobody but its owner frees it: a repeat that finds no bytes is a dead letter, settled segment or not."""
    event = door.store(*views[:1])
    door.take(event)
    said = len(door.outbox.of("deadletter.trusted.v1"))
    instance = event.instances[0]
    ledger = Ledger(door.settings, door.tables, door.clock)
    told = SegmentRelayed(
        spool=instance.intake.spool, segment=instance.intake.segment, records=1, sealed=True, epoch="e"
    )
    ledger.handle([record(told), *map(record, door.outbox.of("instance.settled.v1"))])
    door.clock.advance(door.settings.ledger.grace_seconds)
    ledger.tick()
    gone = msgspec.structs.replace(instance.pointer, uri="s3://theirs/gone")
    door.workers.errors[0] = BadMessage("missing_raw", "deleted")
    door.take(msgspec.structs.replace(event, instances=(msgspec.structs.replace(instance, pointer=gone),)))
    assert len(door.outbox.of("deadletter.trusted.v1")) == said + 1


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
