"""Builds the breast density package from what its authors published; deterministic, without torch.

1. Read the published tensors (`torch_tensors`).
2. Write the graph: Gemm 200-100, Relu, Gemm 100-4, Softmax; and the bare weights for the reference.
3. Copy the licence and the example exam, byte for byte.
4. Run the example and write its declared input and output.
5. Write the digests of all of it.

    python -m scoring.tools.export_density ../shared/data/model-density scoring/models/density

The card is written by hand and stays as it is. Run it again after a change of the card: the digests move.
"""

import shutil
import sys
from pathlib import Path
from typing import Final

import numpy as np

from scoring.arrays import write_arrays
from scoring.card import Card, Views, read_card
from scoring.package import CARD
from scoring.prepare import view_histograms
from scoring.runtime import Session
from scoring.tools.graphs import GraphBuilder, Tensors, seal
from scoring.tools.torch_tensors import read_tensors

STATE: Final = "saved_models/BreastDensity_BaselineHistogramModel/model.p"


def build_graph(tensors: Tensors) -> bytes:
    """Return the serialised graph: (N, 200) float32 histograms to (N, 4) float32 probabilities."""
    build = GraphBuilder(tensors)
    hidden = build.node("Relu", build.linear("histograms", "fc1"))  # (N, 100)
    build.node("Softmax", build.linear(hidden, "fc2"), name="probabilities", axis=1)
    return build.model("breast-density-histogram", {"histograms": ("N", 200)}, {"probabilities": ("N", 4)})


def declared_example(card: Card, graph: bytes, images: Path) -> bytes:
    """Return the example's input and the graph's output for it."""
    from PIL import Image

    assert isinstance(card.intake, Views)
    views = [
        np.asarray(Image.open(images / f"{view}.png")) for view in card.intake.names
    ]  # (2600, 2000) uint8
    bins = int(card.preparation.parameters["bins"])
    example = {"histograms": view_histograms(views, bins)[np.newaxis]}  # (1, 200) float32
    return write_arrays(example | Session(graph, card.network).forward(example))


def export(published: Path, package: Path) -> None:
    """Write every file of the package but its card."""
    tensors = read_tensors(published / STATE)
    card = read_card((package / CARD).read_bytes())
    (package / "example").mkdir(exist_ok=True)
    graph = build_graph(tensors)
    (package / card.network.file).write_bytes(graph)
    (package / "weights.npz").write_bytes(write_arrays(tensors))
    [licence] = card.licences
    shutil.copyfile(published / "LICENSE", package / licence.file)
    assert isinstance(card.intake, Views)
    for view in card.intake.names:
        shutil.copyfile(published / "images" / f"{view}.png", package / "example" / f"{view}.png")
    (package / card.network.example).write_bytes(declared_example(card, graph, package / "example"))
    seal(package)


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
