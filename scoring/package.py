"""Model packages: a directory that is loaded only if it is exactly what its digests say.

::

    card.toml      what the model accepts and gives (`scoring.card`)
    *.onnx         its graphs; weights inside, no external data, no custom operator
    digests.json   SHA-256 of every other file, by relative path
    LICENSE ...    and whatever the card names

1. Read the list of digests; refuse paths that leave the directory.
2. Compare the list with what lies there: nothing more, nothing less, plain files only.
3. Read each file once, through a descriptor that follows no link, and compare its digest.
4. Check the card, and the operators of each graph, on those same bytes.

What was checked is what is used: no file is opened a second time. A package may be pinned by its digest
from the settings; `digests.json` by itself shows damage, not an intruder who can write it too.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from schemas.errors import ProdromeError
from scoring.card import Card, digest_of, read_card
from scoring.graph import check_graph

DIGESTS: Final = "digests.json"
CARD: Final = "card.toml"
MAX_FILE_BYTES: Final = 2**30  # larger graphs need external data, which is refused
MAX_PACKAGE_BYTES: Final = 2 * MAX_FILE_BYTES
#: Kinds of files that a package may hold: data that is read, nothing that could run when it is opened.
SUFFIXES: Final = frozenset({"", ".toml", ".json", ".onnx", ".npz", ".csv", ".png", ".md", ".txt"})


class PackageRefused(ProdromeError):
    """A model package is not what its digests and its card say."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A checked package; `digest` is the model digest of every prediction."""

    path: Path
    card: Card
    digest: str
    files: dict[str, bytes]

    def graph(self, name: str) -> bytes:
        """Return the bytes of a graph, as checked."""
        return self.files[self.card.graph(name).file]

    @cached_property
    def preparation_digest(self) -> str:
        """SHA-256 over all that steers the preparation: two packages of which it is equal prepare alike."""
        card = self.card
        used = [card.graph(name).file for name in card.preparation.uses]
        names = sorted({*card.preparation.files.values(), *used})
        digests = {name: hashlib.sha256(self.files[name]).hexdigest() for name in names}
        return digest_of(
            {"input": card.input, "intake": card.intake, "preparation": card.preparation, "files": digests}
        )


def read_package(path: Path, expected_digest: str | None = None) -> Package:
    """Read and check a model package.

    Parameters
    ----------
    path : Path
        The package's directory.
    expected_digest : str, optional
        The digest that the settings pin; any other is refused.

    Raises
    ------
    PackageRefused, CardInvalid
        With what was expected and what came.
    """
    digests = _read_digests(path)
    digest = package_digest(digests)
    if expected_digest not in (None, digest):
        raise PackageRefused(f"{path.name}: expected package digest {expected_digest}, found {digest}")
    _compare_listing(path, set(digests))
    files: dict[str, bytes] = {}
    for name, expected in digests.items():
        files[name] = _read_checked(path, name, expected)
        if sum(map(len, files.values())) > MAX_PACKAGE_BYTES:
            raise PackageRefused(
                f"{path.name}: expected at most {MAX_PACKAGE_BYTES} bytes in all, found more"
            )
    card = read_card(files[CARD])
    for name in card.named_files:
        if name not in files:
            raise PackageRefused(f"{path.name}: expected {name}, which the card names, found none")
    for graph in card.graphs:
        check_graph(files[graph.file], graph.operators, graph.opset)
    return Package(path=path, card=card, digest=digest, files=files)


def package_digest(digests: dict[str, str]) -> str:
    """Return the SHA-256 over the sorted lines ``digest  path`` of a package."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def digests_of(path: Path) -> dict[str, str]:
    """Return SHA-256 by relative path of a directory's files; for the tools that write packages."""
    names = sorted(_listing(path) - {DIGESTS})
    return {name: hashlib.sha256(_read_plain(path, name)).hexdigest() for name in names}


def _read_digests(path: Path) -> dict[str, str]:
    try:
        digests = msgspec.json.decode(_read_plain(path, DIGESTS), type=dict[str, str])
    except msgspec.DecodeError as error:
        raise PackageRefused(
            f"{path.name}/{DIGESTS}: expected an object of path: SHA-256, {error}"
        ) from error
    for name in digests:
        _check_name(path, name)
    if CARD not in digests:
        raise PackageRefused(f"{path.name}/{DIGESTS}: expected {CARD}, found {sorted(digests)}")
    return digests


def is_plain_name(name: str) -> bool:
    """Return whether a listed path is relative, plain, and leads to nowhere outside."""
    pure = PurePosixPath(name)
    plain = name == str(pure) and "\\" not in name and "\0" not in name and name != "."
    return plain and not pure.is_absolute() and ".." not in pure.parts


def _check_name(path: Path, name: str) -> None:
    if not is_plain_name(name):
        raise PackageRefused(f"{path.name}/{DIGESTS}: expected paths inside the package, found {name!r}")
    if PurePosixPath(name).suffix not in SUFFIXES:
        raise PackageRefused(
            f"{path.name}/{DIGESTS}: expected files of the kinds {sorted(SUFFIXES)}, found {name!r}"
        )


def _compare_listing(path: Path, listed: set[str]) -> None:
    found = _listing(path) - {DIGESTS}
    if found != listed:
        raise PackageRefused(
            f"{path.name}: expected the files of {DIGESTS}, missing {sorted(listed - found)}, "
            f"unlisted {sorted(found - listed)}"
        )


def _listing(path: Path) -> set[str]:
    names = set()
    for folder, folders, files in os.walk(path, followlinks=False):
        for name in (*folders, *files):
            if (Path(folder) / name).is_symlink():
                raise PackageRefused(f"{path.name}: expected plain files, found the link {name!r}")
        names |= {(Path(folder) / name).relative_to(path).as_posix() for name in files}
    return names


def _read_checked(path: Path, name: str, expected: str) -> bytes:
    data = _read_plain(path, name)
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise PackageRefused(f"{path.name}/{name}: expected SHA-256 {expected}, found {found}")
    return data


def _read_plain(path: Path, name: str) -> bytes:
    try:
        # O_NONBLOCK: a pipe in place of a file must be refused, not waited for.
        descriptor = os.open(path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise PackageRefused(f"{path.name}/{name}: expected a readable file, {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise PackageRefused(
                f"{path.name}/{name}: expected a plain file with one name, found a link or device"
            )
        if status.st_size > MAX_FILE_BYTES:
            raise PackageRefused(
                f"{path.name}/{name}: expected at most {MAX_FILE_BYTES} bytes, found {status.st_size}"
            )
        return file.read(MAX_FILE_BYTES + 1)
