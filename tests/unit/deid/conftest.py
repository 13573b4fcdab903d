"""What the de-identification tests share: the profile, and the shared data where they are."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from consumers.deid.engine import Profile, basic_profile

_SHARED = Path(os.environ.get("PRODROME_SHARED", Path(__file__).parents[4] / "shared")) / "data"


@pytest.fixture(scope="session")
def profile() -> Profile:
    """The Basic profile."""
    return basic_profile()


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """A path below shared/data; skips with the reason where it is absent."""

    def find(name: str) -> Path:
        path = _SHARED / name
        if not path.exists():
            pytest.skip(f"test data absent: {path}")
        return path

    return find


@pytest.fixture(scope="session")
def dicom_files(shared: Callable[[str], Path]) -> list[Path]:
    """Every file of the shared data that has the DICM prefix: 801."""

    def is_dicom(path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"

    root = shared("")
    return sorted(path for path in root.rglob("*") if path.is_file() and is_dicom(path))
