"""A second implementation of the density recipe, to hold the demo's predictions against.

It shares no line with scoring: pixels come from the sent file through `pydicom.dcmread`, the histogram
is taken over all pixels, and the two layers are numpy on the published tensors (`weights.npz`, written
by the export tool beside the graph). It lives here, and not under tests/, because the demo shows it
beside every prediction; it may not import scoring, so that one mistake cannot be in both.

1. `features`: the published recipe, plainly.
2. `probabilities`: linear 200-100, ReLU, linear 100-4, softmax.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import pydicom
from numpy.typing import NDArray

ORDER: Final = ("L-CC", "R-CC", "L-MLO", "R-MLO")
CLASSES: Final = ("almost_entirely_fatty", "scattered", "heterogeneously_dense", "extremely_dense")

#: what the authors print for the published exam: README.md of github.com/nyukat/breast_density_classifier
PUBLISHED: Final = (0.08194443, 0.7830397, 0.13350312, 0.0015126525)


def read_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read the published tensors from ``weights.npz``."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def reference(files: Mapping[str, bytes], weights: Mapping[str, NDArray[np.float32]]) -> dict[str, float]:
    """Compute the four probabilities of an exam.

    Parameters
    ----------
    files : mapping
        The sent Part 10 bytes by view, as `ORDER` names them; MONOCHROME2 without modality LUT.
    weights : mapping
        From `read_weights`.

    Returns
    -------
    dict
        Probability by class name.
    """
    inputs = np.concatenate([features(files[view]) for view in ORDER])  # (200,) float64
    return dict(zip(CLASSES, probabilities(inputs, weights).tolist(), strict=True))


def features(file: bytes) -> NDArray[np.float64]:
    """Return the 50-bin histogram of one view's standardised pixels, divided by its sum."""
    pixels = pydicom.dcmread(io.BytesIO(file)).pixel_array.astype(np.float32)  # (rows, columns)
    pixels -= pixels.mean()
    pixels /= pixels.std()
    counts = np.histogram(pixels, bins=50)[0]
    return np.asarray(counts / counts.sum(), dtype=np.float64)


def probabilities(
    inputs: NDArray[np.float64], weights: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float64]:
    """Return softmax(W2 max(W1 x + b1, 0) + b2), (4,) float64."""
    hidden = np.maximum(weights["fc1.weight"].astype(np.float64) @ inputs + weights["fc1.bias"], 0)  # (100,)
    logits = weights["fc2.weight"].astype(np.float64) @ hidden + weights["fc2.bias"]  # (4,)
    exponents = np.exp(logits - logits.max())
    return np.asarray(exponents / exponents.sum())
