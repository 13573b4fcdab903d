"""Where events come from: what is done with does not come again, what is not does; on a real Kafka and on SQS."""

import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.session import Session

from commands.benching.installed import install
from infra.connections import KafkaConnection, S3Connection
from infra.kafka import Producer, create_topics
from infra.secret_files import write_secret
from infra.sqs import Queue
from infra.subscription import Subscription
from producers.bridge.notifications import sightings
from schemas.codec import Message
from schemas.errors import SettingsError, SlowDown
from schemas.topics import Topic
from tests.gateway import free_port

pytestmark = [pytest.mark.stack, pytest.mark.slow]

MINISTACK = {"ministack": "1.5.33"}
_ENVIRONMENTS = Path(__file__).parents[2] / ".prodrome" / "lib"


@pytest.fixture(scope="module")
def amazon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Connection]:
    """A local SQS and S3 in an environment of its own."""
    python = install(_ENVIRONMENTS / "ministack", MINISTACK)
    port, folder = free_port(), tmp_path_factory.mktemp("amazon")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
    }
    running = subprocess.Popen(
        [python.with_name("ministack")],
        env=environment,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    write_secret(folder / "credentials", "tests\ntests\n")
    connection = S3Connection(
        endpoint=f"http://127.0.0.1:{port}", region="us-east-1", credentials_file=folder / "credentials"
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            _client("sqs", connection).list_queues()
            break
        except Exception:
            assert time.monotonic() < deadline, "ministack does not answer"
            time.sleep(0.3)
    yield connection
    running.kill()
    running.wait()


def _client(service: str, connection: S3Connection) -> Any:
    return Session().create_client(service, **connection.client_arguments())


class OfKafka:
    """A topic of its own on the real broker."""

    def __init__(self, kafka: KafkaConnection) -> None:
        self._kafka, self._group = kafka, f"prodrome-bridge-{uuid.uuid4().hex}"
        self.topic = f"events.{uuid.uuid4().hex}"
        create_topics(kafka, [Topic(self.topic, "trusted", 3, 60_000_000, (), (), ())], 1)

    def send(self, bodies: list[bytes]) -> None:
        Producer(self._kafka).send(
            [Message(topic=self.topic, key=b"", value=body, headers=[]) for body in bodies]
        )

    def open(self) -> Subscription:
        return Subscription(self._kafka, self.topic, self._group)

    def receive(self, opened: Subscription, count: int) -> list[Any]:
        found: list[Any] = []
        deadline = time.monotonic() + 30
        while len(found) < count and time.monotonic() < deadline:
            found += opened.receive(count, 0.5)
        return found

    def close(self, opened: Subscription) -> None:
        opened.close()


class OfSqs:
    """A queue of its own, whose messages hide for a second only."""

    def __init__(self, connection: S3Connection) -> None:
        self._connection, self._client = connection, _client("sqs", connection)
        self.url = self._client.create_queue(QueueName=f"q{uuid.uuid4().hex}")["QueueUrl"]

    def send(self, bodies: list[bytes]) -> None:
        for body in bodies:
            self._client.send_message(QueueUrl=self.url, MessageBody=body.decode())

    def open(self) -> Queue:
        return Queue(self.url, self._connection)

    def receive(self, opened: Queue, count: int) -> list[Any]:
        found: list[Any] = []
        deadline = time.monotonic() + 15
        while len(found) < count and time.monotonic() < deadline:
            found += opened.receive(count - len(found))
        return found

    def close(self, opened: Queue) -> None:
        """Their time of hiding is over."""


@pytest.fixture(params=["kafka", "sqs"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("infra.sqs.HIDDEN_SECONDS", 1)
    if request.param == "sqs":
        return OfSqs(request.getfixturevalue("amazon"))
    return OfKafka(request.getfixturevalue("kafka_at"))


def test_what_is_not_done_with_comes_again(source):
    """A process that dies with events in hand loses none of them."""
    source.send([b"one", b"two"])
    first = source.open()
    assert sorted(event.value for event in source.receive(first, 2)) == [b"one", b"two"]
    source.close(first)
    time.sleep(1.5)
    second = source.open()
    again = source.receive(second, 2)
    assert sorted(event.value for event in again) == [b"one", b"two"]
    second.done(again)
    source.close(second)
    time.sleep(1.5)
    third = source.open()
    source.send([b"three"])
    assert [event.value for event in source.receive(third, 1)] == [b"three"]
    source.close(third)


def test_the_events_of_a_bucket_arrive_through_its_queue(amazon: S3Connection):
    """Odd keys too: what S3 writes into SQS is read as it is in the store."""
    source, s3, name = OfSqs(amazon), _client("s3", amazon), f"b{uuid.uuid4().hex}"
    arn = _client("sqs", amazon).get_queue_attributes(QueueUrl=source.url, AttributeNames=["QueueArn"])
    s3.create_bucket(Bucket=name)
    told = {"QueueArn": arn["Attributes"]["QueueArn"], "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
    s3.put_bucket_notification_configuration(
        Bucket=name, NotificationConfiguration={"QueueConfigurations": [told]}
    )
    keys = ["plain", "a b+c%d/é\"'.dcm", "a%2Fb"]
    for key in keys:
        s3.put_object(Bucket=name, Key=key, Body=b"x")
    s3.delete_object(Bucket=name, Key=keys[0])
    queue = source.open()
    events = source.receive(queue, 5)  # the test event is one
    queue.done(events)
    seen = [(one.kind, one.bucket, one.key) for event in events for one in sightings(event.value)]
    assert sorted(seen) == sorted([("created", name, key) for key in keys] + [("removed", name, keys[0])])


def test_a_queue_that_is_away_is_waited_for(amazon: S3Connection):
    """Nobody listens there."""
    with pytest.raises(SlowDown, match="SQS"):
        Queue("http://127.0.0.1:1/000000000000/q", amazon).receive(1)


def test_what_is_no_queue_is_refused(amazon: S3Connection):
    """The message says how one is named."""
    with pytest.raises(SettingsError, match="sqs:https"):
        Queue("queue", amazon)
