"""The loop around every stage: a faust topology on one screen, and the fence that makes it lose nothing.

A *stage* is a plain object outside faust (see `Stage`). The loop

1. takes up to `batch` messages, waiting at most 20 ms for more;
2. decodes each; one that cannot be decoded is a dead letter;
3. hands the rest to the stage in one worker thread, which returns when the effects are durable;
4. lets faust commit: only now, because no exception ever leaves the agent and nothing runs beside it.

`SlowDown` means the same batch again, without limit, the membership kept. `BadMessage`, or three failures of
one message alone, means a dead letter with a reason; when dead letters outrun the good messages the stage
stops where it is. If a dead letter cannot be written, nothing was acknowledged.

What faust-streaming loses when it is used otherwise stands in docs/decisions/0004-faust-fence.md. This module
does not know what any stage does.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import faust

from infra import metrics
from infra.kafka import MESSAGE_BYTES, Producer
from infra.settings import Role
from schemas.codec import Headers, b64, decode, encode
from schemas.errors import BadMessage, SlowDown
from schemas.events import DeadLetter, Value
from schemas.topics import BY_NAME, DEAD_LETTER_TOPIC, Zone

log = logging.getLogger(__name__)

#: Waited for a batch to fill; part of the latency of every stage.
WITHIN_SECONDS: Final = 0.02
#: How often a stage may look at its own deadlines.
TICK_SECONDS: Final = 0.2
#: First and longest pause while a dependency is down.
SLOW_SECONDS: Final = (0.2, 5.0)
#: One message alone is tried this often before it is a dead letter.
ATTEMPTS: Final = 3
#: A worker that works this long on one batch without a dependency being down is taken as stuck.
WORKING_SECONDS: Final = 900.0


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
    """What a role does with its messages. All calls come from one thread, never two at once."""

    name: str
    zone: Zone
    topics: Sequence[str]
    group: str
    batch: int

    def handle(self, records: Sequence[Record]) -> None:
        """Work on a batch and return when its effects are durable.

        May block; may raise `SlowDown` (all again) or `BadMessage` (found among these records). A repeat of
        records that were handled before must change nothing.
        """

    def abandon(self, record: Record, error: BadMessage) -> None:
        """Say what others wait for before a record becomes a dead letter. May raise `SlowDown`."""

    def tick(self) -> None:
        """Look at deadlines; called every `TICK_SECONDS` between batches. May raise `SlowDown`."""

    def assigned(self, partitions: frozenset[int]) -> None:
        """The partitions owned from now on; called before any message of theirs. May raise `SlowDown`."""

    def caught_up(self, partitions: frozenset[int]) -> None:
        """The owned partitions whose every message has been handled, as of now."""


class Loop:
    """Runs one stage; faust-free, so that its rules are tested without a broker."""

    def __init__(
        self, stage: Stage, producer: Producer, stopping: threading.Event, deadletter_limit: int
    ) -> None:
        self.stage, self.producer, self.stopping = stage, producer, stopping
        self.deadletter_limit = deadletter_limit
        self.state = "idle"
        self.since = time.monotonic()
        self._debt = 0.0

    def process(self, messages: Sequence[Any]) -> None:
        """Work on raw messages until each is either handled or a dead letter."""
        records = [record for message in messages if (record := self._decode(message)) is not None]
        started = time.monotonic()
        if records:
            self._handle(records)
        self._good(len(records))
        metrics.observe("prodrome_stage_seconds", time.monotonic() - started, stage=self.stage.name)
        self._enter("idle")

    def call(self, step: Callable[[], None]) -> None:
        """Run a step of the stage that may need a dependency, until it is done."""
        self._persist(step)
        self._enter("idle")

    def _decode(self, message: Any) -> Record | None:
        pairs = message.headers.items() if isinstance(message.headers, dict) else message.headers or ()
        headers = [(name, data or b"") for name, data in pairs]  # Kafka allows a header without a value
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
                log.warning("%s/%d@%d: %s at %s", *record[:3], type(error).__name__, _place(error))
                if attempt == ATTEMPTS:
                    bad = BadMessage("stage_failed", f"{type(error).__name__} at {_place(error)}")
                    self._abandon(record, bad, attempt)
        return None

    def _abandon(self, record: Record, error: BadMessage, attempt: int) -> None:
        try:
            self._persist(lambda: self.stage.abandon(record, error))
        except Exception as second:  # what failed in the work may fail here too; the letter must be written
            log.error("%s/%d@%d: not abandoned: %s at %s", *record[:3], type(second).__name__, _place(second))
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
        if (
            len(value) > MESSAGE_BYTES
        ):  # came compressed; a letter of it would be refused, and we would not end
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


def topology(loop: Loop, servers: str, folder: Path) -> faust.App:
    """Return the faust app of a stage: one agent over its topics, one timer for its deadlines."""
    stage = loop.stage
    app = faust.App(
        stage.group,
        broker=[f"kafka://{server}" for server in servers.split(",")],
        store="memory://",
        datadir=folder / stage.group,  # made by faust, never used without tables
        key_serializer="raw",
        value_serializer="raw",
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        broker_session_timeout=10,
        broker_heartbeat_interval=2,
        broker_max_poll_records=500,
        broker_commit_interval=1,
        # A dependency may be down for a night; the membership is kept, and the watchdog sees real stalls.
        broker_max_poll_interval=7 * 24 * 3600.0,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=True,
    )
    topic = app.topic(*stage.topics, key_serializer="raw", value_serializer="raw", value_type=bytes)
    hands = ThreadPoolExecutor(1, thread_name_prefix=stage.name)
    owned: dict[Any, int] = {}  # partition -> next offset to handle

    async def by_hand(step: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(hands, _or_exit, step)

    @app.agent(topic, concurrency=1)
    async def work(stream: Any) -> None:
        async for events in stream.take_events(stage.batch, within=WITHIN_SECONDS):
            messages = [event.message for event in events]
            await by_hand(lambda messages=messages: loop.process(messages))  # type: ignore[misc]
            for event in events:
                owned[event.message.tp] = event.message.offset + 1
            # faust acknowledges the batch when the next one is asked for, that is: now

    @app.on_partitions_assigned.connect
    async def on_assigned(_app: Any, assigned: set[Any], **_: Any) -> None:
        owned.clear()
        mine = frozenset(tp.partition for tp in assigned if tp.topic in stage.topics)
        await by_hand(lambda: loop.call(lambda: stage.assigned(mine)))
        metrics.put("prodrome_role_ready", 1, role=stage.name)

    @app.timer(TICK_SECONDS)
    async def tick() -> None:
        consumer = app.consumer
        done = frozenset(
            tp.partition
            for tp in consumer.assignment()
            if (end := consumer.highwater(tp)) is not None
            and owned.get(tp, consumer._committed_offset.get(tp) or 0) >= end
        )

        def look() -> None:
            stage.caught_up(done)
            loop.call(stage.tick)

        await by_hand(look)

    return app


def run(
    stage: Stage, servers: str, producer: Producer, stopping: threading.Event, settings: Role, folder: Path
) -> None:
    """Run a stage until the process is told to end. Blocks.

    Parameters
    ----------
    stage : Stage
        What to do.
    servers : str
        Bootstrap servers of the stage's zone.
    producer : Producer
        For dead letters; to the same servers.
    stopping : threading.Event
        Set here when the process is told to end, so that nothing waits for a dependency any more.
    settings : Role
        Dead-letter limit and stall time.
    folder : Path
        For what faust wants to write.
    """
    loop = Loop(stage, producer, stopping, settings.deadletter_limit)
    app = topology(loop, servers, folder)
    stall = settings.stall_seconds

    @app.on_before_shutdown.connect
    async def stop(*_: Any, **__: Any) -> None:
        stopping.set()

    threading.Thread(target=_watch, args=(loop, servers, stall), daemon=True, name="watchdog").start()
    worker = faust.Worker(
        app, loglevel="ERROR", override_logging=False, redirect_stdouts=False, blocking_timeout=0
    )
    worker.execute_from_commandline()


def _or_exit(step: Callable[[], None]) -> None:
    # An exception that left the agent would be acknowledged by faust: the process ends instead.
    try:
        step()
    except BaseException as error:
        if not isinstance(error, SystemExit):
            log.critical("ending: %s at %s", type(error).__name__, _place(error))
        logging.shutdown()
        os._exit(0 if isinstance(error, SystemExit) else 70)


def _watch(loop: Loop, servers: str, stall: float) -> None:
    """End the process when messages wait and nothing moves: the supervisor starts it anew."""
    from infra.kafka import lags

    last, moved = -1, time.monotonic()
    while not loop.stopping.wait(stall / 4):
        try:
            waiting = sum(lag.messages for lag in lags(servers, {loop.stage.group: loop.stage.topics}))
        except Exception:  # a broker that is down is no stall of ours
            waiting = 0
        busy = loop.state in ("slow", "halted") or (
            loop.state == "working" and time.monotonic() - loop.since < WORKING_SECONDS
        )
        if waiting == 0 or waiting != last or busy:
            last, moved = waiting, time.monotonic()
        elif time.monotonic() - moved > stall:
            log.critical("ending: no progress for %.0f s while %d messages wait", stall, waiting)
            logging.shutdown()
            os._exit(75)


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (
        f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
        if trace
        else "unknown place"
    )
