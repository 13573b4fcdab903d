"""Builds the breast density package from what its authors published; deterministic, without torch.

1. Read the published tensors (`torch_tensors`).
2. Write the graph: Gemm 200-100, Relu, Gemm 100-4, Softmax; and the bare weights for the reference.
3. Copy the licence and the example exam, byte for byte.
4. Run the example and write its declared input and output.
5. Write the digests of all of it.

    python -m scoring.tools.export_density ../shared/data/model-density scoring/models/density

The card is written by hand and stays as it is. Run it again after a change of the card: the digests move.
"""

import io
import json
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scoring.card import Card, read_card
from scoring.package import DIGESTS, digests_of
from scoring.prepare import view_histograms
from scoring.runtime import Session
from scoring.tools.torch_tensors import read_tensors

STATE: Final = "saved_models/BreastDensity_BaselineHistogramModel/model.p"
OPSET: Final = 17
IR_VERSION: Final = 8  # what opset 17 came with; older runtimes read it too

Tensors = dict[str, NDArray[np.float32]]


def build_graph(tensors: Tensors) -> bytes:
    """Return the serialised graph: (N, 200) float32 histograms to (N, 4) float32 probabilities."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Gemm", ["histograms", "fc1.weight", "fc1.bias"], ["hidden"], transB=1),  # (N, 100)
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "fc2.weight", "fc2.bias"], ["logits"], transB=1),  # (N, 4)
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "breast-density-histogram",
        [helper.make_tensor_value_info("histograms", TensorProto.FLOAT, ["N", 200])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(tensors[name], name) for name in sorted(tensors)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "prodrome"
    return bytes(model.SerializeToString(deterministic=True))


def bare_weights(tensors: Tensors) -> bytes:
    """Return the tensors as .npz bytes with fixed times, so that the same tensors give the same bytes."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        for name in sorted(tensors):
            array = io.BytesIO()
            np.save(array, tensors[name], allow_pickle=False)
            target.writestr(zipfile.ZipInfo(f"{name}.npy"), array.getvalue())
    return archive.getvalue()


def declared_example(card: Card, graph: bytes, images: Path) -> bytes:
    """Return the example's input and the graph's output for it, as JSON."""
    from PIL import Image

    views = [np.asarray(Image.open(images / f"{view}.png")) for view in card.views]  # (2600, 2000) uint8
    features = view_histograms(views, card.preparation.parameters)[np.newaxis]  # (1, 200) float32
    output = Session(graph, card.graph, len(card.classes)).forward(features)  # (1, 4) float32
    rounded = {"input": features.astype(float).tolist(), "output": output.astype(float).round(6).tolist()}
    return (json.dumps(rounded, separators=(",", ":")) + "\n").encode()


def export(published: Path, package: Path) -> None:
    """Write every file of the package but its card."""
    tensors = read_tensors(published / STATE)
    card = read_card((package / "card.json").read_bytes())
    (package / "example").mkdir(exist_ok=True)
    graph = build_graph(tensors)
    (package / card.graph.file).write_bytes(graph)
    (package / "weights.npz").write_bytes(bare_weights(tensors))
    shutil.copyfile(published / "LICENSE", package / card.licence.file)
    for view in card.views:
        shutil.copyfile(published / "images" / f"{view}.png", package / "example" / f"{view}.png")
    (package / card.graph.example).write_bytes(declared_example(card, graph, package / "example"))
    digests = digests_of(package)
    (package / DIGESTS).write_text(json.dumps(digests, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
