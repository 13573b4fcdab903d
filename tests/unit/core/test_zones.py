"""A role that holds both zones says each message in its own."""

from collections.abc import Sequence
from typing import cast

from infra.kafka import Producer, Zones
from schemas.codec import Message


class Recorder:
    """Notes what was sent, in order, into a list that several may share."""

    def __init__(self, name: str, sent: list[tuple[str, str]]) -> None:
        self._name, self._sent = name, sent

    def send(self, messages: Sequence[Message]) -> None:
        self._sent += [(self._name, message.topic) for message in messages]


def message(topic: str) -> Message:
    return Message(topic, b"", b"{}", [])


BATCH = [
    message("instance.settled.v1"),
    message("instance.deidentified.v1"),
    message("deadletter.trusted.v1"),
]


def test_each_zone_gets_its_topics_and_the_clean_one_first() -> None:
    """No clean message reaches the trusted cluster, none the other way, and settlements come last."""
    sent: list[tuple[str, str]] = []
    Zones(*(cast("Producer", Recorder(name, sent)) for name in ("trusted", "clean"))).send(BATCH)
    assert sent == [
        ("clean", "instance.deidentified.v1"),
        ("trusted", "instance.settled.v1"),
        ("trusted", "deadletter.trusted.v1"),
    ]


def test_one_cluster_gets_one_batch() -> None:
    """Where both zones share a cluster everything is confirmed together."""
    sent: list[tuple[str, str]] = []
    one = cast("Producer", Recorder("one", sent))
    Zones(one, one).send(BATCH)
    assert [topic for _, topic in sent] == [m.topic for m in BATCH]
