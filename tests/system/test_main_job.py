"""The main job, end to end: mammography exams pushed over the network come out as predictions on a topic."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from house import PACKAGE, House, eventually, exams, stored, study_of, write, write_exam

from infra.demo import VIEWS, Exam, Pixels, missing_view, repeated_view, spot_view
from infra.demo_reference import CLASSES, PUBLISHED, read_weights, reference

pytestmark = pytest.mark.stack

#: What the float32 graph and the float64 reference may differ by; and what the authors' figures may.
TOLERANCE, PUBLISHED_TOLERANCE = 1e-6, 0.004


class Patient(NamedTuple):
    """One patient's exam, its files by view, and the study's pseudonym."""

    exam: Exam
    files: dict[str, Path]
    study: str


class Seen(NamedTuple):
    """A house, and its patients."""

    house: House
    patients: list[Patient]


@pytest.fixture(scope="module")
def scored(house: House, images: Mapping[str, Pixels], tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Five patients' exams, sent; the last one lacks a view. All that have four are scored."""
    folder = tmp_path_factory.mktemp("exams")
    patients = []
    for exam in exams(images, "system", patients=5):
        sent = missing_view(exam) if exam.patient == 4 else exam
        files = write_exam(sent, folder / str(exam.patient))
        assert stored(house.send(files.values()))
        patients.append(Patient(exam, files, house.keys().pseudonymous_uid(study_of(exam))))
    for patient in patients[:4]:
        eventually(lambda patient=patient: house.predictions_of(patient.study), "prediction")
    return Seen(house, patients)


def distance(prediction: Mapping[str, Any], expected: Mapping[str, float]) -> float:
    """The largest difference of a class's probability."""
    assert set(prediction["probabilities"]) == set(expected)
    return max(abs(prediction["probabilities"][name] - value) for name, value in expected.items())


def independent(files: Mapping[str, Path]) -> dict[str, float]:
    """The reference on the pixels of these files."""
    return _independent(tuple(files.items()))


@cache
def _independent(files: tuple[tuple[str, Path], ...]) -> dict[str, float]:
    weights = read_weights(PACKAGE / "weights.npz")
    return reference({view: path.read_bytes() for view, path in files}, weights)


def test_each_study_has_one_prediction(scored: Seen) -> None:
    """Four exams of four views: one prediction each, preliminary, of revision 1, effective."""
    for patient in scored.patients[:4]:
        (prediction,) = scored.house.predictions_of(patient.study)
        assert (prediction["outcome"], prediction["status"]) == ("predicted", "preliminary")
        assert (prediction["revision"], prediction["supersedes"]) == (1, None)


@pytest.mark.parametrize("number", range(4))
def test_values_are_those_of_the_reference(scored: Seen, number: int) -> None:
    """Every prediction agrees with the independent reference on the sent pixels, and differs from the others."""
    patient = scored.patients[number]
    (prediction,) = scored.house.predictions_of(patient.study)
    assert distance(prediction, independent(patient.files)) <= TOLERANCE
    others = [independent(p.files) for p in scored.patients[:4] if p is not patient]
    assert all(distance(prediction, other) > 100 * TOLERANCE for other in others)


def test_the_original_exam_has_the_published_figures(scored: Seen) -> None:
    """The first patient's pixels are the published ones, and so is the result."""
    (prediction,) = scored.house.predictions_of(scored.patients[0].study)
    off = distance(prediction, dict(zip(CLASSES, PUBLISHED, strict=True)))
    print(f"differs from the published figures by {off:.2g}")
    assert off <= PUBLISHED_TOLERANCE


def test_inputs_are_named_by_view(scored: Seen) -> None:
    """A prediction names its four inputs by view, each the pseudonym of the image of that view."""
    for patient in scored.patients[:4]:
        (prediction,) = scored.house.predictions_of(patient.study)
        named = {one["name"]: one["sop_instance_uid"] for one in prediction["inputs"]}
        sent = {view: str(patient.exam.datasets[view].SOPInstanceUID) for view in VIEWS}
        assert named == {view: scored.house.keys().pseudonymous_uid(uid) for view, uid in sent.items()}


