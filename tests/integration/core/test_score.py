"""The score stage on a real Cassandra with the model that ships: one answer for one set of inputs."""

import uuid
from collections.abc import Iterable
from typing import Any

import pytest
from pydicom.dataset import Dataset
from stage_rig import Dying, Fixed, InThis, Outbox, record

from consumers import preparing
from consumers.predictions import balance, run_outcome
from consumers.preparing import Preparing
from consumers.quiet import StudyKey
from consumers.score import Score
from infra.cassandra import Tables
from infra.clock import ManualClock
from infra.demo import Exam, make_exams, read_images, repeated_view, spot_view, to_bytes
from infra.objects import Store
from infra.settings import Settings
from schemas.codec import body
from schemas.events import Manifest, ManifestInstance, Pointer, StudyRevised
from schemas.ids import set_id
from scoring.score import MODELS, Model, load

pytestmark = pytest.mark.stack

DEADLINE = 900.0
VIEWS = ["L-CC", "R-CC", "L-MLO", "R-MLO"]


@pytest.fixture(scope="module")
def exam() -> Exam:
    return make_exams(read_images(MODELS / "density" / "example"), patients=1)[0]


@pytest.fixture(scope="module")
def density() -> Model:
    return load(MODELS / "density")


class Room:
    """One study, its revisions, and score processes that come and go over it."""

    def __init__(
        self, settings: Settings, tables: Tables, store: Store, clock: ManualClock, model: Model
    ) -> None:
        self.settings, self.tables, self.store, self.clock, self.model = settings, tables, store, clock, model
        self.serving, self.results = Fixed(model), None
        self.outbox = Outbox()
        self.key = StudyKey("default", f"2.25.{uuid.uuid4().int}")
        self.partition = uuid.uuid4().int % 2**31
        self.revision = 0
        self.score = self.start()

    def start(self, tables: Any = None) -> Score:
        """A new process: nothing in its memory, the partition assigned."""
        parts = (self.settings, tables or self.tables, self.store, self.outbox, self.clock)
        hands = Preparing(self.settings, "test")
        self.score = Score(*parts, self.serving, hands, results=self.results)  # type: ignore[arg-type]
        self.score.assigned(frozenset({self.partition}))
        return self.score

    def revised(self, datasets: Iterable[Dataset], **changes: Any) -> StudyRevised:
        """Store the datasets and a manifest of them as the next revision."""
        self.revision += 1
        instances = tuple(self._instance(dataset) for dataset in datasets)
        name = set_id((i.sop_instance_uid, i.content_key, i.pixel_key) for i in instances)
        common: dict[str, Any] = {
            "project": "default",
            "study_instance_uid": self.key.study,
            "patient_id": "p1",
            "revision": self.revision,
            "set_id": name,
        }
        manifest = body(Manifest(instances=instances, **common))
        pointer = self.store.put(f"manifests/{name}-{self.revision}.json", manifest)
        fields = {
            **common,
            "instances": len(instances),
            "modalities": ("MG",),
            "manifest": pointer,
            **changes,
        }
        return StudyRevised(**fields)

    def _instance(self, dataset: Dataset) -> ManifestInstance:
        modifiers = dataset.ViewCodeSequence[0].get("ViewModifierCodeSequence") or []
        return ManifestInstance(
            sop_instance_uid=str(dataset.SOPInstanceUID),
            series_instance_uid=str(dataset.SeriesInstanceUID),
            sop_class_uid=str(dataset.SOPClassUID),
            transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
            content_key=f"content {dataset.SOPInstanceUID}",
            pixel_key=f"pixels {dataset.SOPInstanceUID}",
            conflict=False,
            object=self.store.put(f"{dataset.SOPInstanceUID}.dcm", to_bytes(dataset)),
            facts={
                "modality": "MG",
                "rows": dataset.Rows,
                "columns": dataset.Columns,
                "number_of_frames": 1,
                "bits_allocated": dataset.BitsAllocated,
                "photometric_interpretation": dataset.PhotometricInterpretation,
                "presentation_intent_type": "FOR PRESENTATION",
                "view_position": dataset.ViewPosition,
                "image_laterality": dataset.ImageLaterality,
                "view_modifiers": ["spot"] if modifiers else [],
                "partial_view": False,
                "acquisition_rank": int(dataset.AcquisitionTime[:6]),
            },
        )

    def take(self, *revisions: StudyRevised) -> None:
        self.score.handle([record(revised, self.partition) for revised in revisions])

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.score.tick()

    @property
    def predictions(self) -> list[Any]:
        return self.outbox.of("prediction.v1")

    @property
    def outcomes(self) -> list[str]:
        return [prediction.outcome for prediction in self.predictions]

    def ended(self, revision: int) -> str | None:
        return run_outcome(self.tables, self.key, self.model.package.card.id, revision)

    @property
    def effective(self) -> str | None:
        rows = self.tables.run(
            "SELECT prediction FROM prediction_head WHERE project = ? AND study = ? AND model = ?",
            (*self.key, self.model.package.card.id),
        )
        return rows[0].prediction if rows else None


