"""What stands between a message and a stage: decode, hand over, try again, dead letter. Free of faust.

A *stage* is a plain object (see `Stage`). The loop decodes each message of a batch and hands the batch to the
stage.

`SlowDown` means the same batch again, without limit. `BadMessage`, or three failures of one message alone,
means a dead letter with a reason; when dead letters outrun the good messages the stage stops where it is. If
a dead letter cannot be written, nothing is acknowledged. It does not know what any stage does, nor Kafka's
consumer: that is `consumers.app`.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

from infra import metrics
from infra.kafka import MESSAGE_BYTES, Producer
from infra.logs import place
from schemas.codec import MEANT_FOR, Headers, b64, decode, encode
from schemas.errors import BadMessage, SlowDown
from schemas.events import DeadLetter, Value
from schemas.topics import BY_NAME, DEAD_LETTER_TOPIC, Zone

log = logging.getLogger(__name__)

#: First and longest pause while a dependency is down.
SLOW_SECONDS: Final = (0.2, 5.0)
#: Between two looks at whether a pause is over; the look itself is cached.
PAUSED_SECONDS: Final = 0.5
#: One message alone is tried this often before it is a dead letter.
ATTEMPTS: Final = 3
#: Of message bodies in one call of a stage: some 400 received instances, or 100 clean ones.
SLICE_BYTES: Final = 256 << 10


class Record(NamedTuple):
    """A message with its event."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: Headers
    event: Value


class Stage(Protocol):
    """What a role does with its messages. All calls come from one thread, never two at once.

    `batch` is the most messages of one call, `pace` the least seconds from one call to the next: a call costs
    several round trips, and messages that come meanwhile share them.
    """

    name: str
    zone: Zone
    topics: Sequence[str]
    group: str
    batch: int
    pace: float

    def handle(self, records: Sequence[Record]) -> None:
        """Work on a batch and return when its effects are durable.

        May block; may raise `SlowDown` (all again) or `BadMessage` (found among these records). A repeat of
        records that were handled before must change nothing.
        """

    def abandon(self, record: Record, error: BadMessage) -> None:
        """Say what others wait for before a record becomes a dead letter. May raise `SlowDown`."""

    def tick(self) -> None:
        """Look at deadlines; called several times a second between batches. May raise `SlowDown`."""

    def assigned(self, partitions: frozenset[int]) -> None:
        """The partitions owned from now on; called before any message of theirs. May raise `SlowDown`."""

    def caught_up(self, partitions: frozenset[int]) -> None:
        """The owned partitions whose every message has been handled, as of now."""


