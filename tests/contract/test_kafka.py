"""What infra.kafka promises, on a real broker."""

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource

from infra.connections import KafkaConnection
from infra.kafka import (
    LETTER_BYTES,
    Producer,
    client_config,
    create_topics,
    lags,
    pull_back,
    read,
    wait_ready,
)
from schemas.codec import Message
from schemas.errors import SlowDown
from schemas.topics import TOPICS, Topic

NOWHERE = KafkaConnection(servers="127.0.0.1:1")
pytestmark = pytest.mark.stack

#: From Kafka's own UtilsTest: key -> murmur2 as Java computes it.
MURMUR2 = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}


def new_topic(kafka_at: KafkaConnection, partitions: int = 12, prefix: str = "contract") -> str:
    name = f"{prefix}.{uuid.uuid4().hex[:12]}"
    topic = Topic(name, "clean", partitions, 3_600_000, (), (), ())
    assert create_topics(kafka_at, [topic], 1) == [name]
    return name


@pytest.fixture(scope="module")
def topic(kafka_at: KafkaConnection) -> str:
    return new_topic(kafka_at)


@pytest.fixture(scope="module")
def producer(kafka_at: KafkaConnection) -> Producer:
    return Producer(kafka_at)


def message(topic: str, key: str, value: bytes = b"{}") -> Message:
    return Message(topic, key.encode(), value, [("ce_type", b"x"), ("empty", b"")])


def test_what_send_returned_from_can_be_read(kafka_at: KafkaConnection, producer: Producer) -> None:
    """Confirmed means there: key, value and headers, in order within a key."""
    topic = new_topic(kafka_at)
    producer.send([message(topic, f"k{i % 3}", str(i).encode()) for i in range(300)])
    found = list(read(kafka_at, topic, from_start=True, follow=False))
    assert len(found) == 300
    assert found[0].headers == [("ce_type", b"x"), ("empty", b"")]
    for key in (b"k0", b"k1", b"k2"):
        numbers = [int(m.value) for m in found if m.key == key]
        assert numbers == sorted(numbers)


def test_a_key_goes_where_java_would_put_it(kafka_at: KafkaConnection, producer: Producer) -> None:
    """One key, one partition, for every client: librdkafka's default would differ."""
    topic = new_topic(kafka_at)
    producer.send([message(topic, key) for key in MURMUR2])
    found = {m.key.decode(): m.partition for m in read(kafka_at, topic, from_start=True, follow=False)}
    assert found == {key: (value & 0x7FFFFFFF) % 12 for key, value in MURMUR2.items()}


def test_nothing_to_send_returns_at_once(producer: Producer) -> None:
    """A batch without messages waits for nobody."""
    producer.send([])


def test_a_stop_ends_a_send_that_waits_for_a_broker() -> None:
    """Nothing listens there: the sender is told that its messages are unconfirmed."""
    stopping = threading.Event()
    away = Producer(NOWHERE, stopping)
    threading.Timer(0.2, stopping.set).start()
    with pytest.raises(SlowDown, match="unconfirmed"):
        away.send([message("any", "k")])


def test_a_dead_letter_of_the_largest_message_is_taken(kafka_at: KafkaConnection, producer: Producer) -> None:
    """Base64 makes it a third longer than what its own topic admits."""
    topic = new_topic(kafka_at, 1, "deadletter")
    producer.send([message(topic, "k", bytes(LETTER_BYTES - 4096))])
    assert len(list(read(kafka_at, topic, from_start=True, follow=False))) == 1


def test_topics_are_made_once(kafka_at: KafkaConnection) -> None:
    """The table of topics, as `prodrome migrate` makes it; a second time there is nothing to do."""
    renamed = [t._replace(name=f"{t.name}.{uuid.uuid4().hex[:6]}", partitions=1) for t in TOPICS]
    assert create_topics(kafka_at, renamed, 1) == [t.name for t in renamed]
    assert create_topics(kafka_at, renamed, 1) == []