@pytest.fixture
def room(
    settings: Settings,
    tables: Tables,
    store: Store,
    clock: ManualClock,
    density: Model,
    monkeypatch: pytest.MonkeyPatch,
) -> Room:
    monkeypatch.setattr(preparing, "Workers", InThis)
    return Room(settings, tables, store, clock, density)


def views(exam: Exam, *names: str) -> list[Dataset]:
    return [exam.datasets[name] for name in names or VIEWS]


def test_four_views_are_one_prediction(room: Room, exam: Exam) -> None:
    """Inputs named by view, the class of the published exam, lifecycle and balance with it."""
    counted = balance(room.tables, [room.model.package.card.id])
    room.take(room.revised(views(exam)))
    [found] = room.predictions
    assert (found.outcome, found.status, found.supersedes) == ("predicted", "preliminary", None)
    assert {i.name: i.sop_instance_uid for i in found.inputs} == {
        view: dataset.SOPInstanceUID for view, dataset in exam.datasets.items()
    }
    assert found.category == max(found.probabilities, key=found.probabilities.get)
    assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-6)
    assert room.outbox.kinds() == ["scored"]
    assert (room.ended(1), room.effective) == ("predicted", found.prediction_id)
    [after] = balance(room.tables, [room.model.package.card.id]).values()
    assert after["predicted"] == next(iter(counted.values())).get("predicted", 0) + 1


def test_a_repeat_says_the_same_again_and_a_spot_view_nothing(room: Room, exam: Exam) -> None:
    """The same selected inputs have their answer, byte for byte; the new revision has it too."""
    first = room.revised(views(exam))
    room.take(first)
    room.take(first)
    room.take(room.revised([*views(exam), spot_view(exam)]))
    once, again = [m for m in room.outbox.sent if m.topic == "prediction.v1"]
    assert (once.key, once.value, dict(once.headers)["ce_id"]) == (
        again.key,
        again.value,
        dict(again.headers)["ce_id"],
    )
    assert (room.ended(1), room.ended(2)) == ("predicted", "predicted")


def test_a_repeated_view_supersedes(room: Room, exam: Exam) -> None:
    """The latest acquisition is selected; the second answer names the first, and is effective."""
    room.take(room.revised(views(exam)))
    room.take(room.revised([*views(exam), repeated_view(exam)]))
    first, second = room.predictions
    assert (second.status, second.supersedes) == ("amended", first.prediction_id)
    assert second.score != first.score
    assert room.effective == second.prediction_id


def test_missing_views_are_said_once_at_the_deadline(room: Room, exam: Exam) -> None:
    """Waiting until then; a later revision that is still incomplete says nothing more."""
    room.take(room.revised(views(exam, "L-CC", "R-CC")))
    room.wait(DEADLINE - 1)
    assert (room.outcomes, room.ended(1)) == ([], "waiting")
    room.wait(1)
    room.wait(DEADLINE)
    assert (room.outcomes, room.ended(1)) == (["incomplete"], "incomplete")
    assert room.predictions[0].reason == "missing:L-MLO,R-MLO"
    room.take(room.revised(views(exam, "L-CC", "R-CC", "L-MLO")))
    room.wait(DEADLINE)
    assert (room.outcomes, room.ended(2)) == (["incomplete"], "incomplete")


def test_a_repeat_of_an_incomplete_revision_says_it_again(room: Room, exam: Exam) -> None:
    """With the body that it had: the topic may have lost it."""
    revised = room.revised(views(exam, "L-CC"))
    room.take(revised)
    room.wait(DEADLINE)
    room.take(revised)
    once, again = room.outbox.bodies("prediction.v1")
    assert once == again


def test_a_study_that_becomes_complete_in_time_is_scored_and_never_incomplete(room: Room, exam: Exam) -> None:
    """All its revisions have the answer."""
    room.take(room.revised(views(exam, "L-CC")))
    room.take(room.revised(views(exam, "L-CC", "R-CC")))
    room.take(room.revised(views(exam)))
    room.wait(2 * DEADLINE)
    assert room.outcomes == ["predicted"]
    assert [room.ended(n) for n in (1, 2, 3)] == ["predicted"] * 3


def test_a_restart_forgets_no_waiting_run(room: Room, exam: Exam) -> None:
    """Its deadline begins anew, and it is said once."""
    room.take(room.revised(views(exam, "L-CC")))
    room.start()
    room.wait(DEADLINE)
    room.start()
    room.wait(DEADLINE)
    assert room.outcomes == ["incomplete"]


