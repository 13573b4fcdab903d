"""The shipped package is what its authors published: rebuilt, byte for byte."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from infra.demo_reference import read_weights
from scoring.arrays import write_arrays
from scoring.tools.export_density import STATE, build_graph
from scoring.tools.torch_tensors import read_tensors


def test_the_graph_is_rebuilt_to_the_same_bytes(package, published):
    """Published tensors in, shipped graph and weights out."""
    tensors = read_tensors(published / STATE)
    assert build_graph(tensors) == (package / "model.onnx").read_bytes()
    assert write_arrays(tensors) == (package / "weights.npz").read_bytes()


@pytest.mark.parametrize("name", ["L-CC.png", "R-CC.png", "L-MLO.png", "R-MLO.png"])
def test_the_example_images_are_the_published_files(package, published, name):
    """The images ship unchanged."""
    shipped, original = (package / "example" / name, published / "images" / name)
    assert hashlib.sha256(shipped.read_bytes()).digest() == hashlib.sha256(original.read_bytes()).digest()


def test_graph_and_reference_hold_the_same_weights(package):
    """The reference's weights and the graph's initialisers are equal, number by number."""
    graph = onnx.load(package / "model.onnx").graph
    weights = read_weights(package / "weights.npz")
    assert {t.name for t in graph.initializer} == set(weights)
    assert all(np.array_equal(numpy_helper.to_array(t), weights[t.name]) for t in graph.initializer)


def test_onnx_s_own_checker_accepts_the_graph(package):
    """The graph is valid ONNX."""
    onnx.checker.check_model(onnx.load(package / "model.onnx"), full_check=True)


def test_a_pickle_that_names_anything_else_is_refused(tmp_path: Path):
    """The reader of torch files resolves tensors only: other code does not run."""
    marker = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):
            return Path.touch, (marker,)

    (tmp_path / "model.p").write_bytes(pickle.dumps(Hostile(), protocol=2))
    with pytest.raises(pickle.UnpicklingError, match="expected tensors only"):
        read_tensors(tmp_path / "model.p")
    assert not marker.exists()


def test_a_cut_or_longer_torch_file_is_refused(tmp_path: Path, published):
    """Storages must end where the file ends."""
    data = (published / STATE).read_bytes()
    for name, other in (("cut", data[:-4]), ("longer", data + b"\0")):
        (tmp_path / name).write_bytes(other)
        with pytest.raises((pickle.UnpicklingError, ValueError)):
            read_tensors(tmp_path / name)
