"""What preparations have in common, and the histograms of views; pure, off the forward path.

A preparation is made once for a package and called for each exam: it reads and decodes the selected instances,
notes what the gate looks at, and returns the network's input. A change of a number that comes out is a new
version, because the version is part of every prediction's key.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from scoring.decode import Image, decode
from scoring.gate import Gate
from scoring.intake import Instance, Selected
from scoring.package import Package

Features = NDArray[np.float32]
Read = Callable[[Instance], bytes]  # the clean Part 10 bytes of an instance

#: above this many grey levels (more than 16 bits hold) the histogram is taken over the pixels
MAX_LEVELS: Final = 2**16
#: columns at each side that are looked at, as a share of the width
SIDE: Final = 0.02


class Ready(NamedTuple):
    """The network's input for one exam, and where its voxels lie in the source (`Prepared.to_source`)."""

    features: Features
    to_source: NDArray[np.float64] | None = None


class Preparation(Protocol):
    """One package's preparation; `parameters` are those that its card gives, no more and no less."""

    parameters: ClassVar[tuple[str, ...]]

    def __init__(self, package: Package, threads: int) -> None: ...

    def __call__(self, selected: Selected, read: Read, gate: Gate) -> Ready:
        """Return one exam ready for the network; may block in `read`, and lets what it raises pass.

        Raises
        ------
        Refused
            Out of domain.
        DecodeError
            An image that is none; `where` says which one.
        """
        ...


class ViewHistograms(Preparation):
    """The grey-level histograms of standardised views, one after the other, in the card's order.

    Parameters of the card: ``bins`` a view; ``dark_below``, the share of an image's own grey range that counts as
    background. Noted a view: `measure`.
    """

    parameters: ClassVar = ("bins", "dark_below")

    def __init__(self, package: Package, threads: int) -> None:
        del threads
        parameters = package.card.preparation.parameters
        self._bins, self._dark = int(parameters["bins"]), parameters["dark_below"]

    def __call__(self, selected: Selected, read: Read, gate: Gate) -> Ready:
        """See `Preparation`."""
        images = []
        for view, instance in selected.instances.items():
            image = decode(read(instance), where=view)  # (rows, columns)
            check_image(gate, image, (instance.rows or 0, instance.columns or 0), view, self._dark)
            images.append(image)
        return Ready(view_histograms(images, self._bins))


class ImageHistograms(Preparation):
    """The grey-level histogram of each image on its own: a row an image, in the order of the selection.

    Parameter of the card: ``bins``.
    """

    parameters: ClassVar = ("bins",)

    def __init__(self, package: Package, threads: int) -> None:
        del threads
        self._bins = int(package.card.preparation.parameters["bins"])

    def __call__(self, selected: Selected, read: Read, gate: Gate) -> Ready:
        """See `Preparation`; (images, bins) float32."""
        rows = []
        for number, instance in enumerate(selected.instances.values()):
            image = decode(read(instance), where=f"{number:05d}")  # (rows, columns)
            if not float(image.max()) > float(image.min()):
                gate.refuse(f"flat:{number:05d}", "expected more than one grey level, found one")
            rows.append(view_histograms([image], self._bins))
        return Ready(np.stack(rows))


def check_image(gate: Gate, image: Image, shape: tuple[int, int], view: str, dark_below: float) -> None:
    """Let the gate look at the pixels of one view, (rows, columns), MONOCHROME2."""
    if image.shape != shape:
        gate.refuse(f"image_size:{view}", f"expected {shape}, decoded {image.shape}")
    if not float(image.max()) > float(image.min()):  # NaN is refused here too
        gate.refuse(f"flat:{view}", "expected more than one grey level, found one")
    for word, value in measure(image, dark_below).items():
        gate.note(word, value, view)


def measure(image: Image, dark_below: float) -> dict[str, float]:
    """Measure how a mammogram fills its field.

    Parameters
    ----------
    image : (rows, columns) array
        MONOCHROME2.
    dark_below : float
        Share of the image's own grey range that counts as background.

    Returns
    -------
    dict
        Shares between 0 and 1: ``background``, ``roughness``, ``chest_wall``, ``far_edge``.
    """
    low, high = float(image.min()), float(image.max())
    background = image <= low + (high - low) * dark_below  # (rows, columns) bool
    width = max(1, round(image.shape[1] * SIDE))
    sides = (1.0 - float(background[:, :width].mean()), 1.0 - float(background[:, -width:].mean()))
    return {
        "background": float(background.mean()),
        "roughness": float(np.mean(background[:, 1:] != background[:, :-1])),
        "chest_wall": max(sides),
        "far_edge": min(sides),
    }


def view_histograms(views: Sequence[Image], bins: int) -> Features:
    """Concatenate the grey-level histograms of standardised views.

    Parameters
    ----------
    views : sequence of (rows, columns) arrays
        In the card's order; any greyscale unit, larger is brighter.
    bins : int
        Histogram bins a view.

    Returns
    -------
    Features
        (len(views) * bins,) float32; each view's part sums to 1.
    """
    return np.concatenate([histogram(view, bins) for view in views]).astype(np.float32)  # (V * bins,) shares


def histogram(image: Image, bins: int) -> NDArray[np.float64]:
    """Return the share of pixels in `bins` equal bins over the range of the standardised image.

    The standardisation moves no pixel relative to the bins except by float32 rounding, but grey levels
    that lie exactly on an edge do move: so it is done, in float32, as the published recipe does it, the
    deviation too, which is that of the centred pixels.
    An integer image is standardised level by level instead of pixel by pixel: the same numbers bit for
    bit (a test says so), in about half the time.
    """
    pixels = np.ascontiguousarray(image, dtype=np.float32)  # (rows, columns) float32
    mean = np.mean(pixels)
    centred = pixels - mean  # (rows, columns)
    deviation = np.std(centred)  # not the bits of np.std(pixels)
    low = int(image.min())
    if image.dtype.kind == "f" or int(image.max()) - low >= MAX_LEVELS:
        counts, _ = np.histogram(centred / deviation, bins=bins)
        return np.asarray(counts / counts.sum())
    of_level = np.bincount((image.ravel() - low) if low else image.ravel())  # pixels of each level
    present = np.flatnonzero(of_level)
    standard = ((present + low).astype(np.float32) - mean) / deviation  # (levels,) float32
    counts, _ = np.histogram(standard, bins=bins, weights=of_level[present])
    return np.asarray(counts / counts.sum())
