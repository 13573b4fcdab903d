"""The catalog on a real Cassandra: what is indexed becomes revisions, once each, whoever dies when."""

import uuid
from typing import Any

import msgspec
import pytest
from stage_rig import Dying, Outbox, record

from consumers.assemble import Assembler
from consumers.catalog import Catalog
from consumers.quiet import StudyKey
from infra.cassandra import Tables
from infra.clock import ManualClock
from infra.objects import Store
from infra.settings import Settings
from schemas.errors import SlowDown
from schemas.events import (
    Arrival,
    CleanInstance,
    ExcludedInstance,
    InstanceDeidentified,
    InstanceExcluded,
    Manifest,
    Pointer,
)
from schemas.ids import event_id

pytestmark = pytest.mark.stack

QUIET = 15.0


class Room:
    """One study in a partition of its own, and catalogs that come and go over it."""

    def __init__(self, settings: Settings, tables: Tables, store: Store, clock: ManualClock) -> None:
        self._parts: Any = (settings, tables, store)
        self.tables, self.store, self.clock, self.outbox = tables, store, clock, Outbox()
        self.key = StudyKey("default", f"2.25.{uuid.uuid4().int}")
        self.partition = uuid.uuid4().int % 2**31
        self.catalog = self.start()

    def start(self, tables: Any = None) -> Catalog:
        """A new process: nothing in its memory, the partition assigned and caught up."""
        settings, own, store = self._parts
        self.catalog = Catalog(settings, tables or own, store, self.outbox, self.clock)  # type: ignore[arg-type]
        self.catalog.assigned(frozenset({self.partition}))
        self.catalog.caught_up(frozenset({self.partition}))
        return self.catalog

    def take(self, *instances: CleanInstance, patient: str = "p1") -> None:
        """Handle one message."""
        event = InstanceDeidentified(
            project=self.key.project,
            study_instance_uid=self.key.study,
            patient_id=patient,
            instances=instances,
        )
        self.catalog.handle([record(event, self.partition)])

    def quiet(self) -> None:
        """Let the quiet time pass with nothing that waits."""
        self.catalog.caught_up(frozenset({self.partition}))
        self.clock.advance(QUIET)
        self.catalog.tick()

    @property
    def revisions(self) -> list[Any]:
        return self.outbox.of("study.revised.v1")

    def manifest(self, number: int) -> Manifest:
        return msgspec.json.decode(self.store.get(self.revisions[number].manifest), type=Manifest)


@pytest.fixture
def room(settings: Settings, tables: Tables, store: Store, clock: ManualClock) -> Room:
    return Room(settings, tables, store, clock)


def instance(sop: str, content: str = "c0", version: int = 0, conflict: bool = False) -> CleanInstance:
    return CleanInstance(
        sop_instance_uid=sop,
        series_instance_uid="2.25.9",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        content_key=content,
        pixel_key="p1" if conflict else "p0",
        version=version,
        conflict=conflict,
        object=Pointer(uri=f"clean://default/{sop}-{content}.dcm", offset=0, length=1),
        facts={"modality": "MG"},
        arrival=Arrival(association="a", ordinal=version),
    )


def test_a_quiet_study_has_its_first_revision(room: Room) -> None:
    """Indexed by study, patient and instance; revision 1 with a manifest; said once."""
    room.take(instance("1.1"), instance("1.2"))
    assert room.revisions == []
    room.quiet()
    [revised] = room.revisions
    assert (revised.revision, revised.instances, revised.modalities) == (1, 2, ("MG",))
    assert [i.sop_instance_uid for i in room.manifest(0).instances] == ["1.1", "1.2"]
    assert room.outbox.kinds() == ["first_instance", "revised"]
    found = room.tables.run(
        "SELECT study FROM instances_by_uid WHERE project = ? AND sop = ?", ("default", "1.1")
    )
    assert room.key.study in {row.study for row in found}


def test_a_late_instance_makes_the_next_revision(room: Room) -> None:
    """The first is not changed; the second has both."""
    room.take(instance("1.1"))
    room.quiet()
    room.take(instance("1.2"))
    room.quiet()
    assert [(r.revision, r.instances) for r in room.revisions] == [(1, 1), (2, 2)]
    assert room.outbox.kinds() == ["first_instance", "revised", "late_instance", "revised"]


def test_excluded_instances_alone_make_no_revision(room: Room) -> None:
    """A study whose every image waits in quarantine has nothing to show."""
    gone = ExcludedInstance(
        sop_instance_uid="1.1", arrival=Arrival(association="a", ordinal=0), reason="dead"
    )
    event = InstanceExcluded(project="default", study_instance_uid=room.key.study, instances=(gone,))
    room.catalog.handle([record(event, room.partition)])
    room.quiet()
    assert room.outbox.sent == []


def test_a_correction_makes_a_revision_with_the_new_object(room: Room) -> None:
    """The old version stays a row, the new one counts."""
    room.take(instance("1.1"))
    room.quiet()
    room.take(instance("1.1", "c1", version=1))
    room.quiet()
    assert [i.content_key for i in room.manifest(1).instances] == ["c1"]


def test_a_conflict_is_flagged_and_the_first_stays(room: Room) -> None:
    """Kept, not effective, visible in the revision and on the instance."""
    room.take(instance("1.1"), instance("1.1", "c1", version=1, conflict=True))
    room.quiet()
    assert room.revisions[0].flags == ("uid_conflict",)
    assert [(i.content_key, i.conflict) for i in room.manifest(0).instances] == [("c0", True)]


