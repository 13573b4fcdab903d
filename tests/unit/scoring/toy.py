"""Toy packages: a linear model whose numbers can be worked out by hand, and what it takes to load them."""

import json
from pathlib import Path

import numpy as np

from scoring.arrays import write_arrays
from scoring.package import CARD, DIGESTS, digests_of
from scoring.tools.graphs import GraphBuilder

CARD_TEXT = """
format = "prodrome.model/2"
id = "toy-linear"
version = "{version}"
title = "A linear model"
task = "none"
body_part = "BREAST"
intended_use = "Tests."
disclaimer = "Not for diagnosis."
limits = "A toy."
changes = "Made up."
references = []
checks_fitted_to = "Nothing."
checks = []
thresholds = []
occlusion = {occlusion}
{more}
[input]
modality = "MG"
sop_classes = ["1.2.840.10008.5.1.4.1.1.1.2"]
bits_allocated = [8, 16]
photometric = ["MONOCHROME1", "MONOCHROME2"]
[intake]
kind = "views"
names = ["L-CC"]
presentation_intent = "FOR PRESENTATION"
frames = 1
rows = [1, 10000]
columns = [1, 10000]
without_view_modifier = true
without_partial_view = true
of_several = "latest_acquisition"
[preparation]
name = "view-histograms"
version = "2"
parameters = {{ bins = {width}, dark_below = 0.02 }}
[[graphs]]
name = "network"
file = "model.onnx"
opset = 17
inputs = {{ x = {shape} }}
outputs = {{ y = [1] }}
operators = {operators}
example = "example.npz"
[[measurements]]
name = "y"
title = "The sum"
tensor = "y"
unit = "1"
text = "A weighted sum."
{measurement}
[score]
meaning = "{meaning}"
text = "The sum as a probability."
measurement = "y"
[calibrator]
kind = "platt"
parameters = {{ a = 1.0, b = 0.0 }}
fitted_to = "Nothing."
table = "table.csv"
[[licences]]
of = "all"
spdx = "Apache-2.0"
file = "LICENSE"
holder = "nobody"
"""


def write_package(
    folder: Path,
    weights: np.ndarray,
    version: str = "1.0.0",
    meaning: str = "toy",
    more: str = "",
    measurement: str = "",
    occlusion: int = 1,
) -> Path:
    """Write a package whose measurement is the sum of the input times `weights`, (1, ...) float32."""
    folder.mkdir(parents=True)
    shape = weights.shape[1:]
    build = GraphBuilder({"sum.weight": weights.reshape(1, -1), "sum.bias": np.zeros(1, np.float32)})
    operators = ["Gemm"]
    x = "x"
    if len(shape) > 1:
        x, operators = build.node("Flatten", "x", axis=1), ["Flatten", "Gemm"]
    build.linear(x, "sum", name="y")
    (folder / "model.onnx").write_bytes(build.model("toy", {"x": ("N", *shape)}, {"y": ("N", 1)}))
    (folder / CARD).write_text(
        CARD_TEXT.format(
            version=version,
            meaning=meaning,
            more=more,
            measurement=measurement,
            occlusion=occlusion,
            width=weights.size,
            shape=json.dumps(list(shape)),
            operators=json.dumps(operators),
        )
    )
    zeros = {"x": np.zeros((1, *shape), np.float32), "y": np.zeros((1, 1), np.float32)}
    (folder / "example.npz").write_bytes(write_arrays(zeros))
    (folder / "table.csv").write_text("")
    (folder / "LICENSE").write_text("")
    seal(folder)
    return folder


def look_at_single_images(folder: Path, model: str) -> None:
    """Make the package of a histogram another model's, which looks at images of up to 64 x 64, three a study."""
    text = (folder / CARD).read_text()
    begin, end = text.index('kind = "views"'), text.index("[preparation]")
    intake = 'kind = "images"\nname = "view"\nrows = [1, 64]\ncolumns = [1, 64]\nmost = 3\nof_study = "highest_score"\n'
    text = text[:begin] + intake + text[end:]
    text = text.replace('name = "view-histograms"', 'name = "image-histograms"').replace(
        ", dark_below = 0.02", ""
    )
    (folder / CARD).write_text(text.replace("toy-linear", model))
    seal(folder)


def seal(folder: Path) -> None:
    """Write the digests anew."""
    (folder / DIGESTS).write_text(json.dumps(digests_of(folder)))
