"""Freeze what a release says: `python -m schemas.release` (`make release`) writes schemas/releases/<version>.

contract.json
    Topics and JSON Schemas, as `schemas.compatibility` compares them.
messages.json
    The worked examples as whole messages: topic, key, headers, body.
readers.zip
    This package, to be imported from there by tests: the release's own readers.

A release is never written twice; the version is that of pyproject.toml.
"""

import json
import sys
import zipfile
from pathlib import Path
from typing import Any, Final

from schemas.compatibility import contract
from schemas.generate import ROOT
from schemas.worked_examples import messages

RELEASES: Final = ROOT / "releases"
#: Of every file in the archive, so that the same sources give the same bytes.
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


def latest() -> Path:
    """Return the folder of the newest release."""
    return max(RELEASES.iterdir(), key=lambda path: [int(part) for part in path.name.split(".")])


def freeze(releases: Path = RELEASES) -> Path:
    """Write the release of this checkout and return its folder.

    Raises
    ------
    FileExistsError
        This version was released: a change since then is a new version.
    """
    said = contract()
    folder = releases / str(said["version"])
    folder.mkdir(parents=True)
    _write(folder / "contract.json", said)
    _write(folder / "messages.json", [_shown(worked.message) for worked in messages()])
    with zipfile.ZipFile(folder / "readers.zip", "w") as archive:
        for path in sorted(ROOT.glob("*.py")):
            entry = zipfile.ZipInfo(f"schemas/{path.name}", _EPOCH)
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return folder


def _shown(message: Any) -> dict[str, Any]:
    headers = {name: value.decode() for name, value in message.headers}
    return {
        "topic": message.topic,
        "key": message.key.decode(),
        "headers": headers,
        "value": message.value.decode(),
    }


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


if __name__ == "__main__":
    try:
        print(freeze())
    except FileExistsError as error:
        sys.exit(f"{error.filename}: this version is released; the next one needs another in pyproject.toml")
