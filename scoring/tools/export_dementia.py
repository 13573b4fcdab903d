"""Builds the dementia package from what its authors published; deterministic, without torch.

1. Read the published tensors (`torch_tensors`): the network's, and those of the two nets that find the head.
2. Write the graphs: `network.onnx` (volume to COG and ADD), `head.onnx` (tissues), `affine.onnx` (to the template).
3. Resample the template once onto the network's grid.
4. Write the reliability tables of the card's calibrators, and refuse a card that has not the fitted numbers.
5. Write made-up examples with what the graphs give for them, and the digests of all of it.
6. Write the example head as a volume for the demo.

    python -m scoring.tools.export_dementia ../shared/data TEMPLATE.nii.gz scoring/models/dementia HEAD.npz

TEMPLATE is ICBM 2009a nonlinear symmetric, T1, skull-stripped. The card is written by hand and stays as it is.
"""

import csv
import shutil
import sys
from pathlib import Path
from typing import Final

import numpy as np

from scoring.arrays import write_arrays
from scoring.brain import TEMPLATE
from scoring.calibrate import apply, fit_platt, reliability, table_of
from scoring.card import Calibrator, Card, Graph, read_card
from scoring.package import CARD
from scoring.runtime import Session
from scoring.runtime import Tensors as Arrays
from scoring.space import resample
from scoring.tools.graphs import GraphBuilder, Tensors, seal
from scoring.tools.nifti import read_nifti
from scoring.tools.torch_tensors import read_tensors

DEMENTIA: Final = "model-dementia/checkpoint_dir/CNN_baseline_new_cross0"
HIPPODEEP: Final = "model-hippo/torchparams"

SCORES: Final = "model-dementia/calibration_scores.csv"

#: kernel and stride of the convolution, kernel of the pooling, of each block
BLOCKS: Final = ((7, 2, 3), (4, 1, 2), (3, 1, 2), (3, 1, 2))


def network(published: Path) -> bytes:
    """Return the graph from (N, 1, 182, 218, 182) float32 volumes to COG (N, 1) and ADD (N, 1)."""
    tensors: Tensors = read_tensors(published / DEMENTIA / "backbone_58.pth")
    for head in ("COG", "ADD"):
        own = read_tensors(published / DEMENTIA / f"{head}_58.pth")
        tensors |= {f"{head}.{name}": array for name, array in own.items()}
    build = GraphBuilder(tensors)
    x = "volume"
    for number, (kernel, stride, pool) in enumerate(BLOCKS, 1):
        assert tensors[f"block{number}.conv.weight"].shape[2:] == (kernel,) * 3
        x = build.convolution(x, f"block{number}.conv", stride)
        x = build.batch_norm(build.max_pool(x, pool, 2), f"block{number}.BN")
        x = build.node("LeakyRelu", x, alpha=0.01)  # (N, 160, 3, 4, 3) at last
    maps, features = x, build.node("Flatten", x, axis=1)  # (N, 5760)
    for head in ("COG", "ADD"):
        sums = build.linear(features, f"{head}.dense1.1")
        if head == "COG":
            add_grad_cam(build, maps, sums)
        hidden = build.node("LeakyRelu", sums, alpha=0.01)
        build.linear(hidden, f"{head}.dense2.2", name="cog" if head == "COG" else "add_logits")
    shares = build.node("Softmax", "add_logits", axis=1)  # (N, 2)
    one = build.constant("second_class", np.array([1], dtype=np.int64))
    build.node("Gather", shares, one, axis=1, name="add")  # (N, 1)
    volume = ("N", 1, 182, 218, 182)
    return build.model(
        "dementia", {"volume": volume}, {"cog": ("N", 1), "add": ("N", 1), "grad_cam": ("N", 3, 4, 3)}
    )


def add_grad_cam(build: GraphBuilder, maps: str, sums: str) -> None:
    """Add Grad-CAM of COG: its head is two layers, so that the gradient at the feature maps is a product of theirs.

    `maps` are (N, 160, 3, 4, 3), `sums` (N, 100) the first layer before its LeakyReLU.
    """
    zero, low, high = (
        build.constant(name, np.array(value, dtype=np.float32))
        for name, value in (("zero", 0), ("low_slope", 0.01), ("high_slope", 1))
    )
    slopes = build.node("Where", build.node("Greater", sums, zero), high, low)  # (N, 100)
    through = build.node("Mul", slopes, build.parameter("COG.dense2.2.weight"))  # (N, 100)
    gradient = build.node("MatMul", through, build.parameter("COG.dense1.1.weight"))  # (N, 5760)
    shape = build.constant("maps_shape", np.array([-1, 160, 3, 4, 3], dtype=np.int64))
    weights = build.node("GlobalAveragePool", build.node("Reshape", gradient, shape))  # (N, 160, 1, 1, 1)
    axes = build.constant("channels", np.array([1], dtype=np.int64))
    summed = build.node("ReduceSum", build.node("Mul", weights, maps), axes, keepdims=0)  # (N, 3, 4, 3)
    build.node("Relu", summed, name="grad_cam")


