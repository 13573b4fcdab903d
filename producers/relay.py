"""The outbox: publish what the spool holds, in order, never skipping, whatever stops in between.

1. Read the durable records behind the saved position.
2. Publish their messages and wait until the broker has confirmed each (`infra.kafka.Producer.send`).
3. Only then save the position. A crash between repeats messages; effects downstream are keyed, so that a
   repeat changes nothing.
4. Tell the ledger of a segment before its first record, and in the same breath with others how many there are;
   free the segments that it allows.

A broker that is down is waited for: the receiver goes on until the spool's own limit. The position is not
synced: after a power loss the boot id has changed, and everything kept is published again anyway, for the
broker may have lost what it had confirmed. That is another *epoch*: what had settled in the one before is not
freed until it has settled again (docs/decisions/0039).
"""

import contextlib
import functools
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, Protocol

import msgspec

from infra import metrics
from infra.clock import Clock, SystemClock
from infra.spool import Kind, SegmentFreed, SpoolReader, files
from infra.spool.watermark import Position
from producers.outbox import messages, relayed
from schemas.codec import Message
from schemas.errors import SlowDown

_log = logging.getLogger(__name__)

#: Records a round: four full messages of one study, or many small ones, confirmed together in about 10 ms.
CHUNK_RECORDS: Final = 256
#: After the broker refused: long enough not to spin, short against any quiet rule.
SLOW_SECONDS: Final = 1.0
#: Segments are freed minutes after they settled; asking the ledger costs a query.
FREE_SECONDS: Final = 10.0
#: How often further spools are looked for, and what waits is counted.
LOOK_SECONDS: Final = 2.0
#: How many unrelayed records are counted for the metric: 100,000 take about half a second.
COUNT_LIMIT: Final = 100_000


class Publisher(Protocol):
    """What the relay needs of Kafka."""

    def send(self, messages: Sequence[Message]) -> None:
        """Return once all are confirmed; raise `SlowDown` where none may be taken as sent."""


class RelayState(msgspec.Struct, frozen=True, kw_only=True):
    """Where the relay is: everything before `offset` of `segment` is published in this `epoch`.

    `records` counts that segment's published instances, `told` what the ledger was told of them, and
    `done` says that the segment is sealed and whole. A position of release 0.1.0 has no epoch, and needs none
    before the next power loss.
    """

    boot: str
    epoch: str | None = None
    segment: int = 0
    offset: int = 0
    records: int = 0
    told: int = 0
    done: bool = True


