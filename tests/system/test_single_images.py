"""A model of single images on the running system: each image is answered as it comes, then the study as a whole."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from house import CHECKOUT, House, eventually, stored, study_of, write

from infra.demo import Exam, make_exams

sys.path.insert(0, str(CHECKOUT / "tests" / "unit" / "scoring"))
from toy import look_at_single_images, write_package

pytestmark = pytest.mark.stack

MODEL = "toy-single-images"
VIEWS = ("L-CC", "R-CC", "L-MLO")


@pytest.fixture
def site(house: House, tmp_path: Path) -> Iterator[House]:
    """The house with a model that sums the brighter half of one image's histogram; it runs no more afterwards."""
    weights = np.concatenate([np.zeros(5), np.full(5, 2.0)]).astype(np.float32).reshape(1, 10)
    folder = write_package(tmp_path / "package", weights)
    look_at_single_images(folder, MODEL)
    for words in (("add", folder), ("promote", f"{MODEL}@1.0.0")):
        done = house.prodrome("models", *words)
        assert done.returncode == 0, done.stderr
    yield house
    house.prodrome("models", "retire", MODEL)


def exam_of(shares: tuple[float, ...]) -> Exam:
    """Small images of which so much is bright, one a view."""
    images = {view: np.zeros((40, 40), np.uint8) for view in (*VIEWS, "R-MLO")}
    [exam] = make_exams(images, 1, seed="single images")
    for view, share in zip(VIEWS, shares, strict=True):
        pixels = np.zeros(1600, np.uint8)
        pixels[: int(1600 * share)] = 255
        exam.datasets[view].PixelData = pixels.tobytes()
    return exam


def test_images_are_answered_before_their_study(site: House, tmp_path: Path) -> None:
    """Three provisional answers of revision 0, then the study's, which is that of the brightest image."""
    shares = (0.25, 0.75, 0.5)
    exam = exam_of(shares)
    study = site.keys().pseudonymous_uid(study_of(exam))
    for view in VIEWS:
        assert stored(site.send([write(exam.datasets[view], tmp_path / f"{view}.dcm")]))
    said = eventually(lambda: [p for p in _said(site, study) if "provisional" not in p], "the study's answer")
    early = [p for p in _said(site, study) if "provisional" in p]
    assert _said(site, study).index(said[0]) >= len(early)
    assert {p["revision"] for p in early} == {0}
    assert sorted(p["score"] for p in early) == pytest.approx([_score(share) for share in sorted(shares)])
    assert said[0]["revision"] == 1
    assert said[0]["score"] == pytest.approx(_score(max(shares)))
    brightest = max(early, key=lambda p: p["score"])
    assert said[0]["decisive_sop_instance_uid"] == brightest["inputs"][0]["sop_instance_uid"]


def _score(share: float) -> float:
    """The calibrator of the toy over the sum of its weights times the histogram."""
    return 1 / (1 + math.exp(-2 * share))


def _said(house: House, study: str) -> list[dict[str, Any]]:
    """What this model said of a study, each answer once, in order."""
    found = {p["prediction_id"]: p for p in house.predictions_of(study) if p["model"]["id"] == MODEL}
    return list(found.values())
