"""A stream of studies while a model is replaced, a bad one refused, a worker killed and the scorer stopped.

A linear toy model for chest images of 64 x 64 pixels, so that what is tried is the stage and not the model. The
short form has 40 studies and a stop of 15 s, longer than the session of a consumer group; `RUN_SLOW=1` has 200 and
60 s.
"""

import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from house import CHECKOUT, House, eventually
from pydicom.dataset import Dataset

from commands.stack import layout
from infra.demo import make_exams, to_bytes, uid
from infra.stack.lifecycle import status as programs

sys.path.insert(0, str(CHECKOUT / "tests" / "unit" / "scoring"))
from toy import seal, write_package

pytestmark = [pytest.mark.stack, pytest.mark.slow]

LONG = "RUN_SLOW" in os.environ
STUDIES = 200 if LONG else 40
STOPPED_SECONDS = 60.0 if LONG else 15.0
MODEL = "toy-linear"
CHEST = "1.2.840.10008.5.1.4.1.1.1.1"


def package(folder: Path, version: str, **how: Any) -> Path:
    """A toy for chest images; another version has other weights."""
    weights = np.random.default_rng(int(version.split(".")[1])).normal(0, 1, (1, 50)).astype(np.float32)
    made = write_package(folder / version, weights, version=version, **how)
    card = made / "card.toml"
    text = (
        card.read_text()
        .replace("1.2.840.10008.5.1.4.1.1.1.2", CHEST)
        .replace('modality = "MG"', 'modality = "DX"')
    )
    card.write_text(text)
    seal(made)
    return made


def chest(number: int, seed: str) -> Dataset:
    """One small image, a study of its own."""
    images = {view: np.zeros((64, 64), np.uint8) for view in ("L-CC", "R-CC", "L-MLO", "R-MLO")}
    dataset = make_exams(images, 1, seed=f"{seed}-{number}")[0].datasets["L-CC"]
    dataset.Modality, dataset.SOPClassUID = "DX", CHEST
    dataset.file_meta.MediaStorageSOPClassUID = CHEST
    dataset.BodyPartExamined = "CHEST"
    pixels = np.random.default_rng(number).integers(0, 256, (64, 64)).astype(np.uint8)
    dataset.PixelData = pixels.tobytes()
    return dataset


class Stream:
    """Studies that are sent one after the other, in a thread."""

    def __init__(self, house: House, folder: Path, seed: str) -> None:
        self.house, self.folder, self.seed, self.sent = house, folder, seed, 0
        self.studies = [
            house.keys().pseudonymous_uid(str(uid(f"{seed}-{n}/0/study"))) for n in range(STUDIES)
        ]
        self._thread = threading.Thread(target=self._send)

    def start(self) -> None:
        self._thread.start()

    def wait(self, count: int) -> None:
        """Until so many are sent."""
        eventually(lambda: self.sent >= count, f"{count} studies sent", 300.0)

    def join(self) -> None:
        self._thread.join()

    def _send(self) -> None:
        for number in range(STUDIES):
            path = self.folder / f"{number}.dcm"
            path.write_bytes(to_bytes(chest(number, self.seed)))
            assert all(result.stored for result in self.house.send([path]))
            self.sent += 1
            time.sleep(0.1)

    def answered(self) -> dict[str, list[dict[str, Any]]]:
        """What was said of each study, each answer once."""
        found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        for said in list(self.house.predictions):
            if said["study_instance_uid"] in self.studies and said["model"]["id"] == MODEL:
                found[said["study_instance_uid"]][said["prediction_id"]] = said
        return {study: list(answers.values()) for study, answers in found.items()}


@pytest.fixture
def site(house: House, tmp_path: Path) -> Iterator[House]:
    """The house with the toy's first version running; none runs afterwards."""
    assert house.prodrome("models", "add", package(tmp_path, "1.0.0")).returncode == 0
    assert house.prodrome("models", "promote", f"{MODEL}@1.0.0").returncode == 0
    yield house
    house.prodrome("models", "retire", MODEL)


