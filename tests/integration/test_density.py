"""A density exam from DICOM bytes to four probabilities, against the authors and a second implementation."""

import copy

import numpy as np
import pydicom
import pytest

from infra import demo_reference
from infra.demo import Exam, make_exams, read_images, repeated_view, spot_view, to_bytes
from scoring.intake import Instance
from scoring.outcomes import Failed, OutOfDomain, Scores
from scoring.score import MODELS, Model, Preparer, load, load_preparer

DENSITY = MODELS / "density"


@pytest.fixture(scope="module")
def exams() -> list[Exam]:
    """The demo's two exams."""
    return make_exams(read_images(DENSITY / "example"))


@pytest.fixture(scope="module")
def density() -> tuple[Model, Preparer]:
    """The loaded model, both halves."""
    return load(DENSITY), load_preparer(DENSITY)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    """The published tensors, for the reference."""
    return demo_reference.read_weights(DENSITY / "weights.npz")


def instance_of(dataset: pydicom.Dataset) -> Instance:
    modifiers = dataset.ViewCodeSequence[0].ViewModifierCodeSequence
    return Instance(
        sop_instance_uid=dataset.SOPInstanceUID,
        series_instance_uid=dataset.SeriesInstanceUID,
        sop_class_uid=dataset.SOPClassUID,
        transfer_syntax_uid=dataset.file_meta.TransferSyntaxUID,
        content_key=dataset.SOPInstanceUID,
        pixel_key=dataset.SOPInstanceUID,
        modality=dataset.Modality,
        rows=dataset.Rows,
        columns=dataset.Columns,
        bits_allocated=dataset.BitsAllocated,
        photometric_interpretation=dataset.PhotometricInterpretation,
        view_position=dataset.ViewPosition,
        image_laterality=dataset.ImageLaterality,
        view_modifiers=tuple(item.CodeMeaning for item in modifiers),
        acquisition_rank=int(dataset.AcquisitionTime[:6]),
    )


def score(density: tuple[Model, Preparer], datasets: list[pydicom.Dataset]) -> Scores | OutOfDomain | Failed:
    model, preparer = density
    files = {str(dataset.SOPInstanceUID): to_bytes(dataset) for dataset in datasets}
    selected = model.select([instance_of(dataset) for dataset in datasets])
    prepared = preparer.prepare(selected, lambda instance: files[instance.sop_instance_uid])
    return prepared if isinstance(prepared, OutOfDomain | Failed) else model.forward([prepared])[0]


def changed(dataset: pydicom.Dataset, pixels: np.ndarray, **changes: object) -> pydicom.Dataset:
    other = copy.deepcopy(dataset)
    other.PixelData = pixels.tobytes()
    other.Rows, other.Columns = pixels.shape
    for keyword, value in changes.items():
        setattr(other, keyword, value)
    return other


def test_the_published_exam_has_the_published_probabilities(density, exams):
    """Within 0.004 of what the authors print, and the same class.

    Source of the figures: README.md of github.com/nyukat/breast_density_classifier, section "How to run
    the code", histogram model; the same numbers stand in its test_inference.py.
    """
    result = score(density, list(exams[0].datasets.values()))
    found = list(result.probabilities.values())
    assert np.abs(np.subtract(found, (0.08194443, 0.7830397, 0.13350312, 0.0015126525))).max() < 0.004
    assert result.category == "scattered"


@pytest.mark.parametrize("patient", [0, 1])
@pytest.mark.parametrize("repeat", [False, True])
def test_every_exam_agrees_with_the_reference(density, exams, weights, patient, repeat):
    """Within 1e-6 of a second implementation, on the bytes that are sent."""
    datasets = dict(exams[patient].datasets)
    if repeat:
        datasets["L-CC"] = repeated_view(exams[patient], "L-CC")
    expected = demo_reference.reference({view: to_bytes(d) for view, d in datasets.items()}, weights)
    found = score(density, list(datasets.values())).probabilities
    assert list(found) == list(expected)
    assert max(abs(found[name] - expected[name]) for name in expected) < 1e-6


def test_mixed_patients_would_show(density, exams):
    """One view of the other patient moves the prediction far beyond any rounding."""
    own, other = (exam.datasets for exam in exams)
    alone = score(density, list(own.values())).probabilities
    for view in own:
        mixed = score(density, list((own | {view: other[view]}).values())).probabilities
        assert max(abs(mixed[name] - alone[name]) for name in alone) > 0.01


def test_a_spot_view_changes_nothing_and_a_repeat_does(density, exams):
    """The same result to the last bit with a spot view, another with a repeated L-CC."""
    datasets = list(exams[0].datasets.values())
    before = score(density, datasets)
    assert score(density, [*datasets, spot_view(exams[0])]) == before
    after = score(density, [*datasets, repeated_view(exams[0], "L-CC")])
    assert after.set_id != before.set_id
    assert after.category == "heterogeneously_dense"


def test_monochrome1_gives_the_same_prediction(density, exams):
    """The same exam stored inverted and labelled so is the same exam."""
    datasets = list(exams[0].datasets.values())
    inverted = [changed(d, 255 - d.pixel_array, PhotometricInterpretation="MONOCHROME1") for d in datasets]
    assert score(density, inverted).probabilities == score(density, datasets).probabilities


def test_spoilt_pixels_end_as_failed(density, exams):
    """An object that ends early is `failed` with word and view, and not a crash."""
    datasets = dict(exams[0].datasets)
    spoilt = changed(datasets["L-MLO"], datasets["L-MLO"].pixel_array)
    spoilt.PixelData = spoilt.PixelData[:1000]
    result = score(density, list((datasets | {"L-MLO": spoilt}).values()))
    assert isinstance(result, Failed)
    assert result.reason == "undecodable:L-MLO"


def test_scoring_twice_gives_the_same(density, exams):
    """A replay agrees with the first run: key and result are equal."""
    datasets = list(exams[0].datasets.values())
    model, _ = density
    chosen = [model.select([instance_of(d) for d in order]) for order in (datasets, datasets[::-1])]
    assert model.key(chosen[0]) == model.key(chosen[1])
    assert score(density, datasets) == score(density, datasets[::-1])
