"""Secrets live in files that only their owner can read: one check, one way to write one.

A setting names the file, never the secret. What was read is handed to the library that needs it and kept
nowhere else; no message here repeats it.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from schemas.errors import SettingsError

#: 128 random bits in hexadecimal; a word that somebody thought of is shorter.
TOKEN_CHARACTERS: Final = 32
MASTER: Final = 1  # number of the secret of which pseudonyms are made, among those of a key file
RETIRED: Final = "-"  # the line of a secret that seals nothing any more


def read_secret(path: Path, hint: str) -> str:
    """Return the text of a secret's file, without the white space around it.

    Parameters
    ----------
    path : Path
        The file.
    hint : str
        What to do when there is none: the end of the message.

    Raises
    ------
    SettingsError
        The file is absent, cannot be read, or can be read by others than its owner.
    """
    try:
        if not private(path.stat()):
            raise SettingsError(f"{path} can be read by others: chmod 600 it")
        return path.read_text().strip()
    except OSError as error:
        raise SettingsError(f"no secret at {path} ({error.strerror}): {hint}") from None


def private(found: os.stat_result) -> bool:
    """Whether a file is its owner's alone; or root's, and for its group to read.

    The second is how orchestrators of containers hand a secret to a process that is not root.
    """
    allowed = stat.S_IRGRP if found.st_uid == 0 else 0
    return not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO) & ~allowed


def read_tokens(path: Path, hint: str) -> tuple[str, ...]:
    """Return the tokens of a file, one a line, without empty lines and comments; raises as `read_secret`.

    There may be several, so that one is exchanged for another while both are admitted.
    """
    if path == Path():
        raise SettingsError(f"no file of tokens is set: {hint}")
    lines = [line.strip() for line in read_secret(path, hint).splitlines()]
    tokens = tuple(line for line in lines if line and not line.startswith("#"))
    if not tokens or min(map(len, tokens)) < TOKEN_CHARACTERS:
        raise SettingsError(f"{path}: expected lines of at least {TOKEN_CHARACTERS} random characters")
    return tokens


def parse_secrets(text: str, name: str) -> dict[int, bytes]:
    """Return the secrets (32 bytes each) of a key file's text by number: its lines, of which some may have been retired.

    Raises
    ------
    SettingsError
        A line is not 64 hexadecimal digits; `name` is said before it.
    """
    found = {}
    for number, line in enumerate(text.split("\n"), MASTER):
        if line == RETIRED and number != MASTER:
            continue
        try:
            found[number] = bytes.fromhex(line)
        except ValueError:
            found[number] = b""
        if len(found[number]) != 32:
            raise SettingsError(
                f"{name}, line {number}: expected 64 hexadecimal digits, came {len(line)} characters"
            )
    return found


def key_text(secrets: Mapping[int, bytes]) -> str:
    """Return secrets as the lines of a key file; the way back of `parse_secrets`."""
    return "\n".join(
        secrets[number].hex() if number in secrets else RETIRED for number in range(MASTER, max(secrets) + 1)
    )


def write_secret(path: Path, text: str) -> None:
    """Write a file of mode 600, whole or not at all; its folder is made for the owner alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    new.replace(path)
