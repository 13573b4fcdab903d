"""Kafka: the only door to confluent_kafka.

1. `Producer.send` publishes messages and returns when the broker has confirmed every one of them.
2. `create_topics` makes the topics of `schemas.topics`; `wait_ready` and `lags` look at a cluster; `pull_back`
   mends what a power loss leaves of groups.
3. `read` yields the messages of one topic, for commands that people run.

Consuming in a role is `consumers.app` (faust). Nothing here retries by giving up: a broker that is down is
waited for, and what was handed to `send` is confirmed, or the caller is told to stop.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Producer as _Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic

from infra.connections import KafkaConnection
from schemas.codec import Message
from schemas.errors import SlowDown
from schemas.topics import BY_NAME, Topic

log = logging.getLogger(__name__)

#: A flush returns at least this often, so that a stop is heard while the broker is away.
FLUSH_SECONDS: Final = 0.5
#: A dead letter holds a whole message in base64, so its topics and the producer take twice the others' size.
MESSAGE_BYTES: Final = 2 << 20
LETTER_BYTES: Final = 2 * MESSAGE_BYTES
#: Long enough for a broker under load to answer a metadata request, short enough to try again soon.
ADMIN_SECONDS: Final = 10.0
#: Members that died with the power are remembered for a session (10 s), from when their broker is up again.
MEMBERS_SECONDS: Final = 60.0


class Producer:
    """An idempotent producer, acks=all, that confirms what it sends.

    Parameters
    ----------
    connection : KafkaConnection
        Where the cluster is and who we are to it.
    stopping : threading.Event
        Set when the role ends; a `send` that waits for a broker then raises `SlowDown`.
    """

    def __init__(self, connection: KafkaConnection, stopping: threading.Event | None = None) -> None:
        self.stopping = stopping or threading.Event()
        self._lock = threading.Lock()
        self._producer = _Producer(
            {
                **client_config(connection),
                "enable.idempotence": True,
                "acks": "all",
                # librdkafka's default differs from Java's and aiokafka's: one key, one partition, for all.
                "partitioner": "murmur2_random",
                "message.timeout.ms": 0,  # a broker that is down is waited for, never given up
                "linger.ms": 20,  # flush cuts it short; it joins what several threads send
                "message.max.bytes": LETTER_BYTES,
                "error_cb": _tell,
                "compression.type": "lz4",
                "log_level": 0,
            }
        )

    def send(self, messages: Sequence[Message]) -> None:
        """Publish all messages and return once each is confirmed.

        Raises
        ------
        SlowDown
            The role is stopping, or the broker refused a message; none of them may be taken as sent.
        """
        failed: list[str] = []
        pending = len(messages)

        def delivered(error: Any, _message: Any) -> None:
            nonlocal pending
            pending -= 1
            if error is not None:
                failed.append(error.name())

        with self._lock:
            for message in messages:
                self._produce(message, delivered)
            while pending:
                self._producer.flush(FLUSH_SECONDS)
                if pending and self.stopping.is_set():
                    raise SlowDown("stopping while messages were unconfirmed")
        if failed:
            raise SlowDown(f"the broker refused {len(failed)} of {len(messages)} messages: {failed[0]}")

    def _produce(self, message: Message, delivered: Callable[[Any, Any], None]) -> None:
        while True:
            try:
                self._producer.produce(
                    message.topic,
                    value=message.value,
                    key=message.key,
                    headers=message.headers,
                    on_delivery=delivered,
                )
                return
            except BufferError:
                self._producer.poll(FLUSH_SECONDS)
                if self.stopping.is_set():
                    raise SlowDown("stopping while the producer's queue was full") from None


def _tell(error: Any) -> None:
    # Brokers that are away are waited for in silence; a login that is refused waits for a person.
    if error.code() == KafkaError._AUTHENTICATION:
        log.warning("Kafka refuses the login")


class Zones:
    """The producers of both zones, for a role that holds both; one and the same where they share a cluster.

    Parameters
    ----------
    trusted, clean : Producer
        To the cluster of each zone's topics.
    """

    def __init__(self, trusted: Producer, clean: Producer) -> None:
        self._trusted, self._clean = trusted, clean

    def send(self, messages: Sequence[Message]) -> None:
        """Publish each message in its topic's zone and return once all are confirmed.

        Clean messages go first: an intake is settled only after what became of it is said.

        Raises
        ------
        SlowDown
            As `Producer.send`; all must be sent again.
        """
        if self._trusted is self._clean:
            return self._trusted.send(messages)
        for zone, producer in (("clean", self._clean), ("trusted", self._trusted)):
            producer.send([message for message in messages if BY_NAME[message.topic].zone == zone])
        return None


def client_config(connection: KafkaConnection) -> dict[str, Any]:
    """Return what every client needs to reach the cluster and to be let in."""
    tls, login = connection.tls, bool(connection.username)
    config: dict[str, Any] = {
        "bootstrap.servers": connection.servers,
        "security.protocol": ("SASL_" if login else "") + ("SSL" if tls else "PLAINTEXT"),
    }
    if login:
        config |= {
            "sasl.mechanism": connection.mechanism,
            "sasl.username": connection.username,
            "sasl.password": connection.password(),
        }
    if tls:
        files = {"ca": tls.ca, "certificate": tls.cert, "key": tls.key}
        config |= {f"ssl.{name}.location": str(path) for name, path in files.items() if path}
    return config


class Lag(NamedTuple):
    """Messages of one topic that a group has not finished."""

    group: str
    topic: str
    messages: int


def wait_ready(connection: KafkaConnection, seconds: float, brokers: int = 1) -> None:
    """Return when a cluster of so many brokers answers a metadata request; raise `SlowDown` after `seconds`."""
    deadline = time.monotonic() + seconds
    refused: list[Any] = []
    admin = AdminClient({**client_config(connection), "log_level": 0, "error_cb": refused.append})
    while True:
        try:
            there = len(admin.list_topics(timeout=3).brokers)
            if there >= brokers:
                return
            why = f"{there} of {brokers} brokers are there"
        except KafkaException as error:
            why = str(error)
            admin.poll(0)  # a login that is refused is told apart only here
            if any(each.code() == KafkaError._AUTHENTICATION for each in refused):
                why = f"it refuses the login of {connection.username or 'nobody'}"
        if time.monotonic() > deadline:
            raise SlowDown(f"Kafka at {connection.servers} did not answer within {seconds:.0f} s: {why}")
        time.sleep(0.1)


def wait_until_ready(connection: KafkaConnection) -> None:
    """Return when the cluster answers, however long it takes: a role that starts first waits."""
    while True:
        try:
            return wait_ready(connection, 30.0)
        except SlowDown as error:
            log.warning("waiting: %s", error)


def create_topics(connection: KafkaConnection, topics: Iterable[Topic], replication: int) -> list[str]:
    """Make the topics that do not exist yet and return their names; those that do are kept as long as is said."""
    admin = AdminClient({**client_config(connection), "log_level": 3})
    present = set(admin.list_topics(timeout=ADMIN_SECONDS).topics)
    wanted = [
        NewTopic(
            topic.name,
            num_partitions=topic.partitions,
            replication_factor=replication,
            config={
                "retention.ms": str(topic.retention_ms),
                "max.message.bytes": str(_most(topic)),
                **_safe(replication),
            },
        )
        for topic in topics
        if topic.name not in present
    ]
    if wanted:
        for future in admin.create_topics(wanted, operation_timeout=ADMIN_SECONDS).values():
            future.result()
    _lengthen(admin, [topic for topic in topics if topic.name in present])
    return [topic.topic for topic in wanted]


def _lengthen(admin: AdminClient, topics: Iterable[Topic]) -> None:
    # A release may keep a topic longer than the last one did; what a site keeps longer still is its own affair.
    wanted = {topic.name: topic.retention_ms for topic in topics}
    asked = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in wanted]
    longer = []
    for resource, answer in admin.describe_configs(asked).items() if asked else ():
        now = int(answer.result()["retention.ms"].value)
        if 0 <= now < wanted[resource.name]:
            value = ConfigEntry(
                "retention.ms",
                str(wanted[resource.name]),
                incremental_operation=AlterConfigOpType.SET,
            )
            longer.append(
                ConfigResource(ConfigResource.Type.TOPIC, resource.name, incremental_configs=[value])
            )
    for change in admin.incremental_alter_configs(longer).values() if longer else ():
        change.result()


def _safe(replication: int) -> dict[str, str]:
    # Said for each topic: what a cluster's defaults are is somebody else's decision.
    least = 2 if replication > 2 else 1
    return {"min.insync.replicas": str(least), "unclean.leader.election.enable": "false"}


def _most(topic: Topic) -> int:
    return LETTER_BYTES if topic.name.startswith("deadletter") else MESSAGE_BYTES


def retentions(connection: KafkaConnection, topics: Sequence[str]) -> dict[str, float]:
    """Return how long a message of each topic may last, seconds; -1 for ever.

    Kafka removes whole segments of its log, so that is the retention and the age at which a segment is closed.

    Raises
    ------
    SlowDown
        The cluster does not answer.
    """
    admin = AdminClient({**client_config(connection), "log_level": 0})
    asked = admin.describe_configs(
        [ConfigResource(ResourceType.TOPIC, topic) for topic in topics], request_timeout=ADMIN_SECONDS
    )
    try:
        told = {resource.name: future.result() for resource, future in asked.items()}
    except KafkaException as error:
        raise SlowDown(f"Kafka at {connection.servers}: {error.args[0].name()}") from None
    found = {}
    for topic, said in told.items():
        kept, closed = int(said["retention.ms"].value), int(said["segment.ms"].value)
        found[topic] = (kept + closed) / 1000 if kept >= 0 else -1.0
    return found


def lags(connection: KafkaConnection, groups: Mapping[str, Sequence[str]]) -> list[Lag]:
    """Return how many messages each group has not committed yet, a topic.

    Parameters
    ----------
    groups : mapping
        Group id to the topics it reads.

    Raises
    ------
    SlowDown
        The cluster does not answer.
    """
    return [
        Lag(group, topic, messages)
        for group, topics in groups.items()
        for topic, messages in _group_lag(connection, group, topics).items()
    ]


def _group_lag(connection: KafkaConnection, group: str, topics: Sequence[str]) -> dict[str, int]:
    # A consumer and not an AdminClient: librdkafka 2.16 ends the process with SIGSEGV when an admin client
    # goes while a request for group offsets waits for a broker that is down [seen under kill -9 of Kafka].
    consumer = Consumer({**client_config(connection), "group.id": group, "log_level": 0})
    try:
        result = dict.fromkeys(topics, 0)
        for topic, _, following, end in _uncommitted(consumer, topics):
            result[topic] += end - following
        return result
    except KafkaException as error:
        raise SlowDown(f"Kafka at {connection.servers}: {error.args[0].name()}") from None
    finally:
        consumer.close()


def oldest_waiting(connection: KafkaConnection, group: str, topics: Sequence[str]) -> dict[str, float]:
    """Return when the oldest message that a group has not committed was written, by topic; reads one a partition.

    Seconds since the epoch, as the message says. A topic of which nothing waits is not in it.

    Raises
    ------
    SlowDown
        The cluster does not answer.
    """
    options = {"group.id": group, "enable.auto.commit": False, "log_level": 0}
    consumer = Consumer({**client_config(connection), **options})
    try:
        waiting = [
            TopicPartition(topic, partition, following)
            for topic, partition, following, end in _uncommitted(consumer, topics)
            if following < end
        ]
        consumer.assign(waiting)
        left, oldest = {(part.topic, part.partition) for part in waiting}, dict[str, float]()
        deadline = time.monotonic() + ADMIN_SECONDS
        while left and time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is None or message.error():
                continue
            topic, written = message.topic(), message.timestamp()[1] / 1000
            left.discard((topic, message.partition()))
            oldest[topic] = min(oldest.get(topic, written), written)
            consumer.incremental_unassign([TopicPartition(topic, message.partition())])
        return oldest
    except KafkaException as error:
        raise SlowDown(f"Kafka at {connection.servers}: {error.args[0].name()}") from None
    finally:
        consumer.close()


def _uncommitted(consumer: Consumer, topics: Sequence[str]) -> Iterator[tuple[str, int, int, int]]:
    """Yield (topic, partition, next offset, end) of every partition, by what the consumer's group committed."""
    known = consumer.list_topics(timeout=ADMIN_SECONDS).topics
    parts = [TopicPartition(t, p) for t in topics if t in known for p in known[t].partitions]
    for part in consumer.committed(parts, timeout=ADMIN_SECONDS) if parts else []:
        start, end = consumer.get_watermark_offsets(part, timeout=ADMIN_SECONDS)
        yield part.topic, part.partition, max(part.offset, start), end