class Relay:
    """The relay of one spool.

    Parameters
    ----------
    folder : Path
        The spool; its writer may be another process, on or off.
    publisher : Publisher
        The broker.
    large_bytes : int
        Instances over this size take the bulk lane.
    freeable : callable
        Returns the segments that the ledger allows to free, of an epoch and from a number on; may raise `SlowDown`.
    clock : Clock
        For the pause between looks at the ledger.
    paused : callable
        Whether an operator wants nothing published now; the receiver goes on to its watermark.
    """

    def __init__(
        self,
        folder: Path,
        publisher: Publisher,
        *,
        large_bytes: int,
        freeable: Callable[[str | None, int], Iterable[int]] = lambda _epoch, _first: (),
        clock: Clock | None = None,
        paused: Callable[[], bool] = lambda: False,
    ) -> None:
        self._reader = SpoolReader(folder)
        self._publisher = publisher
        self._large_bytes = large_bytes
        self._freeable, self._paused = freeable, paused
        self._clock = clock or SystemClock()
        self._free_at = self._clock.monotonic() + FREE_SECONDS
        self._path = folder / "relay" / "position.json"
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        self._idle_at: Position | None = None  # nothing was left to do at this durable end
        self._behind = False  # the last chunk was full: more waits
        self.state = self._load()

    def run(self, stop: threading.Event, poll_seconds: float, pace_seconds: float = 0.0) -> None:
        """Relay until `stop` is set; a look at an idle spool costs a few microseconds."""
        while not stop.is_set():
            if self._paused():
                stop.wait(SLOW_SECONDS)
                continue
            try:
                began = self._clock.monotonic()
                busy = self.step()
                if self._clock.monotonic() >= self._free_at:
                    self.free_segments()
            except SlowDown as error:
                metrics.inc("prodrome_stage_slowdowns_total", stage="relay")
                _log.warning("waiting: %s", error)
                stop.wait(SLOW_SECONDS)
                continue
            if not busy:
                stop.wait(poll_seconds)
            elif not self._behind:  # what comes meanwhile shares messages
                stop.wait(began + pace_seconds - self._clock.monotonic())

    def step(self) -> bool:
        """Publish one chunk, or a segment's end; return False where there was nothing to do."""
        durable = self._reader.durable()
        if durable == self._idle_at:
            return False
        busy = self._look()
        self._idle_at = None if busy else durable
        return busy

    def _look(self) -> bool:
        if self.state.done:
            return self._next_segment()
        try:
            segment = self._reader.segment(self.state.segment)
            if segment.end > self.state.offset and self._publish_chunk():
                return True
        except SegmentFreed:
            _log.error("segment %d vanished before it was relayed", self.state.segment)
            self._save(done=True)
            return True
        if segment.sealed or self.state.told != self.state.records:
            self._tell(sealed=segment.sealed)
            return True
        return False

    def free_segments(self) -> None:
        """Free what the ledger allows of the segments that are published whole."""
        self._free_at = self._clock.monotonic() + FREE_SECONDS
        # Of those at hand: the ledger keeps a row of each segment that ever was.
        numbers = self._reader.segments()
        allowed = set(self._freeable(self.state.epoch, numbers[0])) if numbers else set()
        for number in sorted(allowed.intersection(numbers)):
            published = number < self.state.segment or (number == self.state.segment and self.state.done)
            if published and self._reader.free(number):
                _log.info("segment %d freed", number)
                metrics.inc("prodrome_relay_segments_freed_total")

    def unrelayed(self) -> int:
        """Return how many durable instances are not published yet, at most `COUNT_LIMIT`."""
        state = self.state
        count = 0
        for number in self._reader.segments():
            if number < state.segment or (number == state.segment and state.done):
                continue
            offset = state.offset if number == state.segment else 0
            with contextlib.suppress(SegmentFreed):
                found = (
                    record for record in self._reader.records(number, offset) if record.kind == Kind.INSTANCE
                )
                count += sum(1 for _ in islice(found, COUNT_LIMIT - count))
        return count

    def _publish_chunk(self) -> bool:
        records = list(islice(self._reader.records(self.state.segment, self.state.offset), CHUNK_RECORDS))
        if not records:
            return False
        numbers = [record.number + 1 for record in records if record.kind == Kind.INSTANCE]
        count = max([self.state.records, *numbers])
        told = self._told(self.state.segment, count)
        self._publisher.send([*messages(self._reader.id, records, self._large_bytes), told])
        self._save(offset=records[-1].end, records=count, told=count)
        self._behind = len(records) == CHUNK_RECORDS
        metrics.inc("prodrome_relay_instances_total", len(numbers))
        return True

    def _tell(self, *, sealed: bool) -> None:
        self._publisher.send([self._told(self.state.segment, self.state.records, sealed=sealed)])
        self._save(told=self.state.records, done=sealed)

    def _told(self, segment: int, records: int, *, sealed: bool = False) -> Message:
        return relayed(self._reader.id, segment, records, sealed=sealed, epoch=self.state.epoch)

    def _next_segment(self) -> bool:
        if self._reader.durable().segment <= self.state.segment:
            return False
        behind = [number for number in self._reader.segments() if number > self.state.segment]
        if not behind:
            return False
        # Before its records: else one that settles at once would be in doubt behind that.
        self._publisher.send([self._told(behind[0], 0)])
        self._save(segment=behind[0], offset=0, records=0, told=0, done=False)
        return True

    def _load(self) -> RelayState:
        fresh = RelayState(boot=files.boot_id(), epoch=secrets.token_hex(8))
        try:
            state = msgspec.json.decode(self._path.read_bytes(), type=RelayState)
        except (OSError, msgspec.DecodeError):
            return fresh
        if state.boot != fresh.boot:
            _log.warning("the machine was restarted: all kept segments are published again")
            return fresh
        return state

    def _save(self, **changes: int | bool) -> None:
        self.state = msgspec.structs.replace(self.state, **changes)
        files.replace_file(self._path, msgspec.json.encode(self.state), durable=False)


def relay(
    folder: Path,
    publisher: Publisher,
    stop: threading.Event,
    *,
    poll_seconds: float,
    pace_seconds: float = 0.0,
    large_bytes: int,
    freeable: Callable[[str, str | None, int], Iterable[int]] = lambda _spool, _epoch, _first: (),
    paused: Callable[[], bool] = lambda: False,
) -> None:
    """Relay the spool in `folder` and those of further processes in it, until `stop` is set.

    Each has a thread: one that waits for its broker holds up no other. They are looked for again and again, as the
    receiver may start here later, or anew with more processes. `freeable` is told the spool's id.

    Raises
    ------
    SettingsError
        Another process relays one of the spools: two would undo each other's positions and epochs.
    """
    outboxes: dict[Path, Relay] = {}
    threads: list[threading.Thread] = []
    with contextlib.ExitStack() as locks:
        try:
            while not stop.is_set():
                with contextlib.suppress(FileNotFoundError):  # the receiver has not started here yet
                    for spool in files.spools(folder):
                        if spool in outboxes:
                            continue
                        may_free = functools.partial(freeable, files.read_identity(spool).spool)
                        locks.callback(os.close, files.lock_folder(spool / "relay", "relay"))
                        outbox = Relay(
                            spool, publisher, large_bytes=large_bytes, freeable=may_free, paused=paused
                        )
                        outboxes[spool] = outbox
                        work = threading.Thread(target=outbox.run, args=(stop, poll_seconds, pace_seconds))
                        work.start()
                        threads.append(work)
                # In this order: where they have ended because they were told to, that was before.
                if any(not thread.is_alive() for thread in threads) and not stop.is_set():
                    raise RuntimeError("a relay ended")  # its error was logged
                # Apart from the relays' own loops, which stand still in `send` while the broker is away.
                waiting = sum(one.unrelayed() for one in outboxes.values())
                metrics.put("prodrome_relay_unrelayed_instances", waiting)
                stop.wait(LOOK_SECONDS)
        finally:
            stop.set()  # an error ends all of them: whoever started this process starts it anew
            for thread in threads:
                thread.join()