def test_a_second_sending_changes_nothing(scored: Seen) -> None:
    """An exam sent twice: four duplicates, no revision, no prediction."""
    house, patient = scored.house, scored.patients[0]
    before = house.balance()
    assert stored(house.send(patient.files.values()))
    assert house.gained(before) == {"acknowledged": 4, "duplicate": 4}
    assert house.revisions_of("default", patient.study) == [1]
    assert len(house.predictions_of(patient.study)) == 1


def test_a_spot_view_changes_no_prediction(scored: Seen, tmp_path: Path) -> None:
    """A spot compression makes revision 2, which has the first prediction's answer; nothing is published."""
    house, patient = scored.house, scored.patients[1]
    spot = write(spot_view(patient.exam), tmp_path / "spot.dcm")
    assert stored(house.send([spot]))
    eventually(lambda: house.run_of("default", patient.study, 2), "run of revision 2")
    assert house.run_of("default", patient.study, 2) == "predicted"
    assert len(house.predictions_of(patient.study)) == 1


def test_a_repeated_view_supersedes_once(scored: Seen, tmp_path: Path) -> None:
    """A repeated L-CC makes revision 2 and one prediction, of the new pixels, that supersedes the first."""
    house, patient = scored.house, scored.patients[2]
    again = write(repeated_view(patient.exam), tmp_path / "again.dcm")
    assert stored(house.send([again]))
    eventually(lambda: len(house.predictions_of(patient.study)) > 1, "second prediction")
    first, second = house.predictions_of(patient.study)
    assert (second["revision"], second["status"]) == (2, "amended")
    assert second["supersedes"] == first["prediction_id"]
    assert distance(second, independent({**patient.files, "L-CC": again})) <= TOLERANCE


def test_the_demo_holds(house: House) -> None:
    """`prodrome demo`, beside all this: every check of its own holds, and it ends with status 0."""
    assert house.prodrome("models", "promote", "dementia-t1@1.0.0").returncode == 0
    done = house.prodrome("demo")
    assert house.prodrome("models", "retire", "dementia-t1").returncode == 0
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗" not in done.stdout
    assert done.stdout.count("✓") >= 9
    assert "a T1 series of a head becomes one graded severity" in done.stdout


def test_an_incomplete_exam_is_said_once_then_completed(scored: Seen, tmp_path: Path) -> None:
    """Three views: `incomplete` once at the deadline, naming the view; the fourth brings what supersedes it."""
    house, patient = scored.house, scored.patients[4]
    eventually(lambda: house.predictions_of(patient.study), "word of the missing view")
    (said,) = house.predictions_of(patient.study)
    assert (said["outcome"], said["score"], said["reason"]) == ("incomplete", None, "missing:R-MLO")
    fourth = write(patient.exam.datasets["R-MLO"], tmp_path / "R-MLO.dcm")
    assert stored(house.send([fourth]))
    eventually(lambda: len(house.predictions_of(patient.study)) > 1, "prediction")
    _, prediction = house.predictions_of(patient.study)
    assert prediction["supersedes"] == said["prediction_id"]
    assert distance(prediction, independent({**patient.files, "R-MLO": fourth})) <= TOLERANCE


def test_every_closed_revision_has_an_answer(scored: Seen) -> None:
    """Promise P4: per closed revision with mammograms, one of five words, and `status` counts the same."""
    house = scored.house
    revised = [json.loads(message.value) for message in house.topic("study.revised.v1")]
    wanted = {
        (r["project"], r["study_instance_uid"], r["revision"])
        for r in revised
        if "MG" in r["modalities"] and "identity_conflict" not in r.get("flags", ())
    }
    model = "breast-density-histogram"
    runs = house.clean.run("SELECT project, study, revision, model FROM model_runs")
    assert {(r.project, r.study, r.revision) for r in runs if r.model == model} == wanted
    (counted,) = [
        n for name, n in house.json("status", "--json")["predictions"].items() if name.startswith(model)
    ]
    assert sum(counted.values()) == len(wanted)
    assert set(counted) <= {"predicted", "incomplete", "out_of_domain", "failed", "waiting"}
