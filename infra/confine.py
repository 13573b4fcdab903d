"""Landlock: a role's process may touch only the folders that are its own. Linux 5.13 and later; no dependency.

1. `rules` says which paths a role may read and write: its stores by `schemas.access`, its own secrets and work
   folder, and what Python and the system's libraries need.
2. `confine` asks the kernel to allow nothing else, to this process and all that it starts, for good.

It comes on top of the account's own permissions: all roles run as one user, and still a scorer cannot open the
spool, another role's password, or another process's memory. It acts on files opened from then on, and must come
before threads are started. What it does not hold back stands in docs/decisions/0027-landlock.md.
"""

import ctypes
import logging
import os
import struct
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit

from infra.settings import Settings
from schemas import access
from schemas.errors import SettingsError

log = logging.getLogger(__name__)

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PR_SET_NO_NEW_PRIVS: Final = 38
_VERSION: Final = 1  # flag of create_ruleset: say which version of the interface the kernel has
_BENEATH: Final = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_CHANGE_FOLDER: Final = sum(1 << bit for bit in range(4, 13))
_REFER, _TRUNCATE = 1 << 13, 1 << 14
#: Signals to processes outside, and abstract sockets of theirs (interface version 6).
_SCOPES: Final = 0b11

_READ: Final = _READ_FILE | _READ_DIR
_WRITE: Final = _WRITE_FILE | _CHANGE_FOLDER | _REFER | _TRUNCATE
#: What may be asked for a file; the rest is about folders.
_OF_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE

Allowed = Literal["list", "read", "run", "write", "change"]
_BITS: Final[dict[Allowed, int]] = {
    "list": _READ_DIR,
    "read": _READ,
    "run": _READ | _EXECUTE,
    "write": _WRITE,
    "change": _READ | _WRITE,
}
#: Where libraries, time zones, host names and the shape of the machine are looked up.
_SYSTEM: Final = (
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/etc",
    "/nix/store",
    "/proc",
    "/sys",
    "/run/systemd/resolve",
)
_ROOMS: Final = ("commands", "consumers", "infra", "producers", "schemas", "scoring", "prodrome.py")


class Rule(NamedTuple):
    """One path, and what is allowed to it and below it."""

    path: Path
    allowed: Allowed


def rules(found: Settings, principal: str) -> Iterator[Rule]:
    """Yield what the process of a role may touch."""
    yield from _python()
    yield from (Rule(Path(path), "run") for path in _SYSTEM)
    yield Rule(Path("/dev"), "read")
    yield from (Rule(Path(path), "change") for path in ("/dev/null", "/dev/shm"))  # noqa: S108 semaphores
    for store in access.STORES:
        rights = access.store_rights(principal, store)
        for path in _places(found, store.name) if rights else ():
            yield Rule(path, _allowed(rights))
    yield from (Rule(path, "read") for path in (*_files(found, principal), *_exchanged(found, principal)))
    yield Rule(work_folder(found, principal), "change")


def work_folder(found: Settings, principal: str) -> Path:
    """Return the folder of what a role writes for itself: journals, temporary files."""
    return found.home / "work" / principal


def enter(found: Settings, principal: str) -> bool:
    """Confine this process to what its role may touch, as the settings say; return whether it is.

    Folders that are the role's own are made first: what is not there cannot be allowed.
    """
    temporary = work_folder(found, principal) / "tmp"
    temporary.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    for store in access.STORES:
        if access.store_rights(principal, store) and store.name not in ("keys", "buckets"):
            for path in _places(found, store.name):
                if path.is_relative_to(found.home):
                    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return confine(rules(found, principal), found.role.confine)


