"""Maps of a linear model are its weights times its input, to the last bit that float32 has."""

from pathlib import Path

import numpy as np
import pytest
from toy import write_package

from scoring.explain import NoMap, explain
from scoring.outcomes import Prepared
from scoring.score import Model, load


@pytest.fixture
def weights() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (1, 1, 6, 8, 4)).astype(np.float32)


@pytest.fixture
def model(tmp_path: Path, weights: np.ndarray) -> Model:
    return load(write_package(tmp_path / "toy", weights, occlusion=2))


@pytest.fixture
def exam() -> Prepared:
    features = np.random.default_rng(1).random((1, 6, 8, 4), dtype=np.float32)
    features[:, :2, :2, :2] = 0  # a block that is blank already
    place = np.diag([2.0, 3.0, 4.0, 1.0])
    place[:3, 3] = (10, 20, 30)
    return Prepared(set_id="s", features=features, to_source=place)


def test_occlusion_of_a_linear_model_is_its_own_sum(
    model: Model, weights: np.ndarray, exam: Prepared
) -> None:
    """What a block gives to the sum is what the sum falls by without it."""
    found = explain(model.card, model.session.forward, exam, "occlusion")
    own = (weights[0] * exam.features)[0]  # (6, 8, 4)
    expected = own.reshape(3, 2, 4, 2, 2, 2).sum(axis=(1, 3, 5))
    assert found.cells.shape == (3, 4, 2)
    assert found.cells == pytest.approx(expected, abs=1e-5)
    assert found.measurement == "y"
    assert found.cells.sum() == pytest.approx(own.sum(), abs=1e-4)


def test_cells_lie_where_their_voxels_lie(model: Model, exam: Prepared) -> None:
    """The middle of the first block of two voxels a side is at half a voxel."""
    found = explain(model.card, model.session.forward, exam, "occlusion")
    assert found.to_source is not None
    assert found.to_source @ [0, 0, 0, 1] == pytest.approx(exam.to_source @ [0.5, 0.5, 0.5, 1])
    assert found.to_source @ [2, 3, 1, 1] == pytest.approx(exam.to_source @ [4.5, 6.5, 2.5, 1])


def test_a_method_that_a_graph_has_not_is_refused(model: Model, exam: Prepared) -> None:
    """Grad-CAM needs an output of the graph; other words are no methods."""
    with pytest.raises(NoMap, match="gives no grad_cam"):
        explain(model.card, model.session.forward, exam, "grad_cam")
    with pytest.raises(NoMap, match="expected one of"):
        explain(model.card, model.session.forward, exam, "guess")


def test_flat_inputs_are_explained_too(tmp_path: Path) -> None:
    """A model of a list of features has a map of one axis, without a place."""
    weights = np.arange(1, 6, dtype=np.float32).reshape(1, 5)
    model = load(write_package(tmp_path / "flat", weights))
    exam = Prepared(set_id="s", features=np.ones(5, np.float32))
    found = explain(model.card, model.session.forward, exam, "occlusion")
    assert found.cells.tolist() == [1, 2, 3, 4, 5]
    assert found.to_source is None