def test_a_study_of_two_patients_is_flagged_and_said(room: Room) -> None:
    """Indexed, not scored: the flag is what score looks at, the lifecycle what people look at."""
    room.take(instance("1.1"))
    room.take(instance("1.2"), patient="p2")
    room.quiet()
    assert room.revisions[0].flags == ("identity_conflict",)
    assert room.outbox.kinds()[-1] == "identity_conflict"


def test_a_corrected_patient_is_the_revisions_patient(room: Room) -> None:
    """Sent again under the right patient, no image is left under the wrong one."""
    room.take(instance("1.1"))
    room.quiet()
    room.take(instance("1.1", "c1", version=1), patient="p2")
    room.quiet()
    assert [(r.patient_id, r.flags) for r in room.revisions] == [("p1", ()), ("p2", ())]


def test_a_restart_forgets_no_open_study(room: Room) -> None:
    """Its quiet time begins anew, and it closes without another message."""
    room.take(instance("1.1"))
    room.start()
    room.quiet()
    assert [r.revision for r in room.revisions] == [1]
    room.start()
    room.quiet()
    assert len(room.revisions) == 1


def test_a_study_does_not_close_while_messages_wait(room: Room) -> None:
    """After a batch the partition lags until the loop says otherwise."""
    room.take(instance("1.1"))
    room.clock.advance(10 * QUIET)
    room.catalog.tick()
    assert room.revisions == []


def test_a_study_that_was_opened_but_never_indexed_is_forgotten(room: Room) -> None:
    """Its message ended as a dead letter; the catalog must not fall over it at every start."""
    room.tables.run(
        "INSERT INTO open_studies (partition, project, study, quiet_seconds) VALUES (?, ?, ?, ?)",
        (room.partition, *room.key, QUIET),
    )
    room.start()
    room.quiet()
    assert room.outbox.sent == []
    assert not room.tables.run("SELECT study FROM open_studies WHERE partition = ?", (room.partition,))


def test_a_row_of_an_open_study_that_comes_back_changes_nothing(room: Room) -> None:
    """Removed at the close, and back from a replica that had missed it: at most the same revision is said again."""
    room.take(instance("1.1"))
    room.quiet()
    room.tables.run(
        "INSERT INTO open_studies (partition, project, study, quiet_seconds) VALUES (?, ?, ?, ?)",
        (room.partition, *room.key, QUIET),
    )
    room.start()
    room.quiet()
    assert len(set(room.outbox.bodies("study.revised.v1"))) == 1
    assert not room.tables.run("SELECT study FROM open_studies WHERE partition = ?", (room.partition,))


def test_an_unpublished_revision_is_published_by_the_next_owner_with_the_same_body(room: Room) -> None:
    """The number was taken, the broker was away, the process died."""
    room.take(instance("1.1"))
    room.outbox.away = True
    with pytest.raises(SlowDown):
        room.quiet()
    [head] = room.tables.run(
        "SELECT body, published FROM study_head WHERE project = ? AND study = ?", room.key
    )
    assert not head.published
    room.outbox.away = False
    room.start()
    room.quiet()
    assert room.outbox.bodies("study.revised.v1") == [head.body.encode()]


def test_a_revision_that_was_published_but_not_marked_is_the_same_message_again(room: Room) -> None:
    """Died between publish and mark: a repeat with the same id and body, no other number."""
    room.start(Dying(room.tables, 2))
    room.take(instance("1.1"))
    with pytest.raises(KeyboardInterrupt):
        room.quiet()
    room.start()
    room.quiet()
    first, again = [m for m in room.outbox.sent if m.topic == "study.revised.v1"]
    assert first == again
    assert dict(first.headers)["ce_id"].decode() == event_id(
        "org.prodrome.study.revised.v1", *room.key, 1, room.revisions[0].set_id
    )


def test_a_repeat_of_a_closed_study_is_the_same_revision_again(room: Room) -> None:
    """It came this far because something died, and a power loss may have taken the message: same body, not late."""
    room.take(instance("1.1"))
    room.quiet()
    room.start()
    room.take(instance("1.1"))
    room.quiet()
    first, again = [m for m in room.outbox.sent if m.topic == "study.revised.v1"]
    assert first == again
    assert "late_instance" not in room.outbox.kinds()


@pytest.mark.parametrize("flagged", [False, True])
def test_a_manifest_that_is_gone_comes_again_with_a_repeat(room: Room, flagged: bool) -> None:
    """As it was; or, where a conflict has changed what it would say, in a revision of its own."""
    room.take(instance("1.1"))
    room.quiet()
    room.store.delete(room.revisions[0].manifest)
    if flagged:
        room.take(instance("1.1", "c1", version=1, conflict=True))
    room.take(instance("1.1"))
    room.quiet()
    assert [r.revision for r in room.revisions] == ([1, 2] if flagged else [1, 1])
    assert room.manifest(1).instances[0].conflict == flagged


def test_a_zombie_loses_the_transaction_and_reads_again(room: Room, outbox: Outbox) -> None:
    """It woke up with an old set in its hands; the new owner has closed the study with one more image."""

    class Sleeping(Dying):
        """Tables of a process that sleeps just before its first transaction."""

        def run_once(self, cql: str, values: Any) -> tuple[bool, Any]:
            if self._left:
                self._left = 0
                room.take(instance("1.2"))
                room.quiet()
            return self._tables.run_once(cql, values)

    room.take(instance("1.1"))
    zombie = Assembler(Sleeping(room.tables, 1), room.store, outbox)  # type: ignore[arg-type]
    zombie.close(room.key)
    assert [(r.revision, r.instances) for r in room.revisions] == [(1, 2)]
    assert outbox.sent == []
