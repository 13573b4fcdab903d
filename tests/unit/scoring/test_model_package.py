"""A package is loaded only if it is exactly what its digests and its card say."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from scoring.arrays import ArraysRefused, read_arrays, write_arrays
from scoring.card import CardInvalid, read_card
from scoring.graph import GraphRefused, check_graph
from scoring.package import CARD, DIGESTS, PackageRefused, digests_of, package_digest, read_package
from scoring.runtime import WarmUpFailed
from scoring.score import load

OPERATORS = ("Gemm", "Relu", "Softmax")
OPSET = 17


@pytest.fixture
def copy(package: Path, tmp_path: Path) -> Path:
    """A package of our own, to be spoilt."""
    target = tmp_path / "density"
    shutil.copytree(package, target, ignore=shutil.ignore_patterns("*.png", DIGESTS))
    seal(target)
    return target


def seal(path: Path) -> None:
    (path / DIGESTS).write_text(json.dumps(digests_of(path)))


def change_card(path: Path, old: str, new: str) -> None:
    """Write other words into the card; what they replace must be there."""
    text = (path / CARD).read_text()
    assert old in text, old
    (path / CARD).write_text(text.replace(old, new))
    seal(path)


def graph_with(node: onnx.NodeProto, *initializers: onnx.TensorProto, opsets=(("", 17),)) -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])],
        list(initializers),
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid(*o) for o in opsets]
    ).SerializeToString()


def outside(name: str = "../secret") -> onnx.TensorProto:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], np.zeros(1, np.float32))
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=name)
    return tensor


def test_the_shipped_package_loads(package):
    """The package's digests hold, and its digest is the same on every machine."""
    found = read_package(package)
    assert found.digest == package_digest(json.loads((package / DIGESTS).read_text()))
    assert found.card.id == "breast-density-histogram"


@pytest.mark.parametrize(
    "name", ["card.toml", "model.onnx", "LICENSE", "weights.npz", "example/histograms.npz"]
)
def test_a_changed_byte_in_any_file_is_refused(copy, name):
    """One byte more anywhere, and the package is not loaded."""
    (copy / name).write_bytes((copy / name).read_bytes() + b" ")
    with pytest.raises(PackageRefused, match=f"{name}: expected SHA-256"):
        load(copy)


def test_a_pinned_digest_is_kept(copy):
    """A package that is whole but another than the settings pin is refused."""
    digest = read_package(copy).digest
    assert load(copy, expected_digest=digest).package.digest == digest
    change_card(copy, 'version = "1.2.0"', 'version = "1.2.1"')
    with pytest.raises(PackageRefused, match=f"expected package digest {digest}"):
        load(copy, expected_digest=digest)


def test_an_unlisted_or_missing_file_is_refused(copy):
    """What is not in the list does not ride along, and what is in it must be there."""
    (copy / "extra.so").write_bytes(b"")
    with pytest.raises(PackageRefused, match=r"unlisted \['extra.so'\]"):
        load(copy)
    (copy / "extra.so").unlink()
    (copy / "LICENSE").unlink()
    with pytest.raises(PackageRefused, match=r"missing \['LICENSE'\]"):
        load(copy)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../other/model.onnx", "a/../../b", "a\\b", "./card.toml", ""]
)
def test_paths_that_leave_the_package_are_refused(copy, name):
    """A listed path is relative, plain and inside."""
    digests = json.loads((copy / DIGESTS).read_text()) | {name: "0" * 64}
    (copy / DIGESTS).write_text(json.dumps(digests))
    with pytest.raises(PackageRefused, match="expected paths inside the package"):
        load(copy)


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_links_are_refused(copy, tmp_path, make):
    """A symbolic or hard link in place of the graph is refused, even with the right bytes behind it."""
    shutil.move(copy / "model.onnx", tmp_path / "elsewhere.onnx")
    make(tmp_path / "elsewhere.onnx", copy / "model.onnx")
    with pytest.raises(PackageRefused, match="link"):
        load(copy)


def test_a_linked_folder_is_refused(copy, tmp_path):
    """A folder that is a link is refused."""
    shutil.move(copy / "example", tmp_path / "elsewhere")
    (copy / "example").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PackageRefused, match="link"):
        load(copy)


def test_a_pipe_is_refused_and_not_waited_for(copy):
    """A pipe in place of the graph neither blocks nor passes."""
    (copy / "model.onnx").unlink()
    os.mkfifo(copy / "model.onnx")
    with pytest.raises(PackageRefused, match="plain file"):
        load(copy)


@pytest.mark.parametrize("text", ["", "[]", '{"card.toml": 1}', "{}"])
def test_a_broken_list_of_digests_is_refused(copy, text):
    """Digests that cannot be read or name no card are refused."""
    (copy / DIGESTS).write_text(text)
    with pytest.raises(PackageRefused, match="expected"):
        load(copy)


def test_external_data_is_refused():
    """Weights outside of the graph are refused, at the top and nested in an attribute."""
    relu = helper.make_node("Relu", ["x"], ["y"])
    nested = helper.make_node("Relu", ["x"], ["y"], value=outside("/etc/passwd"))
    for graph in (graph_with(relu, outside()), graph_with(nested)):
        with pytest.raises(GraphRefused, match=r"external_data|data_location"):
            check_graph(graph, OPERATORS, OPSET)


