"""The writer of a spool: many associations append, one sync covers all who wait.

1. `store` appends a record under the lock, then waits until a completed sync covers it.
2. Whoever finds no sync running runs one, for everybody whose bytes are written by then (group commit).
3. A segment that is full, or old, is sealed, and the next one begins; an instance too large for memory
   becomes a segment of its own, in order between the others.
4. A sync error is final: that segment takes no more records, everyone who waited on it is refused
   (`sync_error`), and the next record begins a new segment. A sync is never tried twice on one file: the
   kernel may have dropped the pages and would call the second try a success.

Memory: a record is written from the caller's buffers; nothing is kept here but the table of associations.
"""

import contextlib
import errno
import logging
import os
import threading
import uuid
from pathlib import Path
from typing import Final, NamedTuple

import xxhash

from infra.clock import Clock, SystemClock
from infra.spool import files, recycling
from infra.spool.format import InstanceHeader, Kind, payload_hash
from infra.spool.recovery import recover
from infra.spool.segment import LargeSegment, Place, Segment, new_header
from infra.spool.space import Space, SpoolLimits
from infra.spool.watermark import Position, Watermark
from schemas.errors import Refused

_log = logging.getLogger(__name__)

_NO_SPACE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Stored(NamedTuple):
    """Where a durable instance is."""

    place: Place
    header: InstanceHeader