class Loop:
    """Runs one stage; faust-free, so that its rules are tested without a broker."""

    def __init__(
        self,
        stage: Stage,
        producer: Producer,
        stopping: threading.Event,
        deadletter_limit: int,
        paused: Callable[[], bool] = lambda: False,
    ) -> None:
        self.stage, self.producer, self.stopping, self.paused = stage, producer, stopping, paused
        self._name = stage.name.encode()
        self.deadletter_limit = deadletter_limit
        self.state = "idle"
        self.since = time.monotonic()
        self._debt = 0.0

    def process(self, messages: Sequence[Any]) -> None:
        """Work on raw messages until each is either handled or a dead letter; waits while paused."""
        self._await_resume()
        records = [record for message in messages if (record := self._decode(message)) is not None]
        started = time.monotonic()
        for some in _slices(records):
            self._handle(some)
        self._good(len(records))
        metrics.observe("prodrome_stage_seconds", time.monotonic() - started, stage=self.stage.name)
        self._enter("idle")

    def call(self, step: Callable[[], None]) -> None:
        """Run a step of the stage that may need a dependency, until it is done."""
        self._persist(step)
        self._enter("idle")

    def tick(self) -> None:
        """Let the stage look at its deadlines, unless it is paused."""
        if not self.paused():
            self.call(self.stage.tick)

    def _await_resume(self) -> None:
        while self.paused():
            self._enter("paused")
            if self.stopping.wait(PAUSED_SECONDS):
                raise SystemExit(0)

    def _decode(self, message: Any) -> Record | None:
        pairs = message.headers.items() if isinstance(message.headers, dict) else message.headers or ()
        headers = [(name, data or b"") for name, data in pairs]  # Kafka allows a header without a value
        if dict(headers).get(MEANT_FOR, self._name) != self._name:
            return None
        where = (
            message.topic,
            message.partition,
            message.offset,
            message.key or b"",
            message.value or b"",
            headers,
        )
        try:
            return Record(*where, decode(message.value, headers, accepts=BY_NAME[message.topic].types))
        except BadMessage as error:
            self._dead_letter(where, error, attempts=1)
            return None

    def _handle(self, records: list[Record]) -> None:
        try:
            self._persist(lambda: self.stage.handle(records))
        except Exception as error:  # any failure: each message alone shows which one it is
            if len(records) > 1:
                log.warning("batch of %d failed (%s); trying one by one", len(records), type(error).__name__)
            for record in records:
                self._handle_alone(record)

    def _handle_alone(self, record: Record) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._persist(lambda: self.stage.handle([record]))
            except BadMessage as error:
                return self._abandon(record, error, attempt)
            except Exception as error:
                # The text of an unknown error may quote a value; its type and place do not.
                log.warning("%s/%d@%d: %s at %s", *record[:3], type(error).__name__, place(error))
                if attempt == ATTEMPTS:
                    bad = BadMessage("stage_failed", f"{type(error).__name__} at {place(error)}")
                    self._abandon(record, bad, attempt)
        return None

    def _abandon(self, record: Record, error: BadMessage, attempt: int) -> None:
        try:
            self._persist(lambda: self.stage.abandon(record, error))
        except Exception as second:  # what failed in the work may fail here too; the letter must be written
            log.error("%s/%d@%d: not abandoned: %s at %s", *record[:3], type(second).__name__, place(second))
        self._dead_letter(record[:6], error, attempt)

    def _persist(self, step: Callable[[], None]) -> None:
        pause = SLOW_SECONDS[0]
        self._enter("working")
        while True:
            try:
                return step()
            except SlowDown as error:
                if self.stopping.is_set():
                    raise SystemExit(0) from None
                metrics.inc("prodrome_stage_slowdowns_total", stage=self.stage.name)
                log.warning("waiting: %s", error)
                self._enter("slow")
                self.stopping.wait(pause)
                pause = min(2 * pause, SLOW_SECONDS[1])
                self._enter("working")

    def _dead_letter(self, where: tuple[Any, ...], error: BadMessage, attempts: int) -> None:
        topic, partition, offset, key, value, headers = where
        detail = error.detail
        if len(value) > MESSAGE_BYTES:  # came compressed; a letter of it would be refused for ever
            value, detail = b"", f"{detail}; its {len(value)} bytes are not kept here"
        letter = DeadLetter(
            stage=self.stage.name,
            topic=topic,
            partition=partition,
            offset=offset,
            reason=error.reason,
            detail=detail,
            attempts=attempts,
            key=b64(key),
            value=b64(value),
            headers={name: b64(data) for name, data in headers},
        )
        message = encode(
            DEAD_LETTER_TOPIC[self.stage.zone],
            f"{topic}/{partition}".encode(),
            letter,
            identity=(self.stage.name, topic, partition, offset),
            source=self.stage.name,
        )
        self._persist(lambda: self.producer.send([message]))
        metrics.inc("prodrome_stage_deadletters_total", stage=self.stage.name, reason=error.reason)
        log.error("dead letter %s/%d@%d: %s", topic, partition, offset, error)
        self._debt += 1
        self._halt_if_poisoned()

    def _good(self, count: int) -> None:
        self._debt = max(0.0, self._debt - count / 10)

    def _halt_if_poisoned(self) -> None:
        if self._debt <= self.deadletter_limit:
            return
        log.critical(
            "stopped: over %d dead letters; mend the cause, then restart the role", self.deadletter_limit
        )
        metrics.put("prodrome_role_ready", 0, role=self.stage.name)
        self._enter("halted")
        self.stopping.wait()
        raise SystemExit(0)

    def _enter(self, state: str) -> None:
        self.state, self.since = state, time.monotonic()


def _slices(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Yield the records in slices of `SLICE_BYTES`: 64 full messages at once would be half a minute of work."""
    some: list[Record] = []
    size = 0
    for record in records:
        if some and size + len(record.value) > SLICE_BYTES:
            yield some
            some, size = [], 0
        some.append(record)
        size += len(record.value)
    if some:
        yield some
