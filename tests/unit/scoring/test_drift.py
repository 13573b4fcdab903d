"""The stability index: nothing for the same population, much for another, and only over what is new."""

import numpy as np
import pytest

from scoring.card import read_card
from scoring.drift import LEAST, WINDOW, Window, stability
from scoring.package import CARD
from scoring.score import MODELS


def window() -> Window:
    [reference] = read_card((MODELS / "dementia" / CARD).read_bytes()).populations
    assert reference.of == "cog"
    return Window(reference.edges, reference.shares)


def drawn(count: int, seed: int, move: float = 0.0) -> np.ndarray:
    """Values of the reference's own shares, in the middle of their bins, moved."""
    [reference] = read_card((MODELS / "dementia" / CARD).read_bytes()).populations
    middles = np.convolve([0.0, *reference.edges, 2.0], [0.5, 0.5], "valid")
    return np.random.default_rng(seed).choice(middles, count, p=np.array(reference.shares)) + move


def test_the_index_is_the_formula() -> None:
    """Two bins, by hand."""
    assert stability([0.5, 0.5], [0.5, 0.5]) == 0
    assert stability([0.5, 0.5], [0.75, 0.25]) == pytest.approx(0.25 * np.log(1.5) - 0.25 * np.log(0.5))
    assert np.isfinite(stability([0.5, 0.5], [1.0, 0.0]))


def test_the_same_population_is_stable_and_another_is_not() -> None:
    """Below a tenth for the reference's own, far above a quarter for one that is half a grade worse."""
    own, other = window(), window()
    for a, b in zip(drawn(500, 1), drawn(500, 1, move=0.5), strict=True):
        own.add(a)
        other.add(b)
    assert own.stability is not None
    assert own.stability < 0.1
    assert other.stability is not None
    assert other.stability > 0.25


def test_nothing_is_said_of_a_few() -> None:
    """A hundred exams are the least that say anything."""
    found = window()
    for value in drawn(LEAST - 1, 2):
        found.add(value)
    assert found.stability is None
    found.add(0.5)
    assert found.stability is not None


def test_what_is_old_is_forgotten() -> None:
    """After a whole window of the reference's own, nothing of the others is left."""
    found = window()
    for value in (*drawn(WINDOW, 3, move=0.5), *drawn(WINDOW, 4)):
        found.add(value)
    assert sum(found.counts) == WINDOW
    assert found.stability is not None
    assert found.stability < 0.1
