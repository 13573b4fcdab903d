"""The fence around faust, on a real broker: it loses nothing, however its worker ends.

All workers of this module run beside each other, since most of their time is waiting: a member that was
killed is missed by the broker for its session time-out of ten seconds.
"""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from fence_worker import FLAKY, POISON, TYPES

from infra.connections import KafkaConnection
from infra.kafka import Producer, client_config, create_topics, lags, read
from schemas.codec import Message, body
from schemas.errors import SlowDown
from schemas.events import SegmentRelayed
from schemas.topics import Topic

pytestmark = pytest.mark.stack

PARTITIONS = 3
KILLS = 3
FLOWING = 2000


def until(holds: Callable[[], bool], what: str, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.2)


def as_settings(kafka: KafkaConnection) -> dict[str, str]:
    """The settings of the clean zone that a connection was made from."""
    return {
        "PRODROME_CLEAN_KAFKA": kafka.servers,
        "PRODROME_CLEAN_KAFKA_USERNAME": kafka.username,
        "PRODROME_CLEAN_KAFKA_PASSWORD_FILE": str(kafka.password_file or ""),
        "PRODROME_CLEAN_KAFKA_MECHANISM": kafka.mechanism,
    }


class Fenced:
    """A topic, a group and the worker process that reads it."""

    def __init__(self, mode: str, kafka: KafkaConnection, root: Path) -> None:
        self.mode, self.kafka, self.topic = mode, kafka, f"{mode}.{uuid.uuid4().hex[:12]}"
        self.folder = root / mode
        self.folder.mkdir()
        letters = Topic(f"deadletter.{self.topic}", "clean", 1, 3_600_000, (), (), ())
        create_topics(kafka, [letters, letters._replace(name=self.topic, partitions=PARTITIONS)], 1)
        self.producer = Producer(kafka)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = Path(__file__).with_name("fence_worker.py")
        command = [sys.executable, str(program), self.mode, self.topic, str(self.folder)]
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), **as_settings(self.kafka)}
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)

    def send(self, numbers: list[int], value: bytes | None = None) -> None:
        self.producer.send([self.message(i, value) for i in numbers])

    def message(self, number: int, value: bytes | None = None) -> Message:
        event = SegmentRelayed(spool="s", segment=0, records=number, sealed=False)
        return Message(
            self.topic,
            f"key {number % 24}".encode(),
            value or body(event),
            [("ce_type", TYPES[0].encode())],
        )

    def handled(self) -> list[tuple[int, int, int]]:
        """(pid, partition, offset) of every record, in the order in which they were handled."""
        try:
            lines = (self.folder / "handled").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [(int(a), int(b), int(c)) for a, b, c in map(str.split, lines)]

    def distinct(self) -> set[tuple[int, int]]:
        return {(partition, offset) for _, partition, offset in self.handled()}

    def sent(self) -> set[tuple[int, int]]:
        found = read(self.kafka, self.topic, from_start=True, follow=False)
        return {(message.partition, message.offset) for message in found}

    def lag(self) -> int:
        """Messages that wait; -1 while the broker has no answer (a new group has no coordinator yet)."""
        try:
            return self._lag()
        except SlowDown:
            return -1

    def _lag(self) -> int:
        return sum(lag.messages for lag in lags(self.kafka, {f"group.{self.topic}": [self.topic]}))

    def letters(self) -> list[str]:
        found = read(self.kafka, f"deadletter.{self.topic}", from_start=True, follow=False)
        return [json.loads(message.value)["reason"] for message in found]

    def member(self) -> str:
        admin = AdminClient(client_config(self.kafka))
        group = f"group.{self.topic}"
        [member] = admin.describe_consumer_groups([group])[group].result().members
        return str(member.member_id)

    def says(self, name: str) -> str:
        """What the worker that runs now wrote into a file, or nothing yet."""
        assert self.process is not None
        try:
            pid, _, text = (self.folder / name).read_text().partition(" ")
        except FileNotFoundError:
            return ""
        return text if pid == str(self.process.pid) else ""


@pytest.fixture(scope="module")
def workers(
    kafka_at: KafkaConnection, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Fenced]]:
    """One worker a mode, all started; whichever still runs is killed at the end."""
    root = tmp_path_factory.mktemp("fence")
    made = {mode: Fenced(mode, kafka_at, root) for mode in ("killed", "steady", "stuck", "lossy")}
    made["stuck"].send([1])
    made["lossy"].send([*range(50), POISON, *range(50)])
    made["steady"].send([*range(100), POISON, FLAKY])
    made["steady"].send([7], b"not JSON")
    for fenced in made.values():
        fenced.start()
    killer = threading.Thread(target=_flow_and_kill, args=(made["killed"],))
    killer.start()
    yield made
    killer.join()
    for fenced in made.values():
        fenced.kill()