def test_custom_domains_and_undeclared_operators_are_refused():
    """Only the standard domain, and only the operators that the card declares."""
    custom = helper.make_node("Relu", ["x"], ["y"], domain="evil")
    with pytest.raises(GraphRefused, match="standard ONNX domain"):
        check_graph(graph_with(custom, opsets=(("", 17), ("evil", 1))), OPERATORS, OPSET)
    with pytest.raises(GraphRefused, match="expected operators"):
        check_graph(graph_with(helper.make_node("Loop", ["x"], ["y"])), OPERATORS, OPSET)


def test_an_operator_in_a_nested_graph_is_found():
    """A graph inside an attribute is walked too."""
    inner = onnx.load_from_string(graph_with(helper.make_node("Loop", ["x"], ["y"]))).graph
    hidden = helper.make_node("Relu", ["x"], ["y"], body=inner)
    with pytest.raises(GraphRefused, match="Loop"):
        check_graph(graph_with(hidden), OPERATORS, OPSET)


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_a_cut_graph_is_refused(package, cut):
    """Bytes that end early, or that are none, are no graph."""
    with pytest.raises(GraphRefused, match="expected"):
        check_graph((package / "model.onnx").read_bytes()[:cut], OPERATORS, OPSET)


def test_a_graph_that_the_runtime_refuses_is_refused(copy):
    """Digests and operators may hold, and the graph still be none."""
    (copy / "model.onnx").write_bytes(graph_with(helper.make_node("Gemm", ["x"], ["y"])))
    seal(copy)
    with pytest.raises(GraphRefused, match="ONNX Runtime"):
        load(copy)


def test_another_output_for_the_declared_example_is_refused(copy):
    """The warm-up compares: a graph with other weights is not the declared model."""
    path = copy / "example/histograms.npz"
    example = read_arrays(path.read_bytes())
    example["probabilities"][0, 0] += 0.01
    path.write_bytes(write_arrays(example))
    seal(copy)
    with pytest.raises(WarmUpFailed, match="declared example"):
        load(copy)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            '"L-CC", "R-CC", "L-MLO"',
            '"L-CC", "L-CC", "L-MLO"',
            "intake.names: expected at least one, each once",
        ),
        ('name = "scattered"', 'name = "extremely_dense"', "classes: expected at least two, each once"),
        ("Not for diagnosis", "Fit for everything", "not for diagnosis"),
        ("prodrome.model/2", "prodrome.model/9", r"Invalid enum value 'prodrome.model/9'.*\$.format"),
        ("\n[input]", "misspelt = 1\n[input]", "unknown field `misspelt`"),
        ("range = [0.25, 0.7]", "range = [0.7, 0.25]", "lowest <= highest"),
        (
            'classes = ["heterogeneously_dense"',
            'classes = ["none_of_them"',
            "score: expected some of the classes",
        ),
        ('name = "network"', 'name = "other"', "graphs: expected one 'network'"),
        ('tensor = "probabilities"', 'tensor = "logits"', "expected tensors of the network"),
        ("histograms = [200]", "histograms = [0]", "positive numbers"),
        ('body_part = "BREAST"', "", "missing required field `body_part`"),
        ("[score]", "[score", "card.toml"),
        (
            'version = "2"',
            'version = "3"',
            r"preparation: expected one of .* found \('view-histograms', '3'\)",
        ),
        ("bins = 50, ", "", r"preparation.parameters: expected \['bins', 'dark_below'\], found"),
    ],
)
def test_a_card_that_says_wrong_things_is_refused(copy, old, new, expected):
    """The error names the field, what was expected and what came."""
    change_card(copy, old, new)
    with pytest.raises(CardInvalid, match=expected):
        load(copy)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("histograms = [200]", "histograms = [199]"),
        ("inputs = { histograms", "inputs = { pictures"),
        ("outputs = { probabilities = [4] }", "outputs = { probabilities = [4], more = [1] }"),
    ],
)
def test_a_graph_with_other_tensors_than_declared_is_refused(copy, old, new):
    """Names and shapes of inputs and outputs are those of the card."""
    change_card(copy, old, new)
    with pytest.raises(GraphRefused, match="network: expected the"):
        load(copy)


def test_another_version_of_the_operators_is_refused(copy):
    """What an operator does depends on its version: the card says which one."""
    change_card(copy, "opset = 17", "opset = 18")
    with pytest.raises(GraphRefused, match="expected operators of version 18, found version 17"):
        load(copy)


@pytest.mark.parametrize("name", ["weights.pkl", "model.pt", "code.py", "lib.so", "data.zip"])
def test_files_that_could_run_when_they_are_opened_are_refused(copy, name):
    """A package holds data of a few kinds, and nothing else, however harmless."""
    (copy / name).write_bytes(b"")
    seal(copy)
    with pytest.raises(PackageRefused, match="expected files of the kinds"):
        load(copy)


def test_a_pickle_in_an_npz_is_refused(copy):
    """Arrays of objects are pickles: they are refused, and do not run."""
    hidden = io.BytesIO()
    np.savez(hidden, histograms=np.array([{"a": 1}], dtype=object), probabilities=np.zeros((1, 4)))
    (copy / "example/histograms.npz").write_bytes(hidden.getvalue())
    seal(copy)
    with pytest.raises(ArraysRefused, match="expected arrays in an"):
        load(copy)


def test_the_parameter_digest_moves_with_each_parameter(package):
    """Another bin count, range or threshold is another parameter digest."""
    text = (package / CARD).read_text()
    others = [
        text.replace("bins = 50", "bins = 51"),
        text.replace("range = [0.0, 0.05]", "range = [0.0, 0.06]"),
        text.replace("value = 0.5", "value = 0.6"),
    ]
    digests = {read_card(card.encode()).parameter_digest for card in [text, *others]}
    assert len(digests) == 4