def head(published: Path) -> bytes:
    """Return the graph from (N, 1, 64, 64, 64) standardised heads to (N, 4, 64, 64, 64) probabilities."""
    build = GraphBuilder(read_tensors(published / HIPPODEEP / "params_head_00075_00000.pt"))

    def pair(x: str, first: str, second: str, norm: str, beside: str | None = None) -> str:
        x = build.node("Elu", build.convolution(x, first, padding=1))
        if beside is not None:
            x = build.node("Concat", x, beside, axis=1)
        return build.node("Elu", build.batch_norm(build.convolution(x, second, padding=1), norm))

    def doubled(x: str) -> str:
        scales = build.constant("doubled", np.array([1, 1, 2, 2, 2], dtype=np.float32))
        return build.node(
            "Resize",
            x,
            "",
            scales,
            mode="nearest",
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )

    down = [pair("head", "conv0a", "conv0b", "bn0a")]  # 64 voxels a side
    for level in (1, 2, 3):  # 32, 16, 8
        pooled = build.max_pool(down[-1], 2, 2)
        down.append(pair(pooled, f"conv{level}a", f"conv{level}b", f"bn{level}a"))
    x = down[3]
    for level in (2, 1, 0):
        x = pair(doubled(x), f"conv{level}u", f"conv{level}v", f"bn{level}u", down[level])
    build.node("Sigmoid", build.convolution(x, "conv1x"), name="tissues")
    cube = (64, 64, 64)
    return build.model("head", {"head": ("N", 1, *cube)}, {"tissues": ("N", 4, *cube)})


def affine(published: Path) -> bytes:
    """Return the graph from (N, 2, 64, 64, 64) tissues to (N, 12): what to add to the identity."""
    build = GraphBuilder(read_tensors(published / HIPPODEEP / "paramsaffineta_00079_00000.pt"))

    def normed(x: str, layer: str) -> str:
        parameters = (build.parameter(f"{layer}.weight"), build.parameter(f"{layer}.bias"))
        return build.node("Relu", build.node("LayerNormalization", x, *parameters, axis=-3, epsilon=1e-5))

    x = build.max_pool(build.node("Relu", build.convolution("tissues", "convaff1", padding=1)), 2, 2)
    for number in (2, 3, 4):
        convolved = build.convolution(x, f"convaff{number}", padding=1)
        x = build.max_pool(normed(convolved, f"bnaff{number}"), 2, 2)
    x = build.node("Relu", build.convolution(x, "convaff5"))
    build.node("Flatten", build.convolution(x, "convaff6"), axis=1, name="affine")
    return build.model("affine", {"tissues": ("N", 2, 64, 64, 64)}, {"affine": ("N", 12)})


def template(published: Path) -> bytes:
    """Return the template on the network's grid, as .npz with (182, 218, 182) uint8: z, y, x."""
    voxels = resample(read_nifti(published), TEMPLATE)
    return write_arrays({"template": np.rint(voxels).clip(0, 255).astype(np.uint8)})


def example(graph: Graph, data: bytes, seed: int) -> bytes:
    """Return a made-up input, blocks of one value each so that it stays small, and what the graph gives for it."""
    random, made = np.random.default_rng(seed), {}
    for name, shape in graph.inputs.items():
        coarse = random.random([-(-n // 16) for n in shape], dtype=np.float32)
        for axis, size in enumerate(shape):
            coarse = np.repeat(coarse, 16, axis)[(slice(None),) * axis + (slice(0, size),)]
        made[name] = coarse[np.newaxis]
    found: Arrays = Session(data, graph).forward(made)
    return write_arrays(made | {name: found[name] for name in graph.outputs})


def calibrated(scores: Path, column: str, positive: str) -> tuple[dict[str, float], str]:
    """Return the parameters fitted to all published scores that carry the label, and their reliability table."""
    rows = [row for row in csv.DictReader(scores.open()) if row[column]]
    x = np.array([float(row[f"{column}_score"]) for row in rows])
    true = np.array([row[column] == positive for row in rows])
    parameters = {name: round(value, 6) for name, value in fit_platt(x, true).items()}
    made = Calibrator(kind="platt", parameters=parameters, fitted_to="", table="")
    return parameters, table_of(reliability(apply(made, x), true))


def export(published: Path, icbm: Path, package: Path, demo: Path) -> None:
    """Write every file of the package but its card and licences, and the demo's head."""
    card: Card = read_card((package / CARD).read_bytes())
    (package / "example").mkdir(exist_ok=True)
    made = {"network": network(published), "head": head(published), "affine": affine(published)}
    for seed, graph in enumerate(card.graphs):
        (package / graph.file).write_bytes(made[graph.name])
        (package / graph.example).write_bytes(example(graph, made[graph.name], seed))
    (package / card.preparation.files["template"]).write_bytes(template(icbm))
    shutil.copyfile(published / "model-dementia/LICENSE", package / "LICENSE")
    add = next(m for m in card.measurements if m.name == "add")
    for calibrator, column, positive in ((card.calibrator, "COG", "2"), (add.calibrator, "ADD", "1.0")):
        assert calibrator is not None
        parameters, table = calibrated(published / SCORES, column, positive)
        if calibrator.parameters != parameters:
            sys.exit(f"{column}: expected {parameters} in the card, found {calibrator.parameters}")
        (package / calibrator.table).write_text(table)
    seal(package)
    volume = read_nifti(published / "model-hippo/example_brain_t1.nii.gz")
    lattice = volume.lattice
    placed = {"origin": lattice.origin, "spacing": lattice.spacing, "direction": lattice.direction}
    demo.write_bytes(write_arrays({"voxels": np.rint(volume.voxels).astype(np.int16), **placed}))


if __name__ == "__main__":
    export(*map(Path, sys.argv[1:5]))