def confine(wanted: Iterable[Rule], mode: str) -> bool:
    """Confine this process to `wanted` and return whether that is so.

    Parameters
    ----------
    wanted : iterable of Rule
        Paths that do not exist are left out.
    mode : str
        ``auto``: where the kernel can; ``off``; ``required``: or raise.

    Raises
    ------
    SettingsError
        The mode is another word, or it is ``required`` and the kernel has no Landlock.
    """
    if mode not in ("auto", "off", "required"):
        raise SettingsError(f"PRODROME_ROLE_CONFINE: expected auto, off or required, came {mode!r}")
    version = 0 if mode == "off" else _version()
    if version < 1:
        if mode == "required":
            raise SettingsError("PRODROME_ROLE_CONFINE is required, and this kernel has no Landlock")
        log.warning("not confined: %s", "switched off" if mode == "off" else "this kernel has no Landlock")
        return False
    handled = _handled(version)
    ruleset = _create(version, handled)
    try:
        for rule in wanted:
            _add(ruleset, rule, handled)
        _call(None, "prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _call(_RESTRICT_SELF, "restrict", ruleset, 0)
    finally:
        os.close(ruleset)
    return True


def _python() -> Iterator[Rule]:
    for path in {sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(sys.executable).resolve().parent)}:
        yield Rule(Path(path), "run")
    checkout = Path(__file__).resolve().parent.parent
    yield Rule(checkout, "list")  # imports look for names there; a home may lie below, so no more than names
    yield from (Rule(checkout / room, "read") for room in _ROOMS)


def _places(found: Settings, store: str) -> tuple[Path, ...]:
    places = {
        "spool": (found.spool.path, *found.spool.others),
        "quarantine": _folder(found.trusted.store),
        "clean": _folder(found.clean.store),
        "results": _folder(found.score.store),
        "keys": (found.deidentify.master_key_file,),
        "buckets": tuple(filter(None, (found.buckets.credentials_file, found.buckets.tls_ca))),
    }
    return tuple(Path(path) for path in places[store])


def _folder(url: str) -> tuple[str, ...]:
    parts = urlsplit(url)
    return (parts.path,) if parts.scheme == "file" else ()


def _allowed(rights: frozenset[access.Right]) -> Allowed:
    if len(rights) == 2:
        return "change"
    return "write" if "write" in rights else "read"


def _files(found: Settings, principal: str) -> Iterator[Path]:
    named: list[str] = [found.receive.sources]
    for zone, at in (("trusted", found.trusted), ("clean", found.clean)):
        if access.uses(principal, zone):  # type: ignore[arg-type]
            named += [at.kafka_password_file, at.cassandra_password_file, at.tls_ca, at.tls_cert, at.tls_key]
        if access.uses_store(principal, zone):  # type: ignore[arg-type]
            named.append(at.store_credentials_file)
    if principal == "score":
        named += found.score.models.split(":")
    yield from (Path(name) for name in named if name)


def _exchanged(found: Settings, principal: str) -> Iterator[Path]:
    """Yield the places of files that are replaced while a role runs.

    A rule holds the file that was there when it was made, so their folder is allowed; but for one that holds
    the home, or the stack's own secrets.
    """
    named: tuple[str, ...] = ()
    if principal == "receive":
        named = (found.receive.tls_cert, found.receive.tls_key, found.receive.tls_ca)
    if principal == "relay" and found.reader.port >= 0:
        named = (found.reader.tokens_file, found.reader.tls_cert, found.reader.tls_key)
    if principal == "deidentify" and found.spool.readers:
        named = (found.spool.token_file, found.spool.tls_ca)
    for path in (Path(name).absolute() for name in named if name):
        whole = path.parent != found.home / "secrets" and not found.home.is_relative_to(path.parent)
        yield path.parent if whole else path


def _version() -> int:
    try:
        return _call(_CREATE_RULESET, "version", None, 0, _VERSION)
    except OSError:
        return 0


def _handled(version: int) -> int:
    handled = _EXECUTE | _READ | _WRITE_FILE | _CHANGE_FOLDER
    return handled | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)


def _create(version: int, handled: int) -> int:
    # The structure has grown: files, then network (4), then scopes (6). A kernel takes what it knows.
    attributes = struct.pack("=Q", handled)
    if version >= 6:
        attributes = struct.pack("=QQQ", handled, 0, _SCOPES)
    return _call(_CREATE_RULESET, "create", attributes, len(attributes), 0)


def _add(ruleset: int, rule: Rule, handled: int) -> None:
    try:
        opened = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        bits = _BITS[rule.allowed] & handled
        bits &= ~0 if rule.path.is_dir() else _OF_FILES
        _call(_ADD_RULE, "add", ruleset, _BENEATH, struct.pack("=Qi", bits, opened), 0)
    finally:
        os.close(opened)


def _call(number: int | None, what: str, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.prctl(*arguments) if number is None else libc.syscall(number, *arguments)
    if done < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock {what}: {os.strerror(error)}")
    return int(done)
