"""What is sent under faults: small synthetic MR images, with doubles, corrections, conflicts and doubts among them."""

import io
from collections.abc import Callable
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from infra.demo import to_bytes
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