def _flow_and_kill(fenced: Fenced) -> None:
    """Send `FLOWING` messages while the worker is killed in its work and started again."""

    def flow() -> None:
        for start in range(0, FLOWING, 50):
            fenced.send(list(range(start, start + 50)))
            time.sleep(0.02)

    flowing = threading.Thread(target=flow)
    flowing.start()
    for _ in range(KILLS):
        before = len(fenced.handled())
        until(lambda before=before: len(fenced.handled()) > before + 150, "work to interrupt")  # type: ignore[misc]
        fenced.kill()
        fenced.start()
    flowing.join()


def test_errors_are_tried_again_then_lettered_and_nothing_else_is_lost(workers: dict[str, Fenced]) -> None:
    """One message that always raises, one that raises once, one that is no JSON, among a hundred."""
    steady = workers["steady"]
    until(lambda: steady.lag() == 0, "an empty topic")
    assert sorted(steady.letters()) == ["malformed_message", "stage_failed"]
    assert len(steady.sent() - steady.distinct()) == 2


def test_a_slow_down_keeps_the_membership_and_loses_nothing(workers: dict[str, Fenced]) -> None:
    """A dependency that is away for longer than the session: the same member, each message once."""
    steady = workers["steady"]
    until(lambda: steady.lag() == 0, "an empty topic")
    member, before = steady.member(), len(steady.handled())
    (steady.folder / "down").touch()
    steady.send(list(range(200)))
    time.sleep(12)
    assert steady.member() == member
    assert len(steady.handled()) == before
    (steady.folder / "down").unlink()
    until(lambda: steady.lag() == 0, "an empty topic")
    assert steady.member() == member
    assert len(steady.handled()) == before + 200
    assert len(steady.letters()) == 2


def test_a_worker_that_starts_with_nothing_to_read_knows_that_it_has_caught_up(
    workers: dict[str, Fenced],
) -> None:
    """After a clean stop with status 0; without this no study would close until the next image."""
    steady = workers["steady"]
    until(lambda: steady.lag() == 0, "an empty topic")
    assert steady.stop() == 0
    steady.start()
    until(lambda: steady.says("assigned") == str(PARTITIONS), "an assignment")
    until(lambda: steady.says("caught_up") == str(PARTITIONS), "having caught up")


def test_a_worker_that_waits_for_a_dependency_ends_when_it_is_told_to(workers: dict[str, Fenced]) -> None:
    """Its batch is not acknowledged: the next worker has it."""
    steady = workers["steady"]
    until(lambda: steady.lag() == 0, "an empty topic")
    before = len(steady.handled())
    (steady.folder / "down").touch()
    steady.send(list(range(20)))
    until(lambda: steady.says("waited") != "", "waiting")
    assert steady.stop() == 0
    (steady.folder / "down").unlink()
    steady.start()
    until(lambda: steady.lag() == 0, "an empty topic")
    assert len(steady.handled()) == before + 20


def test_a_worker_that_hangs_ends_itself(workers: dict[str, Fenced]) -> None:
    """The watchdog: messages wait, nothing moves; a status that the supervisor restarts on."""
    process = workers["stuck"].process
    assert process is not None
    assert process.wait(120) == 75
    assert workers["stuck"].lag() == 1


def test_without_the_fence_faust_acknowledges_what_failed(workers: dict[str, Fenced]) -> None:
    """Why no exception may leave the agent; an upgrade of faust that mends this is noticed here."""
    bare = workers["lossy"]
    until(lambda: bare.lag() == 0, "an empty topic")
    lost = bare.sent() - bare.distinct()
    assert len(lost) >= 1
    assert bare.letters() == []


def test_kills_in_the_middle_of_batches_leave_no_gap(workers: dict[str, Fenced]) -> None:
    """Every message at least once, each partition in order, every worker from where the last was safe."""
    killed = workers["killed"]
    until(lambda: len(killed.distinct()) >= FLOWING and killed.lag() == 0, "all handled")
    assert killed.distinct() == killed.sent()
    done: dict[int, int] = defaultdict(int)  # partition -> next offset that nobody has handled
    last: dict[tuple[int, int], int] = {}
    for pid, partition, offset in killed.handled():
        assert offset == last.get((pid, partition), min(offset, done[partition]) - 1) + 1
        last[pid, partition] = offset
        done[partition] = max(done[partition], offset + 1)
    assert len({pid for pid, _, _ in killed.handled()}) == KILLS + 1
