"""A stream of studies while a model is replaced, a bad one refused, a worker killed and the scorer stopped.

A linear toy model for chest images of 64 x 64 pixels, so that what is tried is the stage and not the model. The
stream goes on for as long as anything is tried. In the short form 8 studies and more pass between two events, and the
stop takes 15 s, longer than the session of a consumer group; `RUN_SLOW=1` has 40 and 60 s.
"""

import itertools
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
BETWEEN = 40 if LONG else 8  # studies, from one event to the next
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
    """Studies that are sent one after the other, in a thread, until it is ended."""

    def __init__(self, house: House, folder: Path, seed: str) -> None:
        self.house, self.folder, self.seed = house, folder, seed
        #: pseudonymous UIDs of those that were sent
        self.studies: list[str] = []
        self._enough = threading.Event()
        self._sender = ThreadPoolExecutor(1)

    def __enter__(self) -> "Stream":
        self._sending = self._sender.submit(self._send)
        return self

    def __exit__(self, *failure: object) -> None:
        self._enough.set()
        self._sender.shutdown()

    def more(self) -> None:
        """Wait for `BETWEEN` studies more."""
        wanted = len(self.studies) + BETWEEN
        eventually(
            lambda: len(self.studies) >= wanted or self._sending.done(), f"{wanted} studies sent", 300.0
        )

    def end(self) -> None:
        """Send no more; raises what went wrong while it was sent."""
        self._enough.set()
        self._sending.result()

    def _send(self) -> None:
        for number in itertools.count():
            if self._enough.wait(0.1):
                return
            path = self.folder / f"{number}.dcm"
            path.write_bytes(to_bytes(chest(number, self.seed)))
            assert all(result.stored for result in self.house.send([path]))
            study = str(uid(f"{self.seed}-{number}/0/study"))
            self.studies.append(self.house.keys().pseudonymous_uid(study))

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
    with Stream(site, tmp_path, f"stream-{time.time_ns()}") as stream:
        stream.more()
        second, added = package(tmp_path, "1.1.0"), time.monotonic()
        assert site.prodrome("models", "add", second).returncode == 0
        assert site.prodrome("models", "promote", f"{MODEL}@1.1.0").returncode == 0
        eventually(lambda: _versions(stream)["1.1.0"], "prediction of the new version")
        took = time.monotonic() - added
        _refused(site, tmp_path)
        stream.more()
        for worker in eventually(lambda: scorer(site).children(), "preparing processes", 60.0):
            worker.kill()
        stream.more()
        stopped = scorer(site)
        stopped.suspend()
        time.sleep(STOPPED_SECONDS)
        stopped.resume()
        stream.more()
        stream.end()
    studies = len(stream.studies)
    eventually(lambda: len(stream.answered()) == studies, "answer for every study", 180.0)
    answers = stream.answered()
    assert {len(said) for said in answers.values()} == {1}
    assert {said["outcome"] for [said] in answers.values()} == {"predicted"}
    versions = _versions(stream)
    assert set(versions) == {"1.0.0", "1.1.0"}
    said = sum(
        p["study_instance_uid"] in answers and p["model"]["id"] == MODEL for p in list(site.predictions)
    )
    print(f"{studies} studies, {dict(versions)}, {said - studies} said again, new version after {took:.1f} s")
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
