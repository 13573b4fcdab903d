"""One dataset while it arrives: bounded memory, bytes untouched.

1. Fragments stay where they were received, up to `MEMORY_BYTES`, or less while all associations together hold
   much.
2. A larger dataset goes straight into the spool, as a segment of its own.
3. `store` makes either durable.

A lack of space is remembered and answered at the end of the message; a dataset over the limit ends the
association at once.
"""

import threading
from typing import Final

import xxhash

from infra.spool import InstanceHeader, LargeInstance, Spool, Stored
from schemas.dicom_reader import FIRST_BYTES, SCAN_BYTES, Found, scan
from schemas.errors import Refused

#: A dataset above this goes to a segment of its own: most single images are below, and a segment costs two
#: folder syncs, about as long as receiving 16 MB.
MEMORY_BYTES: Final = 16 << 20
#: All datasets in memory together, but for the first `SHARE_BYTES` of each, which lie in the block that its
#: association has anyway; above it a dataset that is larger than those is moved to the spool.
BUDGET_BYTES: Final = 256 << 20
SHARE_BYTES: Final = 1 << 20


class Budget:
    """Bytes of datasets in memory, over all associations."""

    def __init__(self, limit: int = BUDGET_BYTES) -> None:
        self._limit, self._held, self._lock = limit, 0, threading.Lock()

    def add(self, count: int) -> bool:
        """Count bytes that came into memory, or left it; return whether all is within the budget."""
        with self._lock:
            self._held += count
            return self._held <= self._limit


class Intake:
    """A dataset on its way into the spool; `length` is what has come."""

    def __init__(self, spool: Spool, budget: Budget, limit: int) -> None:
        self.length = 0
        self.refusal: Refused | None = None
        self._spool, self._budget, self._limit = spool, budget, limit
        self._large: LargeInstance | None = None
        self._pieces: list[bytes | memoryview] = []
        self._held = self._counted = 0
        self._head = b""
        self._hash = xxhash.xxh3_64()
        self._found: Found | None = None
        self._ended = False

    def add(self, data: bytes | memoryview) -> bool:
        """Take a fragment, or a part of one; return whether its bytes are kept where they are.

        Raises
        ------
        Refused
            `too_large`: past the limit.
        """
        self.length += len(data)
        if self.length > self._limit:
            self.discard()
            raise Refused("too_large")
        if self.refusal is None and not self._ended:
            try:
                return self._keep(data)
            except Refused as refusal:
                self.discard()
                self.refusal = refusal
        return False

    def look(self, transfer_syntax_uid: str) -> Found:
        """Return what the dataset's beginning says; looked up once, while the rest may still be on its way."""
        if self._found is None or not self._found.whole:
            self._found = scan(self._beginning(FIRST_BYTES), transfer_syntax_uid)
            if not self._found.whole and self.length > FIRST_BYTES:
                self._found = scan(self._beginning(SCAN_BYTES), transfer_syntax_uid)
        return self._found

    def store(self, header: InstanceHeader) -> Stored:
        """Return once the dataset is durable; raise `Refused` where it is not."""
        if self.refusal is not None:
            raise self.refusal
        try:
            if self._large is not None:
                return self._large.finish(header)
            return self._spool.store(header, *self._pieces, hashed=self._hash.intdigest())
        finally:
            self._large = None  # finished, or discarded by the spool
            self.discard()

    def discard(self) -> None:
        """Forget what has come, memory and file, and whatever still comes."""
        self._ended = True
        large, self._large = self._large, None
        if large is not None:
            large.discard()
        self._forget()

    def _keep(self, data: bytes | memoryview) -> bool:
        if self._large is not None:
            self._large.write(data)
            return False
        self._pieces.append(data)
        self._hash.update(data)
        self._held += len(data)
        if self._held > SHARE_BYTES and not self._within():
            self._move_to_spool()
            return False
        return True

    def _within(self) -> bool:
        more, self._counted = self._held - self._counted, self._held
        return self._budget.add(more) and self._held <= MEMORY_BYTES

    def _move_to_spool(self) -> None:
        self._head = self._beginning(SCAN_BYTES)
        self._large = self._spool.begin_large()
        self._large.write(*self._pieces)
        self._forget()

    def _beginning(self, wanted: int) -> bytes:
        found: list[bytes | memoryview] = []
        for piece in self._pieces or (self._head,):
            found.append(piece[:wanted])
            wanted -= len(found[-1])
            if not wanted:
                break
        return b"".join(found)

    def _forget(self) -> None:
        self._held, self._pieces = 0, []
        if self._counted:
            self._budget.add(-self._counted)
            self._counted = 0
