"""Models are added, promoted, refused, taken back and retired while a scorer runs; studies are scored again as meant."""

import json
import shutil
import sys
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stage_rig import Fixed, InThis, record
from test_score import Room, views

from commands.registry import ModelRefused, Registry
from consumers import preparing
from consumers.serving import Resident
from infra.cassandra import Tables
from infra.clock import ManualClock
from infra.demo import Exam, make_exams, read_images
from infra.objects import Store, open_results
from infra.settings import Settings, load
from schemas.events import StudyRevised
from scoring.package import CARD, DIGESTS, digests_of
from scoring.score import MODELS, Model
from scoring.score import load as load_model

sys.path.insert(0, str(Path(__file__).parents[2] / "unit" / "scoring"))

pytestmark = pytest.mark.stack

DENSITY = "breast-density-histogram"


@pytest.fixture(scope="module")
def exam() -> Exam:
    return make_exams(read_images(MODELS / "density" / "example"), patients=1)[0]


@pytest.fixture
def own(tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Model folders with a density package of an id that no other test has."""
    folder = tmp_path / "models" / "density"
    shutil.copytree(MODELS / "density", folder)
    rewrite(folder, DENSITY, f"density-{uuid.uuid4().hex[:8]}")
    monkeypatch.setattr(preparing, "Workers", InThis)
    return load({"PRODROME_HOME": str(tmp_path), "PRODROME_SCORE_MODELS": str(folder.parent)})


def rewrite(folder: Path, old: str, new: str) -> Path:
    text = (folder / CARD).read_text()
    assert old in text
    (folder / CARD).write_text(text.replace(old, new))
    (folder / DIGESTS).write_text(json.dumps(digests_of(folder)))
    return folder


def version(own: Settings, tmp_path: Path, number: str, *changes: tuple[str, str]) -> Path:
    """A package of the same model under another version."""
    folder = tmp_path / f"version-{number}"
    shutil.copytree(Path(own.score.models) / "density", folder)
    for old, new in (('version = "1.2.0"', f'version = "{number}"'), *changes):
        rewrite(folder, old, new)
    return folder


class Site:
    """The registry, a scorer's resident models, and a clock between its looks."""

    def __init__(self, own: Settings, tables: Tables) -> None:
        self.own, self.tables, self.clock = own, tables, ManualClock()
        self.registry = Registry(own, tables)
        self.resident = Resident(own, tables, open_results(own), self.clock)
        [self.id] = self.resident.models()

    def add(self, folder: Path) -> str:
        self.registry.add(load_model(folder), (folder / DIGESTS).read_bytes())
        return load_model(folder).package.digest

    def served(self) -> str | None:
        """Which version runs, after a while."""
        self.clock.advance(self.own.score.look_seconds)
        found = self.resident.models().get(self.id)
        return found.card.version if found else None


@pytest.fixture
def site(own: Settings, tables: Tables) -> Site:
    return Site(own, tables)


def test_what_ships_runs_until_something_is_promoted(site: Site, own: Settings, tmp_path: Path) -> None:
    """Added is not promoted; promoted runs after the next look, and back again."""
    assert site.served() == "1.2.0"
    site.add(version(own, tmp_path, "1.3.0"))
    assert site.served() == "1.2.0"
    site.registry.promote(f"{site.id}@1.3.0")
    assert site.served() == "1.3.0"
    site.registry.promote(f"{site.id}@1.2.0")
    assert site.served() == "1.2.0"


def test_a_retired_model_does_not_run(site: Site) -> None:
    """Until a version of it is promoted."""
    site.registry.retire(site.id)
    assert site.served() is None
    with pytest.raises(ModelRefused, match="expected a model that runs"):
        site.registry.retire(site.id)
    site.registry.promote(f"{site.id}@1.2.0")
    assert site.served() == "1.2.0"


def test_a_version_is_one_package_for_ever(site: Site, own: Settings, tmp_path: Path) -> None:
    """The same again is nothing; other bytes under its number are refused."""
    folder = version(own, tmp_path, "1.3.0")
    site.add(folder)
    site.add(folder)
    with pytest.raises(ModelRefused, match="is another package already"):
        site.add(rewrite(folder, "value = 0.5", "value = 0.6"))


def test_what_says_something_else_is_another_model(site: Site, own: Settings, tmp_path: Path) -> None:
    """Subscribers rely on what a score means: such a version is not promoted, and the old one serves on."""
    site.add(version(own, tmp_path, "2.0.0", ("probability_dense_breast", "something_else")))
    with pytest.raises(ModelRefused, match="is another model"):
        site.registry.promote(f"{site.id}@2.0.0")
    assert site.served() == "1.2.0"
    with pytest.raises(ModelRefused, match="expected MODEL@VERSION"):
        site.registry.promote(f"{site.id}@9.9.9")


@pytest.mark.parametrize("damage", ["a byte more", "gone"])
def test_a_package_that_is_damaged_in_the_store_is_refused_and_the_old_one_serves_on(
    site: Site, own: Settings, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Loudly, once, and without an end to the scorer."""
    digest = site.add(version(own, tmp_path, "1.3.0"))
    results, name = open_results(own), f"models/{digest}/model.onnx"
    if damage == "gone":
        results._store.delete(name)  # type: ignore[attr-defined]
    else:
        results.put_again(name, (results.find(name) or b"") + b" ")
    site.registry.promote(f"{site.id}@1.3.0")
    assert site.served() == "1.2.0"
    assert site.served() == "1.2.0"
    assert sum("is refused, the one before serves on" in message for message in caplog.messages) == 1
    site.add(tmp_path / "version-1.3.0")
    assert Resident(own, site.tables, results, ManualClock()).models()[site.id].card.version == "1.3.0"


def test_a_new_scorer_fetches_what_is_promoted(
    site: Site, own: Settings, tables: Tables, tmp_path: Path
) -> None:
    """On another machine: from the results store, by its digests."""
    site.add(version(own, tmp_path, "1.3.0"))
    site.registry.promote(f"{site.id}@1.3.0")
    elsewhere = load(
        {
            "PRODROME_HOME": str(tmp_path / "elsewhere"),
            "PRODROME_SCORE_MODELS": own.score.models,
            "PRODROME_SCORE_STORE": own.score.store,
        }
    )
    assert (
        Resident(elsewhere, tables, open_results(own), ManualClock()).models()[site.id].card.version
        == "1.3.0"
    )


# scored again


class Rescored(Room):
    """A room whose scorer has a bulk lane beside it."""

    def again(self, revised: StudyRevised, model: Model, **more: Any) -> None:
        """An operator asks for a study."""
        asked = msgspec.structs.replace(revised, rescore=(model.package.digest,), **more)
        self.start()
        self.score.handle([record(asked, self.partition)])

    def serve(self, model: Model) -> None:
        self.serving, self.model = Fixed(model), model
        self.start()


@pytest.fixture
def models(own: Settings, tmp_path: Path) -> tuple[Model, Model]:
    """Two versions of one model; the second has another threshold."""
    return (
        load_model(Path(own.score.models) / "density"),
        load_model(version(own, tmp_path, "1.3.0", ("value = 0.5", "value = 0.6"))),
    )


@pytest.fixture
def room(
    own: Settings, tables: Tables, store: Store, clock: ManualClock, models: tuple[Model, Model]
) -> Rescored:
    return Rescored(own, tables, store, clock, models[0])


def test_a_repeat_is_not_scored_by_the_new_version(
    room: Rescored, exam: Exam, models: tuple[Model, Model]
) -> None:
    """Every study once, by one version: a batch that comes again after a replacement says the old answer again."""
    revised = room.revised(views(exam))
    room.take(revised)
    room.serve(models[1])
    room.take(revised)
    assert [p.model.version for p in room.predictions] == ["1.2.0", "1.2.0"]
    assert len({p.prediction_id for p in room.predictions}) == 1


def test_a_new_revision_is_scored_by_the_new_version(
    room: Rescored, exam: Exam, models: tuple[Model, Model]
) -> None:
    """It supersedes what the old one said."""
    room.take(room.revised(views(exam)))
    room.serve(models[1])
    room.take(room.revised(views(exam)))
    first, second = room.predictions
    assert (second.model.version, second.supersedes) == ("1.3.0", first.prediction_id)


def test_asked_for_it_is_scored_by_the_new_version_once(
    room: Rescored, exam: Exam, models: tuple[Model, Model]
) -> None:
    """Superseding, not overwriting; asked for again, nothing."""
    revised = room.revised(views(exam))
    room.take(revised)
    room.serve(models[1])
    room.again(revised, models[1])
    room.again(revised, models[1])
    first, second = room.predictions
    assert (second.status, second.supersedes) == ("amended", first.prediction_id)
    assert room.effective == second.prediction_id


def test_another_version_that_is_asked_for_is_left_alone(
    room: Rescored, exam: Exam, models: tuple[Model, Model]
) -> None:
    """Promoted away between the question and its turn: the next question will be of the one that runs."""
    revised = room.revised(views(exam))
    room.take(revised)
    room.again(revised, models[1])
    assert len(room.predictions) == 1


def test_going_back_answers_from_what_is_stored(
    room: Rescored, exam: Exam, models: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a forward pass and without an image: the old numbers count again, in place of the new ones."""
    revised = room.revised(views(exam))
    room.take(revised)
    room.serve(models[1])
    room.again(revised, models[1])
    room.serve(models[0])
    monkeypatch.setattr(Model, "forward", lambda *_: pytest.fail("a forward pass"))
    room.again(revised, models[0])
    room.again(revised, models[0])
    first, second, third = room.predictions
    assert (third.model.version, third.supersedes) == ("1.2.0", second.prediction_id)
    assert (third.score, third.probabilities) == (first.score, first.probabilities)
    assert third.prediction_id not in (first.prediction_id, second.prediction_id)
    assert room.effective == third.prediction_id


def test_a_version_that_prepares_alike_reads_no_image(
    room: Rescored, exam: Exam, models: tuple[Model, Model], store: Store
) -> None:
    """Another network, threshold or calibrator needs what was prepared, and nothing else."""
    revised = room.revised(views(exam))
    room.take(revised)
    for key in list(store.keys()):
        if key.endswith(".dcm"):
            store._store.delete(key)  # type: ignore[attr-defined]
    room.serve(models[1])
    room.again(revised, models[1])
    assert [p.outcome for p in room.predictions] == ["predicted", "predicted"]


def test_a_map_is_added_to_what_counts(
    room: Rescored, exam: Exam, models: tuple[Model, Model], own: Settings
) -> None:
    """The same numbers, superseding, with a pointer into the results store; a second time nothing."""
    revised = room.revised(views(exam))
    room.take(revised)
    room.results = open_results(own)
    for _ in range(2):
        room.again(revised, models[0], explain="occlusion")
    first, second = room.predictions
    assert (second.supersedes, second.score) == (first.prediction_id, first.score)
    [found] = second.maps
    assert (found.method, found.measurement) == ("occlusion", "probability_dense_breast")
    assert open_results(own).get(found.object)