def scorer(house: House) -> psutil.Process:
    [pid] = [one.pid for one in programs(layout(house.settings)) if one.name == "score" and one.pid]
    return psutil.Process(pid)


def test_every_study_is_scored_once_whatever_happens_to_the_scorer(site: House, tmp_path: Path) -> None:
    """Replaced, refused, killed and stopped: each study has one effective prediction, of one version."""
    stream = Stream(site, tmp_path, f"stream-{time.time_ns()}")
    stream.start()
    stream.wait(STUDIES // 5)
    second, added = package(tmp_path, "1.1.0"), time.monotonic()
    assert site.prodrome("models", "add", second).returncode == 0
    assert site.prodrome("models", "promote", f"{MODEL}@1.1.0").returncode == 0
    eventually(lambda: _versions(stream)["1.1.0"], "prediction of the new version", 60.0)
    took = time.monotonic() - added
    stream.wait(2 * STUDIES // 5)
    _refused(site, tmp_path)
    stream.wait(3 * STUDIES // 5)
    workers = eventually(lambda: scorer(site).children(), "preparing processes", 60.0)
    for worker in workers:
        worker.kill()
    stream.wait(4 * STUDIES // 5)
    stopped = scorer(site)
    stopped.suspend()
    time.sleep(STOPPED_SECONDS)
    stopped.resume()
    stream.join()
    eventually(lambda: len(stream.answered()) == STUDIES, "answer for every study", 180.0)
    answers = stream.answered()
    assert {len(said) for said in answers.values()} == {1}
    assert {said["outcome"] for [said] in answers.values()} == {"predicted"}
    versions = _versions(stream)
    assert set(versions) == {"1.0.0", "1.1.0"}
    said = sum(
        p["study_instance_uid"] in answers and p["model"]["id"] == MODEL for p in list(site.predictions)
    )
    print(f"{STUDIES} studies, {dict(versions)}, {said - STUDIES} said again, new version after {took:.1f} s")
    _again(site, stream)


def _versions(stream: Stream) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for answers in stream.answered().values():
        for said in answers:
            found[said["model"]["version"]] += 1
    return found


def _refused(site: House, tmp_path: Path) -> None:
    """A damaged package and one that says something else: neither runs."""
    broken = package(tmp_path, "1.2.0")
    (broken / "model.onnx").write_bytes(b"")
    done = site.prodrome("models", "add", broken)
    assert done.returncode == 1
    assert "expected SHA-256" in done.stderr
    assert site.prodrome("models", "add", package(tmp_path, "1.3.0", meaning="else")).returncode == 0
    done = site.prodrome("models", "promote", f"{MODEL}@1.3.0")
    assert done.returncode == 1
    assert "is another model" in done.stderr
    runs = {
        row["version"]
        for row in site.json("models", "list", "--json")
        if row["model"] == MODEL and row["runs"]
    }
    assert runs == {"1.1.0"}


def _again(site: House, stream: Stream) -> None:
    """What the first version has scored is scored by the second, when an operator asks; and no more."""
    early = [study for study, [said] in stream.answered().items() if said["model"]["version"] == "1.0.0"]
    cohort = ("--model", f"{MODEL}@1.1.0", "--cohort", "modality=DX", "--json")
    foreseen = site.json("replay", *cohort, "--dry-run")
    assert foreseen["compute"] == len(early)
    assert site.prodrome("replay", *cohort).returncode == 0
    eventually(
        lambda: all(len(stream.answered()[study]) == 2 for study in early), "superseding predictions", 120.0
    )
    for study, said in stream.answered().items():
        newest = max(said, key=lambda p: p["supersedes"] is not None)
        assert newest["model"]["version"] == "1.1.0"
        assert len(said) == 1 + (study in early)
    assert site.json("replay", *cohort, "--dry-run").get("compute", 0) == 0
