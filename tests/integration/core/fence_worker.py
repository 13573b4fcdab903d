"""One faust worker around a small stage that writes down what it handled; see test_faust_fence.

A program: ``fence_worker.py MODE TOPIC FOLDER``; Kafka is that of the clean zone's settings. The stage appends ``pid partition offset`` to
FOLDER/handled, a record a line; dead letters go to the topic ``deadletter.TOPIC``.
"""

import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from consumers import app
from consumers.app import run
from consumers.loop import Record
from infra.connections import KafkaConnection, kafka_of
from infra.kafka import Producer
from infra.settings import Role, load
from schemas.errors import SlowDown
from schemas.topics import BY_NAME, DEAD_LETTER_TOPIC, Topic, Zone

TYPES = ("org.prodrome.segment.relayed.v1",)
#: `records` of the messages that a steady stage stumbles over: always, and the first time
POISON, FLAKY = 1_000_001, 1_000_002


class Recording:
    """Handles a record by writing it down; what else it does depends on the mode."""

    name, batch, pace = "ledger", 64, 0.0
    zone: Zone = "clean"

    def __init__(self, mode: str, topic: str, folder: Path) -> None:
        self.mode, self.topics, self.group, self.folder = mode, (topic,), f"group.{topic}", folder
        self.tried: set[int] = set()
        self._file = os.open(folder / "handled", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def handle(self, records: Sequence[Record]) -> None:
        if (self.folder / "down").exists():
            (self.folder / "waited").write_text(f"{os.getpid()} yes")
            raise SlowDown("told to wait")
        if self.mode == "stuck":
            time.sleep(3600)
        for record in records:
            self._stumble(record.event)
            os.write(self._file, f"{os.getpid()} {record.partition} {record.offset}\n".encode())
            time.sleep(0.002)  # so that a kill falls into the middle of a batch

    def _stumble(self, event: Any) -> None:
        first = event.records not in self.tried
        self.tried.add(event.records)
        if event.records == POISON or (event.records == FLAKY and first):
            raise ValueError("told to raise")

    def abandon(self, record: Record, error: Exception) -> None:
        """Nobody waits for what this stage records."""

    def tick(self) -> None:
        """No deadlines."""

    def assigned(self, partitions: frozenset[int]) -> None:
        (self.folder / "assigned").write_text(f"{os.getpid()} {len(partitions)}")

    def caught_up(self, partitions: frozenset[int]) -> None:
        (self.folder / "caught_up").write_text(f"{os.getpid()} {len(partitions)}")


def declare(topic: str) -> None:
    """Put the test's own topics into the table, for this process."""
    letters = f"deadletter.{topic}"
    BY_NAME[topic] = Topic(topic, "clean", 3, 0, (), (), TYPES)
    BY_NAME[letters] = Topic(letters, "clean", 1, 0, (), (), ("org.prodrome.deadletter.v1",))
    DEAD_LETTER_TOPIC["clean"] = letters


def lossy(stage: Recording, kafka: KafkaConnection) -> None:
    """Use faust as its documentation does: an exception of an agent is its supervisor's affair."""
    loop = app.Loop(stage, None, threading.Event(), 0)  # type: ignore[arg-type]
    made = app.topology(loop, kafka, stage.folder)
    made.agents.clear()

    @made.agent(made.topic(*stage.topics, value_type=bytes), concurrency=1)
    async def plain(stream: Any) -> None:
        async for event in stream.events():
            record = loop._decode(event.message)
            assert record is not None
            stage.handle([record])

    app.faust.Worker(made, loglevel="CRITICAL", override_logging=False).execute_from_commandline()


def main(mode: str, topic: str, folder: str) -> None:
    declare(topic)
    kafka = kafka_of(load().clean)
    stage = Recording(mode, topic, Path(folder))
    if mode == "lossy":
        return lossy(stage, kafka)
    if mode == "stuck":
        app.WORKING_SECONDS = 1.0  # type: ignore[misc]
    stopping = threading.Event()
    role = Role(stall_seconds=2.0 if mode == "stuck" else 60.0)
    return run(stage, kafka, Producer(kafka, stopping), stopping, role, Path(folder), lambda: False)


if __name__ == "__main__":
    main(*sys.argv[1:])