class Spool:
    """The one writer of a folder.

    Parameters
    ----------
    folder : Path
        Made if absent.
    limits : SpoolLimits
        See there.
    clock : Clock
        For the age of segments and the time in their headers.

    Raises
    ------
    SettingsError
        The folder has a writer already.
    """

    def __init__(self, folder: Path, limits: SpoolLimits | None = None, clock: Clock | None = None) -> None:
        self.folder = folder
        self.limits = limits or SpoolLimits()
        self._clock = clock or SystemClock()
        self.id = files.make_spool(folder).spool
        self._folder_lock = files.lock_folder(folder)
        self._run = str(uuid.uuid4())
        self._lock = threading.RLock()  # appending and changing segments
        self._turn = threading.Lock()  # who syncs, and what is durable
        self._synced = threading.Condition(self._turn)
        self._active: Segment | None = None
        self._active_since = 0.0
        self._space = Space(folder, self.limits, self._clock)
        self._mark = Watermark(folder, writing=True)
        found = recover(folder, self._mark.load())
        self._last = found.end.segment
        self._open = found.associations
        self._mark.store(found.end)
        for name in self._open.names():
            with contextlib.suppress(Refused):  # a full spool must still start: it is freed by reading
                self.close_association(name, "killed")

    def store(self, header: InstanceHeader, *pieces: bytes | memoryview, hashed: int | None = None) -> Stored:
        """Append one instance, given in any number of pieces, and return once it is durable.

        May block for the time of two syncs. Called from many threads. `hashed` is the `payload_hash` of the
        pieces, where the caller has it.

        Raises
        ------
        Refused
            `no_space` or `sync_error`; the instance must not be acknowledged.
        """
        length = sum(map(len, pieces))
        self.check_space(length)
        hashed = payload_hash(*pieces) if hashed is None else hashed
        with _refusing, self._lock:
            segment = self._writable(length)
            place = segment.append(Kind.INSTANCE, header, pieces, hashed)
            self._open.add(header)
        try:
            self._commit(segment, place.end)
        except Refused:
            with self._lock:
                self._open.withdraw(header)
            raise
        return Stored(place, header)

    def begin_large(self) -> "LargeInstance":
        """Return a stream for an instance that is too large for memory."""
        self.check_space(0)
        with _refusing:
            path = self.folder / f"{uuid.uuid4().hex}{files.PART}"
            return LargeInstance(self, LargeSegment(path))

    def close_association(self, association: str, cause: str) -> None:
        """Record that an association has ended; nothing is written for one that brought nothing."""
        with _refusing, self._lock:
            header = self._open.close(association, cause)
            if header is None:
                return
            segment = self._writable(0)
            place = segment.append(Kind.ASSOCIATION_CLOSED, header)
        self._commit(segment, place.end)

    def ratio(self) -> float:
        """Return how full the spool is, 0 to 1."""
        return self._space.ratio()

    def check_space(self, length: int) -> None:
        """Raise `Refused("no_space")` if another `length` bytes would fill the spool."""
        if self._space.ratio(length) >= self.limits.full_ratio:
            raise Refused("no_space")

    def tick(self) -> None:
        """Seal the active segment when it is old; called about once a second."""
        recycling.sweep(self.folder)
        with self._lock:
            old = self._clock.monotonic() - self._active_since >= self.limits.segment_seconds
            if self._active is not None and self._active.records > 1 and old:
                with contextlib.suppress(Refused):
                    self._seal("age")

    def close(self) -> None:
        """Seal, and leave the folder to the next writer."""
        with self._lock:
            if self._active is not None:
                with contextlib.suppress(Refused):
                    self._seal("stop")
            self._mark.close()
            os.close(self._folder_lock)

    def _writable(self, length: int) -> Segment:
        active = self._active
        if active is not None and active.failed:
            self._abandon(active)
        elif active is not None and active.tail + length > active.capacity and active.records > 1:
            self._seal("full")
        return self._active or self._begin()

    def _begin(self) -> Segment:
        self._last += 1  # a number is used up even where making the file fails
        header = new_header(self.id, self._last, self._run, self._clock.now())
        path = files.segment_path(self.folder, self._last)
        free, size = recycling.take(self.folder), self._space.segment_bytes()
        segment = Segment.recycle(free, path, header, size) if free else Segment.create(path, header, size)
        try:
            segment.append(Kind.ASSOCIATIONS_OPEN, self._open.snapshot())
            os.fsync(segment.descriptor)
            files.sync_folder(self.folder)
        except OSError:
            segment.close()
            segment.path.unlink(missing_ok=True)
            raise
        segment.durable = segment.tail
        self._active, self._active_since = segment, self._clock.monotonic()
        self._space.forget()
        return segment

    def _seal(self, reason: str) -> None:
        # Under the lock: nobody appends while the last sync of this segment runs.
        segment = self._active
        if segment is None:
            return
        try:
            segment.seal(reason)
        except OSError as error:
            self._fail(segment, error)
        self._commit(segment, segment.tail)
        self._active = None
        segment.close()
        self._space.forget()

    def _commit(self, segment: Segment, end: int) -> None:
        # Return once a completed sync covers `end`; run one if nobody does.
        with self._turn:
            while segment.durable < end and not segment.failed and segment.syncing:
                self._synced.wait()
            if segment.durable >= end:
                return
            if segment.failed:
                raise Refused("sync_error")
            segment.syncing = True
            target = segment.tail
        failure: OSError | None = None
        try:
            segment.sync()
        except OSError as error:
            failure = error
        with self._turn:
            segment.syncing = False
            if failure is None:
                segment.covered(target)
                self._mark.store(Position(segment.number, target))
            else:
                segment.failed = True
            self._synced.notify_all()
        if failure is not None:
            self._fail(segment, failure)

    def _fail(self, segment: Segment, error: OSError) -> None:
        _log.error("segment %d: sync failed, errno %s; closed", segment.number, error.errno)
        segment.failed = True
        with self._lock:
            self._abandon(segment)
        raise Refused("sync_error")

    def _abandon(self, segment: Segment) -> None:
        # What was durable stays readable; the seal is best effort, recovery writes it otherwise.
        if self._active is not segment:
            return
        self._active = None
        with self._turn:
            while segment.syncing:
                self._synced.wait()
        segment.cut()
        with contextlib.suppress(OSError):
            segment.seal("sync_error")
        segment.close()
        self._space.forget()

    def _place_large(self, large: LargeSegment, header: InstanceHeader, hashed: int) -> Place:
        # One segment, in order behind the active one: sealed, synced, renamed, then visible.
        with _refusing:
            large.sync_payload()
            with self._lock:
                self._open.add(header)
                try:
                    return self._place_locked(large, header, hashed)
                except (OSError, Refused):
                    self._open.withdraw(header)
                    raise

    def _place_locked(self, large: LargeSegment, header: InstanceHeader, hashed: int) -> Place:
        if self._active is not None:
            self._seal("large")
        self._last += 1
        meta = new_header(self.id, self._last, self._run, self._clock.now())
        segment, place = large.finish(meta, header, hashed)
        segment.append(Kind.ASSOCIATIONS_OPEN, self._open.snapshot())
        segment.seal("large")
        os.fsync(segment.descriptor)
        path = files.segment_path(self.folder, self._last)
        segment.path.rename(path)
        try:
            files.sync_folder(self.folder)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        with self._turn:
            self._mark.store(Position(self._last, segment.tail))
        segment.close()
        self._space.forget()
        return place


class LargeInstance:
    """An instance of any length on its way into the spool; `discard` unless `finish` returned."""

    def __init__(self, spool: Spool, large: LargeSegment) -> None:
        self._spool = spool
        self._large = large
        self._hash = xxhash.xxh3_64()

    def write(self, *pieces: bytes | memoryview) -> None:
        """Append; raise `Refused` where there is no space."""
        length = sum(map(len, pieces))
        self._spool.check_space(length)
        with _refusing:
            self._large.write(pieces, length)
        self._spool._space.add(length)
        for piece in pieces:
            self._hash.update(piece)

    def finish(self, header: InstanceHeader) -> Stored:
        """Return once the instance is durable; raise `Refused` where it is not."""
        try:
            place = self._spool._place_large(self._large, header, self._hash.intdigest())
        except BaseException:
            self._large.discard()
            raise
        return Stored(place, header)

    def discard(self) -> None:
        """Forget it."""
        self._large.discard()


class _Refusing:
    """Whatever the disk says becomes a refusal; a full one is told apart, for it heals by itself."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OSError):
            _log.error("spool: errno %s", error.errno)
            raise Refused("no_space" if error.errno in _NO_SPACE else "sync_error") from None


_refusing: Final = _Refusing()
