"""Other programs to measure beside, each set in an environment of its own, at stated versions."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from schemas.errors import ProdromeError


def install(folder: Path, versions: Mapping[str, str]) -> Path:
    """Install packages (name to version) into a folder, if they are not there yet, and return its Python."""
    python = folder / "bin" / "python"
    wanted = [f"{name}=={version}" for name, version in versions.items()]
    stamp = folder / "installed"
    if stamp.exists() and stamp.read_text() == " ".join(wanted):
        return python
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ProdromeError(f"the peers were not installed: {done.stderr.strip().splitlines()[-1:]}")
    stamp.write_text(" ".join(wanted))
    return python