def test_a_topic_is_kept_longer_when_a_release_says_so(kafka_at: KafkaConnection) -> None:
    """And never shorter: what a site has chosen to keep longer stays."""
    name = f"contract.{uuid.uuid4().hex[:12]}"
    admin = AdminClient(client_config(kafka_at))
    for wanted, kept in ((1000, "1000"), (3000, "3000"), (2000, "3000")):
        create_topics(kafka_at, [Topic(name, "clean", 1, wanted, (), (), ())], 1)
        resource = ConfigResource(ConfigResource.Type.TOPIC, name)
        until(lambda: admin.describe_configs([resource])[resource].result())  # noqa: B023  called here
        answer = admin.describe_configs([resource])[resource].result()
        assert answer["retention.ms"].value == kept


def test_everything_waits_for_a_group_that_never_read(kafka_at: KafkaConnection, producer: Producer) -> None:
    """Lag counts from the oldest kept message; a topic that does not exist has none."""
    topic = new_topic(kafka_at, 3)
    producer.send([message(topic, f"k{i}") for i in range(10)])
    [found] = lags(kafka_at, {"nobody": [topic]})
    assert (found.group, found.topic, found.messages) == ("nobody", topic, 10)
    assert [lag.messages for lag in lags(kafka_at, {"nobody": ["contract.none"]})] == [0]


def until(commit: Callable[[], object]) -> None:
    """A topic that was just made is not known everywhere at once."""
    for _ in range(50):
        try:
            commit()
            return
        except KafkaException:
            time.sleep(0.2)
    commit()


def test_a_group_past_the_end_is_pulled_back_to_it(kafka_at: KafkaConnection, producer: Producer) -> None:
    """As a broker leaves it that lost messages and kept the group's place; other places stay."""
    topic, group = new_topic(kafka_at, partitions=2), f"group.{uuid.uuid4().hex}"
    producer.send([message(topic, f"k{i}") for i in range(20)])
    consumer = Consumer({**client_config(kafka_at), "group.id": group})
    try:
        places = [TopicPartition(topic, 0, 1), TopicPartition(topic, 1, 1000)]
        until(lambda: consumer.commit(offsets=places, asynchronous=False))
        [lag] = pull_back(kafka_at, {group: (topic,)})
        first, second = (place.offset for place in consumer.committed(places))
        end = sum(m.partition == 1 for m in read(kafka_at, topic, from_start=True, follow=False))
    finally:
        consumer.close()
    assert (first, second) == (1, end)
    assert (lag.topic, lag.messages) == (topic, 1000 - end)
    assert pull_back(kafka_at, {group: (topic,)}) == []


def test_reading_follows_until_it_is_stopped(
    kafka_at: KafkaConnection, producer: Producer, topic: str
) -> None:
    """New messages alone, as `prodrome watch` shows them."""
    producer.send([message(topic, "before")])
    stopping, begun = threading.Event(), threading.Event()
    found = []

    def follow() -> None:
        while not stopping.is_set():
            with suppress(SlowDown):  # a busy broker may not say at once who leads a new topic
                for received in read(kafka_at, topic, from_start=False, follow=True, stopping=stopping):
                    found.append(received.key)
                    begun.set()

    reader = threading.Thread(target=follow)
    reader.start()
    while not begun.wait(0.2):  # reading begins at its own time
        producer.send([message(topic, "after")])
    stopping.set()
    reader.join()
    assert set(found) == {b"after"}


def test_reading_an_empty_topic_ends(kafka_at: KafkaConnection) -> None:
    """There is nothing to wait for."""
    topic = new_topic(kafka_at, 2)
    while True:
        with suppress(SlowDown):  # a busy broker may not say at once who leads a new topic
            assert list(read(kafka_at, topic, from_start=True, follow=False)) == []
            return


def test_a_cluster_that_does_not_answer_is_said_to(kafka_at: KafkaConnection) -> None:
    """Readiness is an answer to a request, and its absence is `SlowDown`."""
    wait_ready(kafka_at, 10)
    with pytest.raises(SlowDown, match="did not answer"):
        wait_ready(NOWHERE, 0)
