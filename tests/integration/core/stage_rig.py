"""A producer that is a list, tables that die, and records as the loop hands them to a stage."""

from collections.abc import Sequence
from typing import Any

import msgspec

from consumers.loop import Record
from infra.cassandra import Tables
from schemas.codec import Message
from schemas.errors import SlowDown
from schemas.events import EVENT_TYPES, Value


class Outbox:
    """A producer whose broker is this list; `away` as long as it refuses."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.away = False

    def send(self, messages: Sequence[Message]) -> None:
        if self.away:
            raise SlowDown("the broker is away")
        self.sent += messages

    def of(self, topic: str) -> list[Any]:
        """The events sent to a topic."""
        return [_event(message) for message in self.sent if message.topic == topic]

    def bodies(self, topic: str) -> list[bytes]:
        return [message.value for message in self.sent if message.topic == topic]

    def kinds(self) -> list[str]:
        return [event.kind for event in self.of("lifecycle.v1")]


class Dying:
    """Tables of a process that dies: the lightweight transaction of that number is never made."""

    def __init__(self, tables: Tables, transaction: int) -> None:
        self._tables, self._left = tables, transaction

    def run_once(self, cql: str, values: Sequence[Any]) -> tuple[bool, Any]:
        if self._left == 0:
            raise KeyboardInterrupt
        self._left -= 1
        return self._tables.run_once(cql, values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tables, name)


def record(event: Value, partition: int = 0) -> Record:
    """A message of this event, as the loop hands it to a stage."""
    return Record("any", partition, 0, b"", b"", [], event)


def _event(message: Message) -> Value:
    kind = dict(message.headers)["ce_type"].decode()
    event: Value = msgspec.json.decode(message.value, type=EVENT_TYPES[kind])
    return event


class InThis:
    """Workers that are this process: what they run, in their order, with its exceptions as results."""

    def __init__(self, function: Any, setup: Any, arguments: tuple[Any, ...], *_: Any, **__: Any) -> None:
        setup(*arguments)
        self._function = function

    def run(self, jobs: Sequence[Any]) -> list[Any]:
        return [self._run(job) for job in jobs]

    def close(self) -> None:
        pass

    def _run(self, job: Any) -> Any:
        try:
            return self._function(job.argument)
        except Exception as error:
            return error


class Fixed:
    """Models that are replaced by the test alone."""

    def __init__(self, *models: Any) -> None:
        self.all = {model.card.id: model for model in models}

    def models(self) -> dict[str, Any]:
        return self.all
