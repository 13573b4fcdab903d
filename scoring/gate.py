"""The gate: is this an image that the model was made for?

1. `check_header`: size and kind, from the facts of the intake, before a byte is read.
2. `check_image`: what the pixels show, each measure against the card's range.

A model gives a score for noise too; the gate is what keeps that score from being published. It knows
plain shares of background, and cannot see what a person sees: a left-right flip passes.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from scoring.card import Gate, InputKind, Range
from scoring.intake import Instance

#: columns at each side that are looked at, as a share of the width
SIDE: Final = 0.02


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The first check that failed: a word of `OUT_OF_DOMAIN`, what was expected and what came."""

    word: str
    detail: str


def check_header(kind: InputKind, gate: Gate, instance: Instance) -> Refusal | None:
    """Check size, photometric interpretation and bit depth of one selected instance."""
    sizes: tuple[tuple[str, int | None, Range], ...] = (
        ("rows", instance.rows, gate.rows),
        ("columns", instance.columns, gate.columns),
    )
    for name, value, (low, high) in sizes:
        if value is None or not low <= value <= high:
            return Refusal(word="image_size", detail=f"{name}: expected {low} to {high}, found {value}")
    for name, found, allowed in (
        ("photometric interpretation", instance.photometric_interpretation, kind.photometric),
        ("bits allocated", instance.bits_allocated, kind.bits_allocated),
    ):
        if found not in allowed:
            return Refusal(
                word="photometric", detail=f"{name}: expected one of {list(allowed)}, found {found}"
            )
    return None


def check_image(gate: Gate, image: NDArray[Any]) -> Refusal | None:
    """Check the pixels of one view, (rows, columns), MONOCHROME2."""
    if not (
        gate.rows[0] <= image.shape[0] <= gate.rows[1]
        and gate.columns[0] <= image.shape[1] <= gate.columns[1]
    ):
        return Refusal(
            word="image_size", detail=f"expected {gate.rows} x {gate.columns}, decoded {image.shape}"
        )
    if not float(image.max()) > float(image.min()):  # NaN is refused here too
        return Refusal(word="flat", detail="expected more than one grey level, found one")
    found = measure(image, gate.dark_below)
    for word, value in found.items():
        low, high = getattr(gate, word)
        if not low <= value <= high:
            return Refusal(word=word, detail=f"{word}: expected {low} to {high}, found {value:.4f}")
    return None


def measure(image: NDArray[Any], dark_below: float) -> dict[str, float]:
    """Measure what the gate compares.

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
