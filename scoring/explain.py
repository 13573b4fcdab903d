"""Where a model looked: maps of one measurement over the network's input. Pure.

- ``occlusion``: how far the measurement falls when a block of the input is blanked, block by block. For any graph;
  a pass a block.
- ``grad_cam``: the graph's own output of that name, where its package has one: the last feature maps, weighted by
  how the measurement grows with each (Selvaraju et al., ICCV 2017). A pass in all, and as coarse as those maps.

A map has cells; `to_source` leads from a cell's index to the place in the source images, mm as DICOM counts them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from scoring.card import Card
from scoring.outcomes import Prepared
from scoring.runtime import Tensors

METHODS: Final = ("occlusion", "grad_cam")
Forward = Callable[[Tensors], Tensors]
Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Map:
    """One explanation.

    Attributes
    ----------
    method, measurement : str
        What was asked.
    cells : float32 array
        One value a cell, in the order of the input's last axes: positive where the measurement rests on it.
    to_source : (4, 4), optional
        From a cell's index (x, y, z, 1) to mm in the source's frame of reference; None for inputs without a place.
    """

    method: str
    measurement: str
    cells: NDArray[np.float32]
    to_source: Matrix | None


class NoMap(Exception):
    """The package has no way to such a map."""


def explain(card: Card, forward: Forward, exam: Prepared, method: str) -> Map:
    """Return a map of the card's first measurement, or of its score's first class.

    Raises
    ------
    NoMap
        The method is unknown, or the package's graph has no output for it.
    """
    name, read = _target(card)
    if method == "grad_cam":
        if "grad_cam" not in card.network.outputs:
            raise NoMap(f"{card.id}: its graph gives no grad_cam")
        cells = forward(_input(card, exam.features[np.newaxis]))["grad_cam"][0]
        step = np.array(exam.features.shape[-cells.ndim :]) / np.array(cells.shape)
        return Map(method=method, measurement=name, cells=cells, to_source=_placed(exam, step))
    if method != "occlusion":
        raise NoMap(f"expected one of {METHODS}, came {method!r}")
    side = card.occlusion
    shape = exam.features.shape[-3:] if exam.features.ndim > 1 else exam.features.shape
    whole = read(forward(_input(card, exam.features[np.newaxis])))[0]
    cells = np.zeros([-(-n // side) for n in shape], np.float32)
    for index, blanked in _blanked(exam.features, shape, side):
        cells[index] = whole - read(forward(_input(card, blanked[np.newaxis])))[0]
    return Map(
        method=method,
        measurement=name,
        cells=cells,
        to_source=_placed(exam, np.full(len(shape), float(side))),
    )


def _target(card: Card) -> tuple[str, Callable[[Tensors], NDArray[np.float32]]]:
    if card.measurements:
        first = card.measurements[0]
        return first.name, lambda out: out[first.tensor].reshape(len(out[first.tensor]), -1)[:, 0]
    assert card.classes is not None
    tensor, names = card.classes.tensor, card.class_names
    columns = [names.index(name) for name in card.score.classes]
    return card.score.meaning, lambda out: out[tensor][:, columns].sum(axis=1)


def _input(card: Card, features: NDArray[np.float32]) -> Tensors:
    [name] = card.network.inputs
    return {name: features}


def _blanked(
    features: NDArray[np.float32], shape: tuple[int, ...], side: int
) -> Iterator[tuple[tuple[int, ...], NDArray[np.float32]]]:
    """Yield each block's index and the input without it; a block that is blank already is left out."""
    for index in product(*(range(-(-n // side)) for n in shape)):
        where: Any = (..., *(slice(i * side, (i + 1) * side) for i in index))
        if np.any(features[where]):
            other = features.copy()
            other[where] = 0
            yield index, other


def _placed(exam: Prepared, step: NDArray[np.float64]) -> Matrix | None:
    """Return the matrix of the cells: the input's own, a cell being `step` voxels and its index that of its middle."""
    if exam.to_source is None:
        return None
    cell = np.eye(4)
    cell[:3, :3] = np.diag(step)
    cell[:3, 3] = (step - 1) / 2
    return exam.to_source @ cell
