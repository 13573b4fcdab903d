"""Calibrators: fitted to known truths, checked against what is published, and never an order changed."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoring.calibrate import (
    fit_platt,
    fit_temperature,
    held_out,
    platt,
    reliability,
    table_of,
    temperature,
)

SCORES = Path(__file__).parents[4] / "shared" / "data" / "model-dementia" / "calibration_scores.csv"


def test_platt_finds_the_curve_that_made_the_labels() -> None:
    """Labels drawn from sigmoid(2 x - 1) give 2 and -1 back."""
    random = np.random.default_rng(0)
    x = random.normal(0, 2, 20_000)
    true = random.random(20_000) < platt(x, {"a": 2.0, "b": -1.0})
    found = fit_platt(x, true)
    assert found["a"] == pytest.approx(2.0, abs=0.1)
    assert found["b"] == pytest.approx(-1.0, abs=0.1)


def test_a_separable_set_has_an_answer() -> None:
    """Where a line parts the kinds, the targets of Platt keep the slope finite."""
    found = fit_platt(np.array([0.0, 1, 2, 3]), np.array([False, False, True, True]))
    assert all(np.isfinite(list(found.values())))
    with pytest.raises(ValueError, match="of both kinds"):
        fit_platt(np.array([0.0, 1]), np.array([True, True]))


def test_temperature_finds_how_much_too_sure_a_model_is() -> None:
    """Logits sharpened three times give 3 back."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 1.5, (20_000, 4))
    honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    true = np.array([random.choice(4, p=p) for p in honest])
    sure = temperature(honest, {"t": 1 / 3})
    assert fit_temperature(sure, true)["t"] == pytest.approx(3, abs=0.15)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=20), st.floats(0.1, 5), st.floats(-3, 3))
def test_order_stays(values: list[float], a: float, b: float) -> None:
    """A calibrator with a positive slope changes no order."""
    x = np.sort(np.array(values))
    assert np.all(np.diff(platt(x, {"a": a, "b": b})) >= 0)


def test_classes_that_have_no_chance_keep_none() -> None:
    """Zero stays zero, and the row sums to one."""
    found = temperature(np.array([[0.0, 0.2, 0.8]]), {"t": 2.0})
    assert found[0, 0] == 0
    assert found.sum() == pytest.approx(1)


def test_reliability_counts_each_row_once() -> None:
    """Bins, their means, and the two errors, worked out by hand."""
    found = reliability(np.array([0.05, 0.15, 0.95, 1.0]), np.array([False, True, True, True]))
    assert [row[2] for row in found.rows] == [1, 1, 2]
    assert found.ece == pytest.approx((0.05 + 0.85 + 2 * 0.025) / 4)
    assert found.brier == pytest.approx((0.05**2 + 0.85**2 + 0.05**2 + 0) / 4)
    assert table_of(found).splitlines()[0] == "from,to,count,mean_probability,share_positive"


@pytest.mark.skipif(not SCORES.is_file(), reason="needs the shared validation scores")
def test_the_published_scores_are_calibrated_as_the_card_says() -> None:
    """Of ADD's 224 rows the held-out half goes from 0.143 to 0.037 (ECE) and from 0.130 to 0.118 (Brier)."""
    rows = [row for row in csv.DictReader(SCORES.read_text().splitlines()) if row["ADD"]]
    x, true = np.array([float(r["ADD_score"]) for r in rows]), np.array([r["ADD"] == "1.0" for r in rows])
    before, after = held_out(x, true)
    assert len(rows) == 224
    assert (round(before.ece, 3), round(after.ece, 3)) == (0.143, 0.037)
    assert (round(before.brier, 3), round(after.brier, 3)) == (0.130, 0.118)
