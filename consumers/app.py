"""The faust topology of every role on one screen, and the fence that makes it lose nothing.

1. Wait for a message, a few milliseconds more for what came with it, and take up to `batch`.
2. Hand them to the stage's loop (`consumers.loop`) in one worker thread, which returns when the effects are
   durable, however long a dependency is down; the membership is kept meanwhile.
3. Let faust commit: only now, because no exception ever leaves the agent and nothing runs beside it.
4. A watchdog looks from outside: messages that wait while nothing moves end the process.

What faust-streaming loses when it is used otherwise stands in docs/decisions/0004-faust-fence.md.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import faust

from consumers.loop import Loop, Stage
from infra import metrics
from infra.connections import KafkaConnection
from infra.kafka import Producer, lags
from infra.logs import place
from infra.settings import Role

log = logging.getLogger(__name__)

#: Waited after the first message for those that were fetched with it; part of the latency of every stage.
LINGER_SECONDS: Final = 0.005
#: How often a stage may look at its own deadlines.
TICK_SECONDS: Final = 0.2
#: A worker that works this long on one batch without a dependency being down is taken as stuck.
WORKING_SECONDS: Final = 900.0


class _App(faust.App):  # type: ignore[misc]
    """Says that the process ends before faust waits for the stage, which may wait for a dependency."""

    stopping: threading.Event

    async def on_stop(self) -> None:
        """See faust; its own signal of a shutdown comes when all streams are empty."""
        self.stopping.set()
        await super().on_stop()


def topology(loop: Loop, connection: KafkaConnection, folder: Path) -> faust.App:
    """Return the faust app of a stage: one agent over its topics, one timer for its deadlines."""
    stage = loop.stage
    app = _App(
        stage.group,
        broker=[f"kafka://{server}" for server in connection.servers.split(",")],
        broker_credentials=_credentials(connection),
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
    app.stopping = loop.stopping
    topic = app.topic(*stage.topics, key_serializer="raw", value_serializer="raw", value_type=bytes)
    hands = ThreadPoolExecutor(1, thread_name_prefix=stage.name)
    owned: dict[Any, int] = {}  # partition -> next offset to handle

    async def by_hand(step: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(hands, _or_exit, step)

    @app.agent(topic, concurrency=1)
    async def work(stream: Any) -> None:
        async for events in _batches(stream, stage.batch):
            began = time.monotonic()
            messages = [event.message for event in events]
            await by_hand(lambda messages=messages: loop.process(messages))  # type: ignore[misc]
            for event in events:
                owned[event.message.tp] = event.message.offset + 1
            # The first message after a pause never waits; under load the next batch is worth its cost.
            await asyncio.sleep(began + stage.pace - time.monotonic())
            # the batch is acknowledged when the next one is asked for, that is: now

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
            loop.tick()

        await by_hand(look)

    return app


async def _batches(stream: Any, most: int) -> AsyncIterator[list[Any]]:
    """Yield what has come, at most `most` events at a time; acknowledge a batch when the next is asked for.

    faust's own `take_events` does the same, and looks every few milliseconds whether anything came: an idle
    stage took 4 % of a core.
    """
    stream.enable_acks = False
    come: asyncio.Queue[Any] = asyncio.Queue(most)

    async def fill() -> None:
        async for event in stream.events():
            await come.put(event)

    stream.add_future(fill())  # whatever it raises ends the app
    while True:
        events = [await come.get()]
        if not come.full():
            await asyncio.sleep(LINGER_SECONDS)
        while len(events) < most and not come.empty():
            events.append(come.get_nowait())
        yield events
        for event in events:
            await stream.ack(event)


def run(
    stage: Stage,
    connection: KafkaConnection,
    producer: Producer,
    stopping: threading.Event,
    settings: Role,
    folder: Path,
    paused: Callable[[], bool],
) -> None:
    """Run a stage until the process is told to end. Blocks.

    Parameters
    ----------
    stage : Stage
        What to do.
    connection : KafkaConnection
        To the Kafka of the stage's zone.
    producer : Producer
        For dead letters; to the same cluster.
    stopping : threading.Event
        Set here when the process is told to end, so that nothing waits for a dependency any more.
    settings : Role
        Dead-letter limit and stall time.
    folder : Path
        For what faust wants to write.
    paused : callable
        Whether an operator wants the stage to stand still; its membership is kept.
    """
    loop = Loop(stage, producer, stopping, settings.deadletter_limit, paused)
    app = topology(loop, connection, folder)
    stall = settings.stall_seconds

    threading.Thread(target=_watch, args=(loop, connection, stall), daemon=True, name="watchdog").start()
    worker = faust.Worker(
        app, loglevel="ERROR", override_logging=False, redirect_stdouts=False, blocking_timeout=0
    )
    worker.execute_from_commandline()


def _credentials(connection: KafkaConnection) -> faust.SASLCredentials | faust.SSLCredentials | None:
    context = connection.tls.context() if connection.tls else None
    if connection.username:
        return faust.SASLCredentials(
            username=connection.username,
            password=connection.password(),
            mechanism=connection.mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context else None


def _or_exit(step: Callable[[], None]) -> None:
    # An exception that left the agent would be acknowledged by faust: the process ends instead.
    try:
        step()
    except BaseException as error:
        if not isinstance(error, SystemExit):
            log.critical("ending: %s at %s", type(error).__name__, place(error))
        logging.shutdown()
        os._exit(0 if isinstance(error, SystemExit) else 70)


def _watch(loop: Loop, connection: KafkaConnection, stall: float) -> None:
    """End the process when messages wait and nothing moves: the supervisor starts it anew."""
    last, moved = -1, time.monotonic()
    while not loop.stopping.wait(stall / 4):
        try:
            waiting = sum(lag.messages for lag in lags(connection, {loop.stage.group: loop.stage.topics}))
        except Exception:  # a broker that is down is no stall of ours
            waiting = 0
        busy = loop.state in ("slow", "halted", "paused") or (
            loop.state == "working" and time.monotonic() - loop.since < WORKING_SECONDS
        )
        if waiting == 0 or waiting != last or busy:
            last, moved = waiting, time.monotonic()
        elif time.monotonic() - moved > stall:
            log.critical("ending: no progress for %.0f s while %d messages wait", stall, waiting)
            logging.shutdown()
            os._exit(75)
