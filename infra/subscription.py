"""Messages of one topic for a group, done with when they say so: for topics that are not prodrome's own.

`receive` gives some; `done` commits them. What was given and is not done comes again after a restart. A role's own
topics are consumed by `consumers.app`.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException

from infra.connections import KafkaConnection
from infra.kafka import Received, client_config
from schemas.errors import SlowDown

log = logging.getLogger(__name__)

#: A batch whose store is away is waited for; its group must not think that its member is gone. One that hangs for
#: good is ended by the watchdog long before.
_POLL_MILLISECONDS: Final = 24 * 3600 * 1000
_COMMIT_SECONDS: Final = 10.0


class Subscription:
    """A member of a group; for one thread."""

    def __init__(self, connection: KafkaConnection, topic: str, group: str) -> None:
        self._consumer = Consumer(
            {
                **client_config(connection),
                "group.id": group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "session.timeout.ms": 10_000,
                "max.poll.interval.ms": _POLL_MILLISECONDS,
                "log_level": 0,
            }
        )
        self._consumer.subscribe([topic])

    def receive(self, most: int, seconds: float) -> list[Received]:
        """Return up to so many messages, after so many seconds whatever has come."""
        found: list[Any] = self._consumer.consume(most, seconds)
        return [
            Received(
                m.topic(),
                m.partition(),
                m.offset(),
                m.key() or b"",
                m.value() or b"",
                list(m.headers() or []),
            )
            for m in found
            if m.error() is None
        ]

    def done(self, messages: Sequence[Received]) -> None:
        """Commit; raises `SlowDown` where Kafka does not answer, and then they may come again."""
        del messages  # all that were received: there is one batch at a time
        try:
            self._consumer.commit(asynchronous=False)
        except KafkaException as error:
            if error.args[0].name() != "_NO_OFFSET":
                raise SlowDown(f"Kafka: {error.args[0].name()}") from None

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()
