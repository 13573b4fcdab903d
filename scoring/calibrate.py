"""Calibrators: from what a model gives to a probability that is one, their fit, and the table that shows it.

- ``platt``: sigmoid(a x + b) of one number.
- ``temperature``: softmax(log p / t) of the probabilities of classes.

Both are monotonic, so that a calibrator changes no order. A fit says nothing of other people than it was made on.

References
----------
Platt, Probabilistic outputs for support vector machines (1999). Guo et al., On calibration of modern neural
networks. ICML 2017: temperature, and the expected calibration error.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scoring.card import Calibrator

Numbers = NDArray[np.float64]

#: What each kind has as parameters.
PARAMETERS: Final[dict[str, tuple[str, ...]]] = {"platt": ("a", "b"), "temperature": ("t",)}
BINS: Final = 10
STEPS: Final = 100


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How probabilities and outcomes agree.

    Attributes
    ----------
    ece : float
        Expected calibration error over `BINS` equal bins, 0 to 1.
    brier : float
        Mean squared difference, 0 to 1.
    rows : tuple of (lowest, highest, count, mean probability, share of positives)
        A bin each; empty bins are left out.
    """

    ece: float
    brier: float
    rows: tuple[tuple[float, float, int, float, float], ...]


def platt(x: Numbers, parameters: Mapping[str, float]) -> Numbers:
    """Return sigmoid(a x + b)."""
    return np.asarray(1 / (1 + np.exp(-(parameters["a"] * x + parameters["b"]))))


def temperature(probabilities: Numbers, parameters: Mapping[str, float]) -> Numbers:
    """Return softmax(log p / t) over the last axis; probabilities of zero stay zero."""
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities) / parameters["t"]
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def apply(calibrator: Calibrator, x: Numbers) -> Numbers:
    """Return the calibrated probabilities: of numbers (platt), or of rows of class probabilities (temperature)."""
    return {"platt": platt, "temperature": temperature}[calibrator.kind](x, calibrator.parameters)


def fit_platt(x: Numbers, positive: NDArray[np.bool_]) -> dict[str, float]:
    """Fit a and b by Newton's method, on Platt's smoothed targets, so that a separable set has an answer too.

    Parameters
    ----------
    x : (n,)
        What the model gave.
    positive : (n,) bool
        What was true; both kinds must occur.
    """
    ones = int(positive.sum())
    if not 0 < ones < len(positive):
        raise ValueError(f"expected rows of both kinds, found {ones} positive of {len(positive)}")
    target = np.where(positive, (ones + 1) / (ones + 2), 1 / (len(positive) - ones + 2))
    centre, scale = float(x.mean()), float(x.std()) or 1.0
    design = np.column_stack([(x - centre) / scale, np.ones_like(x)])  # (n, 2), well conditioned
    weights = np.zeros(2)
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (p - target)
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights -= step
        if np.abs(step).max() < 1e-10:
            break
    a = float(weights[0] / scale)
    return {"a": a, "b": float(weights[1] - a * centre)}


def fit_temperature(probabilities: Numbers, true: NDArray[np.int64]) -> dict[str, float]:
    """Fit t by golden section over log t, on the likelihood of the true classes.

    Parameters
    ----------
    probabilities : (n, classes)
        What the model gave.
    true : (n,) int
        Index of the true class.
    """
    rows = np.arange(len(true))

    def loss(log_t: float) -> float:
        p = temperature(probabilities, {"t": float(np.exp(log_t))})[rows, true]
        return float(-np.log(np.maximum(p, 1e-12)).mean())

    low, high = np.log(0.05), np.log(20.0)
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(STEPS):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return {"t": float(np.exp((low + high) / 2))}


def reliability(probabilities: Numbers, positive: NDArray[np.bool_]) -> Reliability:
    """Compare probabilities, (n,), with what was true."""
    edges = np.linspace(0, 1, BINS + 1)
    which = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    rows, ece = [], 0.0
    for index in range(BINS):
        inside = which == index
        count = int(inside.sum())
        if count:
            mean, share = float(probabilities[inside].mean()), float(positive[inside].mean())
            rows.append((float(edges[index]), float(edges[index + 1]), count, mean, share))
            ece += count / len(probabilities) * abs(mean - share)
    brier = float(((probabilities - positive) ** 2).mean())
    return Reliability(ece=ece, brier=brier, rows=tuple(rows))


def held_out(
    x: Numbers, positive: NDArray[np.bool_], seed: int = 0
) -> tuple[Reliability | None, Reliability]:
    """Fit Platt's calibrator to a random half, and compare the other half before and after.

    Returns
    -------
    before, after : Reliability
        `before` is None where what the model gave are no probabilities.
    """
    order = np.random.default_rng(seed).permutation(len(x))
    first, second = order[: len(x) // 2], order[len(x) // 2 :]
    found = platt(x[second], fit_platt(x[first], positive[first]))
    shares = bool(((x >= 0) & (x <= 1)).all())
    before = reliability(x[second], positive[second]) if shares else None
    return before, reliability(found, positive[second])


def table_of(found: Reliability) -> str:
    """Return the reliability table as CSV."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(["from", "to", "count", "mean_probability", "share_positive"])
    for low, high, count, mean, share in found.rows:
        writer.writerow([f"{low:.1f}", f"{high:.1f}", count, f"{mean:.4f}", f"{share:.4f}"])
    return target.getvalue()
