"""From outputs to what is said: passes, spread, what is shown, grades."""

from pathlib import Path

import numpy as np
import pytest
from toy import write_package

from scoring.encode import passes
from scoring.outcomes import Failed, Prepared, Scores
from scoring.runtime import ForwardFailed
from scoring.score import Model, load

SHIFT = "[shift]\nvoxels = 1\n"
GRADES = """
[[grades]]
name = "low"
title = "Low"
at_least = -inf
[[grades]]
name = "high"
title = "High"
at_least = 5.0
"""


def loaded(tmp_path: Path, weights: np.ndarray, **how: str) -> Model:
    return load(write_package(tmp_path / "toy", weights, **how))  # type: ignore[arg-type]


def test_passes_are_moved_by_a_voxel_to_both_sides(tmp_path: Path) -> None:
    """As it is first; what leaves is gone, what enters is zero."""
    model = loaded(tmp_path, np.ones((1, 1, 3, 3, 3), np.float32), more=SHIFT)
    features = np.arange(27, dtype=np.float32).reshape(1, 3, 3, 3)
    found = passes(model.card, features)
    assert found.shape == (7, 1, 3, 3, 3)
    assert np.array_equal(found[0], features)
    assert np.array_equal(found[1][0, 1:], features[0, :-1])
    assert not found[1][0, 0].any()
    assert np.array_equal(found[2][0, :-1], features[0, 1:])
    assert np.array_equal(found[5][..., 1:], features[..., :-1])


def test_the_spread_is_that_of_the_passes(tmp_path: Path) -> None:
    """Value of the exam as it is, lowest and highest of all passes."""
    weights = np.zeros((1, 1, 3, 3, 3), np.float32)
    weights[0, 0, 1, 1, 1] = 1
    model = loaded(tmp_path, weights, more=SHIFT, measurement="spread = true")
    features = np.arange(27, dtype=np.float32).reshape(1, 3, 3, 3)
    [found] = model.forward([Prepared(set_id="s", features=features)])
    assert isinstance(found, Scores)
    assert (found.measurements[0].value, found.measurements[0].low, found.measurements[0].high) == (13, 4, 22)


def test_exams_of_several_passes_do_not_mix(tmp_path: Path) -> None:
    """Together as alone."""
    weights = np.random.default_rng(0).normal(0, 1, (1, 1, 3, 3, 3)).astype(np.float32)
    model = loaded(tmp_path, weights, more=SHIFT, measurement="spread = true")
    exams = [
        Prepared(set_id=str(i), features=np.random.default_rng(i).random((1, 3, 3, 3), dtype=np.float32))
        for i in range(30)
    ]
    together = model.forward(exams)
    alone = [model.forward([exam])[0] for exam in exams]
    assert [found.set_id for found in together] == [exam.set_id for exam in exams]
    for a, b in zip(together, alone, strict=True):
        assert a.measurements[0].value == pytest.approx(b.measurements[0].value, abs=1e-6)


@pytest.mark.parametrize(("value", "grade", "shown"), [(4.9, "low", False), (5.0, "high", True)])
def test_grades_begin_where_they_say_and_low_confidence_is_held_back(
    tmp_path: Path, value: float, grade: str, shown: bool
) -> None:
    """A measurement that is said from a value on is not said below it."""
    second = """[[measurements]]
name = "more"
title = "Said with the other"
tensor = "y"
unit = "1"
text = "Again."
shown_from = ["y", 5.0]
confidence = "low"
"""
    model = loaded(tmp_path, np.ones((1, 1), np.float32), measurement=second + GRADES)
    [found] = model.forward([Prepared(set_id="s", features=np.array([value], np.float32))])
    assert found.category == grade
    assert [m.name for m in found.measurements] == (["y", "more"] if shown else ["y"])
    assert not shown or found.measurements[1].confidence == "low"
    assert found.score == pytest.approx(1 / (1 + np.exp(-value)), rel=1e-6)


def test_one_exam_that_fails_takes_no_other_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that the runtime breaks off is made again one by one."""
    model = loaded(tmp_path, np.ones((1, 1), np.float32))
    run = model.session.forward

    def forward(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if (batch["x"] == 13).any():
            raise ForwardFailed("over_time", "this one hangs")
        return run(batch)

    monkeypatch.setattr(type(model.session), "forward", lambda _, batch: forward(batch))
    exams = [Prepared(set_id=str(i), features=np.array([v], np.float32)) for i, v in enumerate((1, 13, 2))]
    assert [type(found) for found in model.forward(exams)] == [Scores, Failed, Scores]
