"""Every shipped graph gives what torch gives with the published weights: to 1e-5, on made-up inputs and gradients too.

Needs torch (the extra `parity`, five gigabytes) and the published files; skipped with the reason where either is not.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scoring.score import MODELS, load

torch = pytest.importorskip("torch", reason="needs torch: pip install 'prodrome[parity]'")
SHARED = Path(__file__).parents[4] / "shared" / "data"
DEMENTIA = SHARED / "model-dementia" / "checkpoint_dir" / "CNN_baseline_new_cross0"
HIPPODEEP = SHARED / "model-hippo" / "torchparams"
DENSITY = SHARED / "model-density" / "saved_models" / "BreastDensity_BaselineHistogramModel" / "model.p"

pytestmark = pytest.mark.skipif(not DEMENTIA.is_dir(), reason=f"needs {SHARED}, which is not on this machine")


def published(path: Path) -> "OrderedDict[str, Any]":
    return torch.load(path, map_location="cpu", weights_only=True)


def session(package: str, name: str) -> Any:
    from scoring.runtime import Session

    model = load(MODELS / package)
    return Session(model.package.graph(name), model.card.graph(name))


def close(found: np.ndarray, expected: Any) -> None:
    assert np.abs(found - expected.detach().numpy()).max() <= 1e-5


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    """Two volumes with values as prepared ones have."""
    return np.random.default_rng(0).gamma(1.0, 1.0, (2, 1, 182, 218, 182)).clip(0, 8).astype(np.float32)


def backbone(x: Any) -> Any:
    """The four blocks of the dementia network, as published."""
    nn, state = torch.nn.functional, published(DEMENTIA / "backbone_58.pth")
    for number, (stride, pool) in enumerate(((2, 3), (1, 2), (1, 2), (1, 2)), 1):
        block = f"block{number}."
        x = nn.max_pool3d(nn.conv3d(x, state[block + "conv.weight"], stride=stride), pool, 2)
        norm = [state[block + f"BN.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        x = nn.leaky_relu(nn.batch_norm(x, *norm), 0.01)
    return x


def head(features: Any, name: str) -> Any:
    nn, state = torch.nn.functional, published(DEMENTIA / f"{name}_58.pth")
    hidden = nn.linear(features.flatten(1), state["dense1.1.weight"], state["dense1.1.bias"])
    return nn.linear(nn.leaky_relu(hidden, 0.01), state["dense2.2.weight"], state["dense2.2.bias"])


def test_the_dementia_network_is_the_published_one(volume: np.ndarray) -> None:
    """Severity, and the share of the Alzheimer type."""
    found = session("dementia", "network").forward({"volume": volume})
    with torch.no_grad():
        maps = backbone(torch.from_numpy(volume))
        close(found["cog"], head(maps, "COG"))
        close(found["add"], torch.softmax(head(maps, "ADD"), 1)[:, 1:])


def test_its_grad_cam_is_that_of_a_gradient(volume: np.ndarray) -> None:
    """What the graph makes of its own layers is what torch's differentiation gives."""
    found = session("dementia", "network").forward({"volume": volume[:1]})["grad_cam"]
    with torch.no_grad():
        maps = backbone(torch.from_numpy(volume[:1]))
    maps.requires_grad_()
    (gradient,) = torch.autograd.grad(head(maps, "COG").sum(), maps)
    weights = gradient.mean(dim=(2, 3, 4), keepdim=True)
    close(found, torch.relu((weights * maps).sum(1)))


def test_the_head_net_is_the_published_one() -> None:
    """Four tissues of a head of 64 voxels a side."""
    nn, s = torch.nn.functional, published(HIPPODEEP / "params_head_00075_00000.pt")

    def conv(x: Any, name: str) -> Any:
        weight = s[f"{name}.weight"]
        return nn.conv3d(x, weight, s[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def norm(x: Any, name: str) -> Any:
        return nn.batch_norm(
            x, *(s[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        )

    x = np.random.default_rng(0).normal(0, 1, (1, 1, 64, 64, 64)).astype(np.float32)
    with torch.no_grad():
        y, kept = torch.from_numpy(x), []
        for level in range(4):
            y = nn.max_pool3d(y, 2) if level else y
            y = nn.elu(norm(conv(nn.elu(conv(y, f"conv{level}a")), f"conv{level}b"), f"bn{level}a"))
            kept.append(y)
        for level in (2, 1, 0):
            y = nn.elu(conv(nn.interpolate(y, scale_factor=2, mode="nearest"), f"conv{level}u"))
            y = nn.elu(norm(conv(torch.cat([y, kept[level]], 1), f"conv{level}v"), f"bn{level}u"))
        close(session("dementia", "head").forward({"head": x})["tissues"], torch.sigmoid(conv(y, "conv1x")))


def test_the_affine_net_is_the_published_one() -> None:
    """Twelve numbers out of two tissues."""
    nn, s = torch.nn.functional, published(HIPPODEEP / "paramsaffineta_00079_00000.pt")
    x = np.random.default_rng(0).random((1, 2, 64, 64, 64), dtype=np.float32)
    with torch.no_grad():
        y = torch.from_numpy(x)
        for number in range(1, 5):
            y = nn.conv3d(y, s[f"convaff{number}.weight"], s[f"convaff{number}.bias"], padding=1)
            if number > 1:
                weight, bias = s[f"bnaff{number}.weight"], s[f"bnaff{number}.bias"]
                y = nn.layer_norm(y, weight.shape, weight, bias)
            y = nn.max_pool3d(nn.relu(y), 2)
        y = nn.relu(nn.conv3d(y, s["convaff5.weight"], s["convaff5.bias"]))
        y = nn.conv3d(y, s["convaff6.weight"], s["convaff6.bias"]).flatten(1)
        close(session("dementia", "affine").forward({"tissues": x})["affine"], y)


def test_the_density_network_is_the_published_one() -> None:
    """Four probabilities out of two hundred shares."""
    nn, s = torch.nn.functional, published(DENSITY)
    x = np.random.default_rng(0).dirichlet(np.ones(50), (8, 4)).reshape(8, 200).astype(np.float32)
    with torch.no_grad():
        y = nn.relu(nn.linear(torch.from_numpy(x), s["fc1.weight"], s["fc1.bias"]))
        y = torch.softmax(nn.linear(y, s["fc2.weight"], s["fc2.bias"]), 1)
        close(session("density", "network").forward({"histograms": x})["probabilities"], y)
