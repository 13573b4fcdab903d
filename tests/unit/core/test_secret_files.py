"""A secret's file is read only if it is for its owner, or comes from root for a group."""

import os
from pathlib import Path

import pytest

from infra.secret_files import private, read_secret, write_secret
from schemas.errors import SettingsError


@pytest.mark.parametrize(
    ("owner", "mode", "good"),
    [
        (1000, 0o600, True),
        (1000, 0o400, True),
        (1000, 0o640, False),
        (1000, 0o604, False),
        (0, 0o440, True),
        (0, 0o640, True),
        (0, 0o660, False),
        (0, 0o644, False),
    ],
)
def test_who_may_read_a_secret(owner: int, mode: int, good: bool) -> None:
    """Of root's files the group may read, never write; of others' nobody else may do anything."""
    assert private(os.stat_result((0o100000 | mode, 0, 0, 1, owner, 10001, 0, 0, 0, 0))) == good


def test_a_secret_is_written_for_its_owner_and_refused_when_others_may_read_it(tmp_path: Path) -> None:
    """Read back without white space; opened to others it is none."""
    path = tmp_path / "secrets" / "one"
    write_secret(path, "word\n")
    assert read_secret(path, "") == "word"
    path.chmod(0o604)
    with pytest.raises(SettingsError, match="read by others"):
        read_secret(path, "")
