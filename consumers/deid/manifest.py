"""Manifests: what was done to each instance, as lines that hold each other by hashes.

A line is a JSON object and has the SHA-256 of the line before it as `previous`: a line that was changed, taken
out, put in or moved breaks the chain. That the end was cut off shows only against the last hash kept elsewhere;
`prodrome deid` prints it. There is no value of a dataset in a manifest, and no name of a file that came in.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from schemas.errors import ProdromeError

GENESIS: Final = "0" * 64


def chained(previous: str, said: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return the line that follows `previous`, and its hash."""
    line = msgspec.json.encode({"previous": previous, **said})
    return line + b"\n", hashlib.sha256(line).hexdigest()


def verify(lines: Iterable[bytes]) -> tuple[int, str]:
    """Return how many lines a manifest has, and the hash of the last.

    Raises
    ------
    schemas.errors.ProdromeError
        A line is not what was written, or does not follow the one before it.
    """
    previous, count = GENESIS, 0
    for count, line in enumerate(lines, 1):
        try:
            said = msgspec.json.decode(line)
        except msgspec.DecodeError:
            raise ProdromeError(f"line {count}: expected a JSON object") from None
        if not isinstance(said, dict) or said.get("previous") != previous:
            raise ProdromeError(f"line {count}: expected one that follows {previous[:12]}")
        previous = hashlib.sha256(line.rstrip(b"\n")).hexdigest()
    return count, previous


def counted(actions: Mapping[str, Any]) -> Counter[str]:
    """Count the actions of a manifest by their letter, at every level; `own` is what was put in."""
    found: Counter[str] = Counter()
    for done in actions.values():
        if isinstance(done, str):
            found[done.split(" ", 1)[0]] += 1
        else:
            for item in done:
                found += counted(item)
    return found
