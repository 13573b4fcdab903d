"""The loop of the bridge: events in, intakes published, only then the events done with.

1. Receive some events; read each as sightings. One that cannot be understood becomes a dead letter.
2. Take the sighted objects in (`producers.bridge.take`), which returns when Kafka has confirmed everything.
3. Tell the source that they are done. A crash between repeats events; what is known already says nothing more.

A store, queue, Kafka or Cassandra that is down is waited for, with the events in hand. What events have lost is the
lister's work.
"""

import contextlib
import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from infra import metrics
from producers.bridge.dialects import Sighting
from producers.bridge.notifications import EVENT_BYTES, sightings
from producers.bridge.sources import Event, EventSource
from producers.bridge.take import SLOW_SECONDS, Publisher, Taking
from schemas.codec import Message, b64, encode
from schemas.errors import BadMessage, SlowDown
from schemas.events import DeadLetter

log = logging.getLogger(__name__)
T = TypeVar("T")

NAME: Final = "bridge"
#: An operator's pause is looked at this often.
PAUSED_SECONDS: Final = 0.5


class Bridge:
    """One source of events and what becomes of them.

    Parameters
    ----------
    source : EventSource
        Where events come from.
    taking : Taking
        What takes objects in.
    producer : Publisher
        For dead letters.
    paused : callable
        Whether an operator wants nothing taken in now.
    """

    def __init__(
        self,
        source: EventSource,
        taking: Taking,
        producer: Publisher,
        paused: Callable[[], bool] = lambda: False,
    ) -> None:
        self._source, self._taking, self._producer, self._paused = source, taking, producer, paused

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set."""
        while not stop.is_set():
            if self._paused():
                stop.wait(PAUSED_SECONDS)
                continue
            events = self._patiently(stop, self._source.receive) or []
            if events:
                self._patiently(stop, lambda events=events: self.handle(events))  # type: ignore[misc]
        with contextlib.suppress(SlowDown):  # a segment that nobody ended harms nobody
            self._taking.close()
        self._source.close()

    def handle(self, events: Sequence[Event]) -> None:
        """Work on events until each is done with; raises `SlowDown` where all must be done again."""
        sighted: list[Sighting] = []
        letters: list[Message] = []
        for event in events:
            try:
                sighted += sightings(event.value)
            except BadMessage as error:
                letters.append(_letter(event, error))
                log.error("an event of %s is no use: %s", self._source.name, error)
                metrics.inc("prodrome_stage_deadletters_total", stage=NAME, reason=error.reason)
        if letters:
            self._producer.send(letters)
        done = self._taking.take(sighted, "live")
        self._source.done(events)
        metrics.inc("prodrome_bridge_events_total", len(events))
        if done:
            log.info(
                "%d events: %s", len(events), ", ".join(f"{n} {what}" for what, n in sorted(done.items()))
            )

    def _patiently(self, stop: threading.Event, step: Callable[[], T]) -> T | None:
        """Run a step until it is done; None where it was told to stop meanwhile."""
        while not stop.is_set():
            try:
                return step()
            except SlowDown as error:
                metrics.inc("prodrome_stage_slowdowns_total", stage=NAME)
                log.warning("waiting: %s", error)
                stop.wait(SLOW_SECONDS)
        return None


def run_all(bridges: Sequence[Bridge], stop: threading.Event) -> None:
    """Run each in a thread until `stop` is set; one that ends by an error ends all: whoever started them starts anew."""
    threads = [threading.Thread(target=bridge.run, args=(stop,)) for bridge in bridges]
    for thread in threads:
        thread.start()
    while not stop.wait(1.0):
        if not all(thread.is_alive() for thread in threads):
            stop.set()
            raise RuntimeError("a bridge ended")
    for thread in threads:
        thread.join()


def _letter(event: Event, error: BadMessage) -> Message:
    topic, partition, offset = event.where
    # Of a queue there is no place to put it back to: the lister finds what it was about.
    name = hashlib.sha256(event.value).hexdigest()
    value = event.value if len(event.value) <= EVENT_BYTES else b""
    letter = DeadLetter(
        stage=NAME,
        topic=topic,
        partition=partition,
        offset=offset,
        reason=error.reason,
        detail=error.detail,
        attempts=1,
        key="",
        value=b64(value),
        headers={},
    )
    return encode("deadletter.trusted.v1", topic.encode(), letter, identity=(NAME, topic, name), source=NAME)
