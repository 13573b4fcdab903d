"""Fetch the jars of Kafka and Cassandra, once, from Maven artefacts.

1. `jars/<part>.pom.xml` names the part, `jars/<part>.sha256` every jar it consists of, with its digest.
2. Maven copies them into a folder beside the final one; each is checked against the list.
3. The folder is renamed into place: there is either all of it or nothing.

The folder's name carries the digest of the list, so a new version never replaces jars under a running
process. `python -m infra.stack.fetch` writes the lists anew after a change of a pom.
"""

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console

from infra.stack.java import find_maven
from infra.stack.layout import PARTS, Layout, StackError

_JARS: Final = Path(__file__).parent / "jars"


def jar_folder(layout: Layout, part: str) -> Path:
    """Where the jars of a part lie once they are fetched."""
    return layout.lib / part / hashlib.sha256(_list_file(part).read_bytes()).hexdigest()[:12]


def fetch(layout: Layout, say: Callable[[str], None] = lambda _: None) -> None:
    """Make the jars of all parts present; returns at once when they are.

    Parameters
    ----------
    layout : Layout
        Says where they belong.
    say : Callable[[str], None]
        Told once, if there is something to fetch; a terminal sees how far it is, too.

    Raises
    ------
    MissingPrerequisite
        If jars are missing and Maven is, too.
    StackError
        If Maven fails or a jar is not the one on the list.
    """
    if all(jar_folder(layout, part).is_dir() for part in PARTS):
        return
    maven = find_maven()
    say("fetching Kafka and Cassandra from Maven (110 MB, this once)")
    layout.lib.mkdir(parents=True, exist_ok=True)
    with _alone(layout.lib / "lock"):
        for part in PARTS:
            if not jar_folder(layout, part).is_dir():
                _fetch_part(maven, part, jar_folder(layout, part))


def _fetch_part(maven: Path, part: str, target: Path) -> None:
    expected = read_list(part)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="fetch-") as temporary:
        folder = Path(temporary) / "jars"
        _run_maven(maven, part, folder, expected)
        got = {jar.name: _digest(jar) for jar in folder.glob("*.jar")}
        if got != expected:
            odd = sorted(name for name, _ in got.items() ^ expected.items())
            raise StackError(f"{part}: expected the jars of {_list_file(part)}; differ: {', '.join(odd[:5])}")
        folder.rename(target)


def _run_maven(maven: Path, part: str, folder: Path, expected: Collection[str]) -> None:
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={folder}"]
    command = [str(maven), "-B", "-C", "-f", str(_pom(part)), *goal]
    tail: list[str] = []
    with (
        Console(stderr=True).status(f"fetching {part}") as line,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
    ):
        fetched = 0
        for text in process.stdout or ():
            tail = [*tail, text.rstrip()][-20:]
            fetched += "Downloaded from" in text and Path(text.split(" (")[0]).name in expected
            line.update(f"fetching {part}: {fetched} of {len(expected)} jars")
    if process.returncode:
        errors = [text for text in tail if "ERROR" in text][:3] or tail[-3:]
        raise StackError(
            f"fetching {part} failed (mvn exit status {process.returncode}): {' | '.join(errors)}"
        )


def read_list(part: str) -> dict[str, str]:
    """Jar name to SHA-256, as sha256sum writes it."""
    lines = _list_file(part).read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def _pom(part: str) -> Path:
    return _JARS / f"{part}.pom.xml"


def _list_file(part: str) -> Path:
    return _JARS / f"{part}.sha256"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_lists() -> None:
    """Resolve the poms again and write down which jars they mean today."""
    for part in PARTS:
        folder = Path(tempfile.mkdtemp(prefix="prodrome-jars-"))
        _run_maven(find_maven(), part, folder, {})
        lines = [f"{_digest(jar)}  {jar.name}\n" for jar in sorted(folder.glob("*.jar"))]
        _list_file(part).write_text("".join(lines))
        shutil.rmtree(folder)


if __name__ == "__main__":
    write_lists()