def test_an_answer_after_a_crash_ends_the_waiting_too(room: Room, exam: Exam) -> None:
    """The prediction was confirmed, but its run was still noted as waiting: no `incomplete` follows a score."""
    room.take(room.revised(views(exam, "L-CC")))
    [waiting] = room.tables.run("SELECT * FROM waiting_runs WHERE partition = ?", (room.partition,))
    complete = room.revised(views(exam))
    room.take(complete)
    room.tables.run(
        "INSERT INTO waiting_runs (partition, project, study, model, since, revised) VALUES (?, ?, ?, ?, ?, ?)",
        (room.partition, *room.key, waiting.model, waiting.since, waiting.revised),
    )
    room.start()
    room.take(complete)
    room.wait(DEADLINE)
    assert set(room.outcomes) == {"predicted"}


def test_a_row_of_waiting_that_comes_back_says_nothing(room: Room, exam: Exam) -> None:
    """Removed, and back from a replica that had missed it: the revision has its answer, and the row goes again."""
    room.take(room.revised(views(exam, "L-CC")))
    query = "SELECT * FROM waiting_runs WHERE partition = ?"
    [waiting] = room.tables.run(query, (room.partition,))
    room.take(room.revised(views(exam)))
    room.tables.run(
        "INSERT INTO waiting_runs (partition, project, study, model, since, revised) VALUES (?, ?, ?, ?, ?, ?)",
        (room.partition, *room.key, waiting.model, waiting.since, waiting.revised),
    )
    room.start()
    room.wait(DEADLINE)
    assert (room.outcomes, room.ended(1)) == (["predicted"], "predicted")
    assert not room.tables.run(query, (room.partition,))


@pytest.mark.parametrize("transaction", [0, 1, 2])
def test_a_crash_anywhere_gives_the_same_answer_once_more(room: Room, exam: Exam, transaction: int) -> None:
    """Before the row, before the head, before the mark: the repeat ends with one answer, effective."""
    revised = room.revised(views(exam))
    room.start(Dying(room.tables, transaction))
    with pytest.raises(KeyboardInterrupt):
        room.take(revised)
    room.start()
    room.take(revised)
    room.take(revised)
    assert len(set(room.outbox.bodies("prediction.v1"))) == 1
    assert len(room.predictions) == (2 if transaction == 0 else 3)
    assert (room.effective, room.ended(1)) == (room.predictions[0].prediction_id, "predicted")


def test_a_study_of_two_patients_is_not_scored(room: Room, exam: Exam) -> None:
    """Whatever it holds."""
    room.take(room.revised(views(exam), flags=("identity_conflict",)))
    room.wait(DEADLINE)
    assert room.outcomes == []


def test_studies_without_inputs_of_the_model_are_none_of_its_business(room: Room) -> None:
    """No run, nothing waits, nothing is said."""
    room.take(room.revised([]))
    room.wait(DEADLINE)
    assert (room.outcomes, room.ended(1)) == ([], None)


def test_two_studies_in_one_batch_keep_their_own_answers(room: Room, exam: Exam) -> None:
    """One forward pass over both; a study beside one that fails is scored."""
    other = make_exams(read_images(MODELS / "density" / "example"), patients=2)[1]
    broken = room.revised(views(exam))
    room.store.delete(Pointer(uri=f"clean://{exam.datasets['L-CC'].SOPInstanceUID}.dcm", offset=0, length=1))
    room.take(broken, room.revised(views(other)))
    failed, predicted = room.predictions
    assert (failed.outcome, failed.reason, failed.score) == ("failed", "missing_object", None)
    assert predicted.outcome == "predicted"


def test_a_manifest_that_is_gone_at_the_deadline_stops_nothing(room: Room, exam: Exam) -> None:
    """The run ends as failed; the role goes on."""
    revised = room.revised(views(exam, "L-CC"))
    room.take(revised)
    room.store.delete(revised.manifest)
    room.wait(DEADLINE)
    room.wait(DEADLINE)
    assert (room.outcomes, room.ended(1)) == ([], "failed")


def test_going_back_to_earlier_images_lets_their_answer_count_again(room: Room, exam: Exam) -> None:
    """A repeated view that is taken back: the first answer again, in place of the second, without computing it."""
    first = room.revised(views(exam))
    room.take(first)
    again = [repeated_view(exam, "L-CC"), *views(exam)]
    room.take(room.revised(again))
    room.take(room.revised(views(exam)))
    one, two, three = room.predictions
    assert (two.supersedes, three.supersedes) == (one.prediction_id, two.prediction_id)
    assert (three.revision, three.probabilities) == (3, one.probabilities)
    assert room.effective == three.prediction_id
    room.take(room.revised(views(exam)))
    assert len(room.predictions) == 3
