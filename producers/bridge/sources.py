"""Where events come from: a queue of SQS, or a topic of Kafka. A new kind is a class and a line in `event_source`."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

from infra.connections import buckets_of, kafka_of
from infra.settings import Settings
from infra.sqs import Queue
from infra.subscription import Subscription
from schemas.errors import SettingsError

#: Events of a batch: the store is asked for their objects beside each other, and their rows share requests.
TOGETHER: Final = 256
GROUP: Final = "prodrome-bridge"


class Event(NamedTuple):
    """A message: what it says, where it stood, and what its source needs to be done with it."""

    value: bytes
    where: tuple[str, int, int]
    handle: Any


class EventSource(Protocol):
    """Where events come from. Each call may raise `SlowDown`."""

    name: str

    def receive(self) -> list[Event]:
        """Return some events, or none after a while."""

    def done(self, events: Sequence[Event]) -> None:
        """Let these events, all of the last `receive`, not come again: their effects are durable."""

    def close(self) -> None:
        """End the connection."""


class Topic:
    """Events in a topic of the trusted Kafka."""

    def __init__(self, topic: str, settings: Settings) -> None:
        self.name = f"kafka:{topic}"
        self._subscription = Subscription(kafka_of(settings.trusted), topic, GROUP)

    def receive(self) -> list[Event]:
        """See `EventSource.receive`."""
        found = self._subscription.receive(TOGETHER, 0.25)
        return [Event(m.value, (m.topic, m.partition, m.offset), m) for m in found]

    def done(self, events: Sequence[Event]) -> None:
        """See `EventSource.done`."""
        self._subscription.done([event.handle for event in events])

    def close(self) -> None:
        """See `EventSource.close`."""
        self._subscription.close()


class SqsQueue:
    """Events in a queue of SQS."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.name = "sqs"
        self._queue = Queue(url, buckets_of(settings.buckets))

    def receive(self) -> list[Event]:
        """See `EventSource.receive`."""
        return [Event(m.value, ("sqs", -1, -1), m) for m in self._queue.receive(TOGETHER)]

    def done(self, events: Sequence[Event]) -> None:
        """See `EventSource.done`."""
        self._queue.done([event.handle for event in events])

    def close(self) -> None:
        """See `EventSource.close`."""


def event_source(text: str, settings: Settings) -> EventSource:
    """Return the source that a setting names; raises `SettingsError` for one that is none."""
    kind, _, rest = text.partition(":")
    if kind == "kafka" and rest:
        return Topic(rest, settings)
    if kind == "sqs" and rest:
        return SqsQueue(rest, settings)
    raise SettingsError("PRODROME_BRIDGE_EVENTS: expected kafka:<topic> or sqs:<URL of the queue>")
