"""One dataset while it arrives: bounded memory, bytes untouched.

1. Fragments are kept in memory up to `MEMORY_BYTES`, or less while all associations together hold much.
2. A larger dataset goes straight into the spool, as a segment of its own.
3. `store` makes either durable.

It is a `BytesIO` because pynetdicom writes the fragments of a message to one; nobody reads it as a file. A
lack of space is remembered and answered at the end of the message; a dataset over the limit ends the
association at once.
"""

import threading
from io import BytesIO
from typing import Final

from infra.spool import InstanceHeader, LargeInstance, Spool, Stored
from schemas.dicom_reader import SCAN_BYTES
from schemas.errors import Refused

#: A dataset above this goes to a segment of its own: most single images are below, and a segment costs two
#: folder syncs, about as long as receiving 16 MB.
MEMORY_BYTES: Final = 16 << 20
#: All datasets in memory together; above it a dataset is moved to the spool from `SHARE_BYTES` on.
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


class Intake(BytesIO):
    """A dataset on its way into the spool."""

    def __init__(self, spool: Spool, budget: Budget, limit: int) -> None:
        super().__init__()
        self.length = 0
        self.usable_uid = True
        self.complete_at = 0.0
        self.refusal: Refused | None = None
        self._spool, self._budget, self._limit = spool, budget, limit
        self._large: LargeInstance | None = None
        self._head = b""
        self._held = 0
        self._ended = False

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Take one fragment; raise `Refused("too_large")` past the limit."""
        self.length += len(data)
        if self.length > self._limit:
            self.discard()
            raise Refused("too_large")
        if self.refusal is None and not self._ended:
            try:
                self._keep(data)
            except Refused as refusal:
                self.discard()
                self.refusal = refusal
        return len(data)

    def head(self) -> bytes:
        """Return the first bytes of the dataset, as many as a scan looks at."""
        return self._head or bytes(self.getbuffer()[:SCAN_BYTES])

    def store(self, header: InstanceHeader) -> Stored:
        """Return once the dataset is durable; raise `Refused` where it is not."""
        if self.refusal is not None:
            raise self.refusal
        try:
            if self._large is not None:
                return self._large.finish(header)
            return self._spool.store(header, self.getvalue())  # no copy: CPython shares the buffer
        finally:
            self._large = None  # finished, or discarded by the spool
            self.discard()

    def discard(self) -> None:
        """Forget what has come, memory and file, and whatever still comes."""
        self._ended = True
        if self._large is not None:
            self._large.discard()
            self._large = None
        self._budget.add(-self._held)
        self._held = 0
        self.seek(0)
        self.truncate()

    def close(self) -> None:
        """Discard; also called when an association that died takes its last message along."""
        if not self.closed:
            self.discard()
        super().close()

    def _keep(self, data: bytes) -> None:
        if self._large is not None:
            self._large.write(data)
            return
        super().write(data)
        self._held += len(data)
        within = self._budget.add(len(data))
        if self._held > MEMORY_BYTES or (not within and self._held > SHARE_BYTES):
            self._move_to_spool()

    def _move_to_spool(self) -> None:
        self._head = bytes(self.getbuffer()[:SCAN_BYTES])
        self._large = self._spool.begin_large()
        self._large.write(self.getvalue())
        self._budget.add(-self._held)
        self._held = 0
        self.seek(0)
        self.truncate()
