"""Preparations: from decoded views to the model's input; pure numpy, off the forward path.

A card names its preparation and version; `PREPARATIONS` is the table. A change of a number that comes
out is a new version, because the version is part of every prediction's key.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]

#: above this many grey levels (more than 16 bits hold) the histogram is taken over the pixels
MAX_LEVELS: Final = 2**16


def view_histograms(views: Sequence[NDArray[Any]], parameters: Mapping[str, int]) -> Features:
    """Concatenate the grey-level histograms of standardised views.

    Parameters
    ----------
    views : sequence of (rows, columns) arrays
        In the card's order; any greyscale unit, larger is brighter.
    parameters : mapping
        ``bins``: histogram bins a view.

    Returns
    -------
    Features
        (len(views) * bins,) float32; each view's part sums to 1.
    """
    parts = [histogram(view, parameters["bins"]) for view in views]
    return np.concatenate(parts).astype(np.float32)  # (V * bins,) float32, shares


def histogram(image: NDArray[Any], bins: int) -> NDArray[np.float64]:
    """Return the share of pixels in `bins` equal bins over the range of the standardised image.

    The standardisation moves no pixel relative to the bins except by float32 rounding, but grey levels
    that lie exactly on an edge do move: so it is done, in float32, as the published recipe does it.
    An integer image is standardised level by level instead of pixel by pixel: the same numbers bit for
    bit (a test says so), in about half the time.
    """
    pixels = np.ascontiguousarray(image, dtype=np.float32)  # (rows, columns) float32
    mean, deviation = np.mean(pixels), np.std(pixels)
    low = int(image.min())
    if image.dtype.kind == "f" or int(image.max()) - low >= MAX_LEVELS:
        counts, _ = np.histogram((pixels - mean) / deviation, bins=bins)
        return np.asarray(counts / counts.sum())
    of_level = np.bincount((image.ravel() - low) if low else image.ravel())  # pixels of each level
    present = np.flatnonzero(of_level)
    standard = ((present + low).astype(np.float32) - mean) / deviation  # (levels,) float32
    counts, _ = np.histogram(standard, bins=bins, weights=of_level[present])
    return np.asarray(counts / counts.sum())


#: (name, version) -> preparation of one exam
PREPARATIONS: Final[
    dict[tuple[str, str], Callable[[Sequence[NDArray[Any]], Mapping[str, int]], Features]]
] = {
    ("view-histograms", "1"): view_histograms,
}
