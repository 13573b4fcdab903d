"""What is sent under faults: small synthetic MR images, with doubles, corrections, conflicts and doubts among them."""

import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from infra.demo import VIEWS, make_exams, to_bytes
from infra.load import mr_instance, write_mr


def changed(data: bytes, change: Callable[[Dataset], None]) -> bytes:
    """Return a file with something else in it."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    change(dataset)
    return to_bytes(dataset)


def renumber(dataset: Dataset) -> None:
    """Other content in the same pixels: a correction."""
    dataset.InstanceNumber = int(dataset.InstanceNumber) + 1000


def repaint(dataset: Dataset) -> None:
    """Other pixels: a conflict."""
    pixels = bytearray(dataset.PixelData)
    pixels[0] ^= 1
    dataset.PixelData = bytes(pixels)


def flag(dataset: Dataset) -> None:
    """Text burned in, it says: waits in quarantine."""
    dataset.BurnedInAnnotation = "YES"


def small_load(folder: Path, seed: str, studies: int = 2) -> list[list[Path]]:
    """Write a few instances of each kind; returns them by association."""
    folder.mkdir(parents=True, exist_ok=True)
    sent: list[list[Path]] = []
    for study in range(studies):
        plain = [mr_instance(seed, study, n, side=8) for n in range(4)]
        doubtful = changed(mr_instance(seed, study, 9, side=8), flag)
        again = [plain[1], changed(plain[2], renumber), changed(plain[3], repaint)]
        for name, some in (("first", [*plain, doubtful]), ("again", again)):
            sent.append([])
            for n, data in enumerate(some):
                sent[-1].append(folder / f"{study}-{name}-{n}.dcm")
                sent[-1][-1].write_bytes(data)
    return sent


def write_small(folder: Path, seed: str, instances: int, a_study: int = 12) -> list[Path]:
    """Write plain instances of 8 x 8 pixels and return their paths."""
    return write_mr(folder, seed, instances, a_study, side=8)


class Stream:
    """Files without end, written when they are asked for: plain ones, and in each study one of every other kind.

    Every fourth study is a mammography exam of a few pixels, which a model answers (`exams`, as sent).
    """

    def __init__(self, folder: Path, seed: str, a_study: int = 8) -> None:
        folder.mkdir(parents=True)
        self._folder, self._seed, self._a_study = folder, seed, a_study
        self.exams: list[str] = []
        self.count = 0

    def __iter__(self) -> Iterator[Path]:
        for study in itertools.count():
            for data in self._exam(study) if study % 4 == 3 else self._mixed(study):
                path = self._folder / f"{self.count:07d}.dcm"
                path.write_bytes(data)
                self.count += 1
                yield path

    def _mixed(self, study: int) -> list[bytes]:
        plain = [mr_instance(self._seed, study, n, side=8) for n in range(self._a_study)]
        doubtful = changed(mr_instance(self._seed, study, 900, side=8), flag)
        return [*plain, plain[0], changed(plain[1], renumber), changed(plain[2], repaint), doubtful]

    def _exam(self, study: int) -> list[bytes]:
        images = {view: np.full((16, 12), 40 + n + study % 100, np.uint8) for n, view in enumerate(VIEWS)}
        [exam] = make_exams(images, 1, seed=f"{self._seed} {study}")
        self.exams.append(str(exam.datasets["L-CC"].StudyInstanceUID))
        return [to_bytes(dataset) for dataset in exam.datasets.values()]


def write_changed(path: Path, change: Callable[[Dataset], None]) -> Path:
    """Write another version of a file beside it and return its path."""
    other = path.with_suffix(".other.dcm")
    other.write_bytes(changed(path.read_bytes(), change))
    return other
