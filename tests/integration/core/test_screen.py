"""Images are answered as they come, and their study once more: provisional first, then what supersedes it."""

import sys
import uuid
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from stage_rig import InThis, record
from test_score import Room

from consumers import preparing
from consumers.preparing import Preparing
from consumers.screen import Screen
from infra.cassandra import Tables
from infra.clock import ManualClock
from infra.demo import make_exams
from infra.objects import Store
from infra.settings import Settings
from schemas.events import Arrival, CleanInstance, InstanceDeidentified, StudyRevised
from scoring.score import Model, load

sys.path.insert(0, str(Path(__file__).parents[2] / "unit" / "scoring"))
from toy import look_at_single_images, write_package

pytestmark = pytest.mark.stack


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """The sum of a histogram's upper half: how bright an image is."""
    weights = np.concatenate([np.zeros(5), np.full(5, 2.0)]).astype(np.float32).reshape(1, 10)
    folder = write_package(tmp_path / "toy", weights)
    look_at_single_images(folder, f"toy-{uuid.uuid4().hex[:8]}")
    return load(folder)


class Screened(Room):
    """A room in which images are looked at as they come."""

    def screen(self, events: list[InstanceDeidentified]) -> None:
        hands = Preparing(self.settings, "screen")
        stage = Screen(self.settings, self.tables, self.outbox, self.clock, self.serving, hands)  # type: ignore[arg-type]
        stage.handle([record(event, self.partition) for event in events])


@pytest.fixture
def room(
    settings: Settings,
    tables: Tables,
    store: Store,
    clock: ManualClock,
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
) -> Screened:
    monkeypatch.setattr(preparing, "Workers", InThis)
    return Screened(settings, tables, store, clock, model)


def bright(share: float, name: str, **changes: Any) -> Any:
    """An image of which so much is bright."""
    images = {view: np.zeros((40, 40), np.uint8) for view in ("L-CC", "R-CC", "L-MLO", "R-MLO")}
    dataset = make_exams(images, 1, seed=name)[0].datasets["L-CC"]
    pixels = np.zeros(1600, np.uint8)
    pixels[: int(1600 * share)] = 255
    dataset.PixelData = pixels.tobytes()
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return dataset


def cleaned(room: Screened, revised: StudyRevised) -> list[InstanceDeidentified]:
    """The clean events that went before a revision, an image each."""
    return [
        InstanceDeidentified(
            project=revised.project,
            study_instance_uid=revised.study_instance_uid,
            patient_id=revised.patient_id,
            instances=(
                CleanInstance(
                    sop_instance_uid=i.sop_instance_uid, series_instance_uid=i.series_instance_uid,
                    sop_class_uid=i.sop_class_uid, transfer_syntax_uid=i.transfer_syntax_uid,
                    content_key=i.content_key, pixel_key=i.pixel_key, version=0, conflict=i.conflict,
                    object=i.object, facts=i.facts, arrival=Arrival(association="a", ordinal=0),
                ),
            ),
        )
        for i in room.score._manifest(revised).instances
    ]  # fmt: skip


def test_an_image_is_answered_before_its_study(room: Screened) -> None:
    """Each provisional, of revision 0, under an id of its own; then the study's result, of the brightest."""
    name = uuid.uuid4().hex
    datasets = [
        bright(share, f"{name}{share}", InstanceNumber=n + 1) for n, share in enumerate((0.2, 0.9, 0.5))
    ]
    revised = room.revised(datasets)
    room.screen(cleaned(room, revised))
    provisional = room.predictions
    assert [p.provisional for p in provisional] == [True] * 3
    assert {p.revision for p in provisional} == {0}
    assert [len(p.inputs) for p in provisional] == [1, 1, 1]
    assert len({p.prediction_id for p in provisional}) == 3
    room.take(revised)
    study = room.predictions[-1]
    assert study.provisional is msgspec.UNSET
    assert (study.revision, study.supersedes, len(study.inputs)) == (1, None, 3)
    assert study.score == max(p.score for p in provisional)
    brightest = max(provisional, key=lambda p: p.score)
    assert study.decisive_sop_instance_uid == brightest.inputs[0].sop_instance_uid
    assert room.effective == study.prediction_id


def test_a_repeat_says_the_same_again(room: Screened) -> None:
    """Same id, same body, nothing counted twice; and nobody's lifecycle."""
    events = cleaned(room, room.revised([bright(0.4, uuid.uuid4().hex)]))
    room.screen(events)
    room.screen(events)
    first, second = room.outbox.bodies("prediction.v1")
    assert first == second
    assert room.outbox.kinds() == []


def test_what_is_not_for_the_model_is_left_alone(room: Screened) -> None:
    """Another size, another kind, and a version that nobody has decided about."""
    revised = room.revised([bright(0.4, uuid.uuid4().hex)])
    [event] = cleaned(room, revised)
    [image] = event.instances
    for changes in (
        {"facts": {**image.facts, "rows": 65}},
        {"facts": {**image.facts, "modality": "CT"}},
        {"conflict": True},
    ):
        room.screen([msgspec.structs.replace(event, instances=(msgspec.structs.replace(image, **changes),))])
    assert room.predictions == []


def test_a_study_with_more_images_than_are_looked_at_is_flagged(room: Screened) -> None:
    """Three of four, the first by number; said with the result."""
    name = uuid.uuid4().hex
    datasets = [bright(0.2 * (n + 1), f"{name}{n}", InstanceNumber=n + 1) for n in range(4)]
    room.take(room.revised(datasets))
    [found] = room.predictions
    assert len(found.inputs) == 3
    assert "incomplete_series" in found.quality_flags