def pull_back(connection: KafkaConnection, groups: Mapping[str, Sequence[str]]) -> list[Lag]:
    """Set groups that stand past the end of a partition back to its end; return which, and how far past.

    After a power loss a broker may have lost messages, and kept the place behind them that a group had
    committed. What is published next would lie before that place, and the group would never read it. So this
    is called before any role runs. It waits for members that the broker remembers, and that are gone.

    Raises
    ------
    SlowDown
        The cluster does not answer, or somebody is still a member of such a group.
    """
    return [lag for group, topics in groups.items() for lag in _pull_back(connection, group, topics)]


def _pull_back(connection: KafkaConnection, group: str, topics: Sequence[str]) -> list[Lag]:
    consumer = Consumer({**client_config(connection), "group.id": group, "log_level": 0})
    deadline = time.monotonic() + MEMBERS_SECONDS
    try:
        while True:
            try:
                return [Lag(group, *lag) for lag in _commit_ends(consumer, topics)]
            except KafkaException as error:  # no coordinator yet, or members that are gone
                if time.monotonic() > deadline:
                    raise SlowDown(f"Kafka at {connection.servers}: {error.args[0].name()}") from None
            time.sleep(1.0)
    finally:
        consumer.close()


def _commit_ends(consumer: Any, topics: Sequence[str]) -> list[tuple[str, int]]:
    past = [row for row in _uncommitted(consumer, topics) if row[2] > row[3]]
    if past:
        ends = [TopicPartition(topic, partition, end) for topic, partition, _, end in past]
        consumer.commit(offsets=ends, asynchronous=False)
    return [(topic, following - end) for topic, _, following, end in past]


