"""The boundary's profile: read from the settings, and refused where the clean zone would see original UIDs."""

from pathlib import Path

import pytest

from consumers.boundary import profile_of
from infra.settings import Settings, load
from schemas.errors import ProdromeError


def _settings(profile: str) -> Settings:
    return load({"PRODROME_DEIDENTIFY_PROFILE": profile})


def test_a_profile_is_read_from_the_settings(tmp_path: Path) -> None:
    """By name or by the path of a file."""
    path = tmp_path / "site.toml"
    path.write_text('name = "site"\nbase = "research"\n')
    assert profile_of(_settings("safe-harbor")).name == "safe-harbor"
    assert profile_of(_settings(str(path))).name == "site"


def test_a_profile_that_retains_uids_is_refused(tmp_path: Path) -> None:
    """Topics and tables of the clean zone know pseudonyms only."""
    path = tmp_path / "site.toml"
    path.write_text('name = "site"\nbase = "basic"\noptions = ["uids"]\n')
    with pytest.raises(ProdromeError, match="retains UIDs"):
        profile_of(_settings(str(path)))
