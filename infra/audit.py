"""The audit trail: who did what, appended, chained by hashes, synced before the action counts as recorded.

1. `Trail.record` appends one line to ``<folder>/audit.jsonl`` (mode 600) under a lock, and syncs it.
2. Each entry holds the hash of the one before, so that a changed, removed, inserted or moved line breaks the
   chain. A full file is renamed after its first entry and the chain goes on.
3. A kill may tear the last line. The next entry is then a ``torn`` one that holds the torn bytes' hash.
4. `Trail.verify` walks all of it. That the end was cut off shows only against a head kept elsewhere
   (`Head`): `commands.wiring.audited` keeps one in the trusted keyspace, and `prodrome audit verify` prints it.

It decides nothing: actions and their meaning are `schemas.audit`'s.
"""

import datetime
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from infra.clock import Clock
from infra.spool.files import sync_folder
from schemas.audit import ACTIONS, Entry, Outcome
from schemas.errors import ProdromeError

#: A file of this size is closed and the next one begun: some 100,000 entries.
ROTATE_BYTES: Final = 32 << 20
#: Far more than an entry has; what a reader keeps in memory of a broken file.
LINE_BYTES: Final = 1 << 20
_GENESIS: Final = "0" * 64
_CURRENT: Final = "audit.jsonl"
_FORMER: Final = re.compile(r"audit-\d{12}\.jsonl")


class Broken(ProdromeError):
    """The trail is not whole; the message says where."""


class Head(NamedTuple):
    """The end of a chain: how many entries there are, and the hash of the last."""

    chain: str
    entries: int
    hash: str


class Trail:
    """The audit trail of one home; several processes may append at once.

    Parameters
    ----------
    folder : Path
        Made with mode 700 at the first entry.
    clock : Clock
        For the time that people read.
    rotate_bytes : int
        A file of this size is closed.
    """

    def __init__(self, folder: Path, clock: Clock, rotate_bytes: int = ROTATE_BYTES) -> None:
        self._folder, self._clock, self._rotate = folder, clock, rotate_bytes

    def record(self, action: str, outcome: Outcome, actor: str, objects: Mapping[str, str]) -> Head:
        """Append one entry, durable on return, and return the new head.

        Raises
        ------
        KeyError
            The action is not in the table.
        Broken
            The last entry cannot be read: `prodrome audit verify` says more. Nothing is appended to a chain
            that is broken.
        """
        if action not in ACTIONS:
            raise KeyError(action)
        with self._alone():
            head, torn, begin = self._end()
            if torn:
                head = self._append(head, "torn", "failure", actor, {"sha256": _digest(torn)}, begin)
                begin = b""
            return self._append(head, action, outcome, actor, objects, begin)

    def entries(self) -> Iterator[Entry]:
        """Yield the entries in order; torn lines are left out.

        Raises
        ------
        Broken
            The chain does not hold.
        """
        previous, sequence, chain, torn = _GENESIS, 0, None, b""
        for line in self._lines():
            entry = _entry(line)
            if entry is None:
                torn += line
                if len(torn) > LINE_BYTES:
                    raise Broken(f"behind entry {sequence - 1}: expected entries, came {len(torn)} bytes")
                continue
            where = f"entry {sequence}"
            if torn and (entry.action != "torn" or entry.objects.get("sha256") != _digest(torn)):
                raise Broken(f"{where}: what stands before it is no entry and was not recorded as torn")
            torn = b""
            if entry.hash != digest_of(entry):
                raise Broken(f"{where}: its text is not what was written")
            if entry.sequence != sequence or entry.previous != previous:
                raise Broken(f"{where}: expected to follow {previous[:12]}, came number {entry.sequence}")
            if chain not in (None, entry.chain):
                raise Broken(f"{where}: of another chain")
            chain, previous, sequence = entry.chain, entry.hash, sequence + 1
            yield entry

    def verify(self, known: Head | None = None) -> Head:
        """Walk the whole chain and return its head.

        Parameters
        ----------
        known : Head, optional
            A head that was kept elsewhere: the chain must still hold its entry.

        Raises
        ------
        Broken
            It does not hold, or ends before `known`.
        """
        head, met = Head("", 0, _GENESIS), known is None or known.entries == 0
        for entry in self.entries():
            head = Head(entry.chain, entry.sequence + 1, entry.hash)
            met = met or head == known
        if not met and known is not None:
            raise Broken(
                f"expected entry {known.entries - 1} with the hash {known.hash[:12]}; the trail has"
                f" {head.entries} entries and not this one: its end was cut off or rewritten"
            )
        return head

    def _append(
        self,
        head: Head,
        action: str,
        outcome: Outcome,
        actor: str,
        objects: Mapping[str, str],
        begin: bytes,
    ) -> Head:
        entry = Entry(
            chain=head.chain or secrets.token_hex(4),
            sequence=head.entries,
            at=datetime.datetime.fromtimestamp(self._clock.now(), datetime.UTC).isoformat(),
            actor=actor,
            action=action,
            outcome=outcome,
            objects=dict(objects),
            previous=head.hash,
        )
        entry = msgspec.structs.replace(entry, hash=digest_of(entry))
        path = self._folder / _CURRENT
        if path.exists() and path.stat().st_size >= self._rotate:
            path.rename(self._folder / f"audit-{head.entries:012d}.jsonl")
        new = not path.exists()
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            _write_all(descriptor, begin + msgspec.json.encode(entry) + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if new:
            sync_folder(self._folder)
        return Head(entry.chain, entry.sequence + 1, entry.hash)

    def _end(self) -> tuple[Head, bytes, bytes]:
        """Return the head, from the last lines alone; what is torn behind it; what must close that line."""
        torn = b""
        for path in reversed(self._files()):
            *lines, rest = _tail(path)
            # Only the end of the line may be missing: then it is an entry like any other.
            begin = b"\n" if rest else b""
            if rest and _entry(rest + b"\n") is not None:
                lines, rest = [*lines, rest + b"\n"], b""
            torn = rest
            for line in reversed(lines):
                if (entry := _entry(line)) is None:
                    torn = line + torn
                    continue
                if entry.hash != digest_of(entry):
                    raise Broken(f"the last entry, {entry.sequence}, is not what was written")
                return Head(entry.chain, entry.sequence + 1, entry.hash), torn, begin
            if torn and len(self._files()) > 1:
                raise Broken(f"{path.name}: expected an entry in it")
            if torn:
                return Head("", 0, _GENESIS), torn, begin
        return Head("", 0, _GENESIS), b"", b""

    def _files(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        former = sorted(path for path in self._folder.iterdir() if _FORMER.fullmatch(path.name))
        current = self._folder / _CURRENT
        return [*former, *([current] if current.exists() else [])]

    def _lines(self) -> Iterator[bytes]:
        for path in self._files():
            with path.open("rb") as file:
                while line := file.readline(LINE_BYTES):
                    yield line

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def digest_of(entry: Entry) -> str:
    """Return the SHA-256 of an entry without its own hash, in hex."""
    return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(entry, hash=""))).hexdigest()


def _entry(line: bytes) -> Entry | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return msgspec.json.decode(line, type=Entry)
    except msgspec.DecodeError:
        return None


def _tail(path: Path) -> list[bytes]:
    """Return the last lines, with their ends; the last item is what stands behind the last line's end."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LINE_BYTES))
        whole, end, rest = file.read().rpartition(b"\n")
    return [*(whole + end).splitlines(keepends=True), rest]


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _digest(torn: bytes) -> str:
    return hashlib.sha256(torn.rstrip(b"\n")).hexdigest()