class Received(NamedTuple):
    """A message as a command reads it."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


def read(
    connection: KafkaConnection,
    topic: str,
    *,
    from_start: bool,
    follow: bool,
    stopping: threading.Event | None = None,
) -> Iterator[Received]:
    """Yield the messages of a topic without a group: nothing is committed, nobody is disturbed.

    Parameters
    ----------
    from_start : bool
        From the oldest kept message, else only new ones.
    follow : bool
        Go on waiting for new messages, else end at what was the end when reading began.
    """
    consumer = Consumer(
        {
            **client_config(connection),
            "group.id": "prodrome-read",
            "enable.auto.commit": False,
            # One that follows must not skip what comes where a broker lost its messages: all again, then.
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )
    try:
        try:
            parts = list(consumer.list_topics(topic, timeout=ADMIN_SECONDS).topics[topic].partitions)
            bounds = {
                p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=ADMIN_SECONDS)
                for p in parts
            }
        except KafkaException as error:
            raise SlowDown(f"Kafka at {connection.servers} does not answer: {error.args[0].name()}") from None
        starts = {p: low if from_start else high for p, (low, high) in bounds.items()}
        consumer.assign([TopicPartition(topic, p, offset) for p, offset in starts.items()])
        waiting = {p for p, (_, high) in bounds.items() if starts[p] < high}
        while follow or waiting:
            if stopping is not None and stopping.is_set():
                return
            message = consumer.poll(0.2)
            if message is None or message.error():
                continue
            if message.offset() + 1 >= bounds[message.partition()][1]:
                waiting.discard(message.partition())
            yield Received(
                topic,
                message.partition(),
                message.offset(),
                message.key() or b"",
                message.value() or b"",
                list(message.headers() or []),
            )
    finally:
        consumer.close()
