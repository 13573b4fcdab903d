"""Exams whose images arrive shuffled together, some twice and some late: each gets its own right answer.

Seven exams in the short form, fifty with `RUN_SLOW=1` (a gigabyte). A late view is darker than the one that it
repeats; where that leaves too much background, the right answer is that the model should not be asked.
"""

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydicom
import pytest
from house import PACKAGE, House, eventually, exams, stored, study_of, write, write_exam

from infra.demo import Pixels, repeated_view
from infra.demo_reference import read_weights, reference

pytestmark = [pytest.mark.stack, pytest.mark.slow]

EXAMS = 50 if "RUN_SLOW" in os.environ else 7
TOLERANCE = 1e-6
MODEL = "breast-density-histogram"
#: as its card says
DARK_BELOW, MOST_BACKGROUND = 0.02, 0.7


def test_every_exam_gets_its_own_answer(house: House, images: Mapping[str, Pixels], tmp_path: Path) -> None:
    """Shuffled over four associations; every seventh image twice; of every third exam a later, repeated view."""
    chance, weights = random.Random(7), read_weights(PACKAGE / "weights.npz")
    made = exams(images, f"shuffled-{chance.random()}", patients=EXAMS)
    files = [write_exam(exam, tmp_path / str(exam.patient)) for exam in made]
    studies = [house.keys().pseudonymous_uid(study_of(exam)) for exam in made]
    wave = [path for some in files for path in some.values()]
    wave += wave[::7]
    chance.shuffle(wave)
    before = house.balance()
    assert stored(house.send(wave, associations=4))
    eventually(lambda: all(_said(house, study) for study in studies), "prediction of every exam", 300.0)
    late = {n: write(repeated_view(made[n]), tmp_path / str(n) / "late.dcm") for n in range(0, EXAMS, 3)}
    shuffled = list(late.values())
    chance.shuffle(shuffled)
    assert stored(house.send(shuffled, associations=4))
    eventually(lambda: all(len(_said(house, studies[n])) > 1 for n in late), "second prediction", 300.0)
    gained = house.gained(before)
    assert gained == {
        "acknowledged": len(wave) + len(late),
        "clean": 4 * EXAMS + len(late),
        "duplicate": len(wave) - 4 * EXAMS,
    }
    refused = 0
    for number, study in enumerate(studies):
        said = _said(house, study)
        expected = [files[number]]
        if number in late:
            expected.append({**files[number], "L-CC": late[number]})
        assert len(said) == len(expected)
        for answer, sent in zip(said, expected, strict=True):
            if any(_background(path) > MOST_BACKGROUND for path in sent.values()):
                assert (answer["outcome"], answer["reason"]) == ("out_of_domain", "background:L-CC")
                refused += 1
                continue
            wanted = reference({view: path.read_bytes() for view, path in sent.items()}, weights)
            assert answer["outcome"] == "predicted"
            assert (
                max(abs(answer["probabilities"][name] - value) for name, value in wanted.items()) <= TOLERANCE
            )
        revisions = [answer["revision"] for answer in said]
        assert revisions == sorted(set(revisions))
        assert revisions[-1] == max(house.revisions_of("default", study))
        assert (said[-1]["supersedes"] is not None) == (number in late)
    print(
        f"{EXAMS} exams, {len(wave)} images in the first wave, {len(late)} late ones, {refused} refused, {gained}"
    )


def _said(house: House, study: str) -> list[dict[str, Any]]:
    """What was predicted of a study, each answer once, in order."""
    found = {p["prediction_id"]: p for p in house.predictions_of(study) if p["model"]["id"] == MODEL}
    return [p for p in found.values() if p["outcome"] in ("predicted", "out_of_domain")]


def _background(path: Path) -> float:
    """The share of a view's pixels that the package's card counts as background, measured here once more."""
    pixels = pydicom.dcmread(path).pixel_array.astype(float)
    low, high = pixels.min(), pixels.max()
    return float((pixels <= low + DARK_BELOW * (high - low)).mean())
