"""What the tests of burned-in text share: pictures, and one child that searches them."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from consumers.deid.picture import Picture
from consumers.pixeltext.child import Child

_SHARED = Path(os.environ.get("PRODROME_SHARED", Path(__file__).parents[4] / "shared")) / "data"


def picture(frames: np.ndarray, **changes: object) -> Picture:
    """A native picture of frames (frames, rows, columns[, samples])."""
    values = {
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "native": True,
        "rows": frames.shape[1],
        "columns": frames.shape[2],
        "samples": frames.shape[3] if frames.ndim == 4 else 1,
        "frames": frames.shape[0],
        "bits_allocated": 8 * frames.itemsize,
        "bits_stored": 8 * frames.itemsize,
        "high_bit": 8 * frames.itemsize - 1,
        "signed": False,
        "photometric": "RGB" if frames.ndim == 4 else "MONOCHROME2",
        "planar": 0,
        "value": frames.tobytes(),
        **changes,
    }
    return Picture(**values)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def child() -> Iterator[Child]:
    """A child process with a detector, for all tests."""
    running = Child()
    yield running
    running.close()


@pytest.fixture(scope="session")
def ultrasound() -> Path:
    """A real ultrasound image with text in it."""
    path = _SHARED / "deid-pixels/deid_data/data/ultrasounds/GREYSCALE_IMAGE.dcm"
    if not path.exists():
        pytest.skip(f"test data absent: {path}")
    return path
