"""From the network's output to what is said: probabilities, measurements, category and score. Pure.

The first pass of an exam is the exam as it is; those behind it are moved by a voxel, and say how sure the model is.
"""

import itertools

import numpy as np
from numpy.typing import NDArray

from scoring.calibrate import apply
from scoring.card import Card, Images, Measurement
from scoring.outcomes import Failed, Measured, Prepared, Scores
from scoring.runtime import Tensors


def passes_of(card: Card, exam: Prepared) -> int:
    """Return how many passes an exam takes."""
    if isinstance(card.intake, Images):
        return len(exam.features)
    return 1 if card.shift is None else 7


def passes(
    card: Card, features: NDArray[np.float32], room: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return the passes of one exam, (P, ...): as it is, and moved along its last three axes to both sides.

    What leaves at one side is gone; what enters at the other is zero. Of images one by one: a pass an image.
    `room` is what was returned for another exam of this card, and is written over.
    """
    if isinstance(card.intake, Images):
        return features
    if card.shift is None:
        return features[np.newaxis]
    made = np.zeros((7, *features.shape), np.float32) if room is None else room
    made[0] = features
    moves = itertools.product((-3, -2, -1), (card.shift.voxels, -card.shift.voxels))
    for target, (axis, step) in zip(made[1:], moves, strict=True):
        here, there = [slice(None)] * features.ndim, [slice(None)] * features.ndim
        here[axis] = slice(step, None) if step > 0 else slice(None, step)
        there[axis] = slice(None, -step) if step > 0 else slice(-step, None)
        target[tuple(here)] = features[tuple(there)]
    return made


def encode(card: Card, exam: Prepared, out: Tensors) -> Scores | Failed:
    """Return the result of one exam.

    Parameters
    ----------
    card : Card
        What the outputs mean.
    exam : Prepared
        The exam.
    out : dict
        The network's outputs, (P, ...) each: a row a pass.
    """
    if not all(np.isfinite(array).all() for array in out.values()):
        return Failed(reason="not_finite", detail="expected finite outputs, found others")
    if not isinstance(card.intake, Images):
        return _encode(card, exam, out, 0)
    rows = range(len(next(iter(out.values()))))
    each = [_encode(card, exam, {name: array[i : i + 1] for name, array in out.items()}, i) for i in rows]
    return max(each, key=lambda found: found.score)  # the first of equals


def _encode(card: Card, exam: Prepared, out: Tensors, row: int) -> Scores:
    values = {
        m.name: [float(v) for v in out[m.tensor].reshape(len(out[m.tensor]), -1)[:, 0]]
        for m in card.measurements
    }
    shown = [_measured(m, values[m.name]) for m in card.measurements if _is_shown(m, values)]
    probabilities: dict[str, float] = {}
    if card.classes is not None:
        shares = out[card.classes.tensor][0].astype(np.float64)  # (classes,)
        if card.calibrator is not None and card.calibrator.kind == "temperature":
            shares = apply(card.calibrator, shares)
        probabilities = dict(zip(card.class_names, map(float, shares), strict=True))
    return Scores(
        set_id=exam.set_id,
        probabilities=probabilities,
        category=_category(card, probabilities, values),
        score=_score(card, probabilities, values),
        measurements=tuple(shown),
        measured=exam.measured,
        row=row,
    )


def _is_shown(measurement: Measurement, values: dict[str, list[float]]) -> bool:
    if measurement.shown_from is None:
        return True
    other, least = measurement.shown_from
    return values[other][0] >= least


def _measured(measurement: Measurement, values: list[float]) -> Measured:
    if measurement.calibrator is not None:
        values = [float(v) for v in apply(measurement.calibrator, np.array(values))]
    return Measured(
        name=measurement.name,
        value=values[0],
        unit=measurement.unit,
        low=min(values) if measurement.spread else None,
        high=max(values) if measurement.spread else None,
        confidence=measurement.confidence,
    )


def _category(card: Card, probabilities: dict[str, float], values: dict[str, list[float]]) -> str | None:
    if card.grades and card.score.measurement:
        value = values[card.score.measurement][0]
        return [grade.name for grade in card.grades if grade.at_least <= value][-1]
    return max(card.class_names, key=lambda name: probabilities[name], default=None)  # the first of equals


def _score(card: Card, probabilities: dict[str, float], values: dict[str, list[float]]) -> float:
    if card.score.measurement is not None and card.calibrator is not None:
        score = float(apply(card.calibrator, np.array([values[card.score.measurement][0]]))[0])
    else:
        score = sum(probabilities[name] for name in card.score.classes)
    return min(1.0, max(0.0, score))  # float32 softmax may sum to a hair over 1
