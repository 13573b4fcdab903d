"""F8: disks fill up. Nothing is acknowledged that is not kept, nothing crashes for good, all goes on by itself."""

import itertools
import random
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pytest
from checker import judge
from disks import Disk, SmallParts, small_disk
from house import eventually
from line import Line
from loads import Stream, small_load
from needles import identifiers
from receivers import Receiver
from sender import Ledger, Sender

from infra.cassandra import Tables
from infra.kafka import Producer, create_topics, read
from schemas.codec import Message
from schemas.errors import SlowDown
from schemas.topics import Topic

pytestmark = pytest.mark.stack


def test_f8_the_spool_is_full(
    line_tables: Tables,
    make_line: Callable[..., Line],
    tmp_path: Path,
    chance: random.Random,
    scaled: Callable[[int, int], int],
) -> None:
    """Refused while it is full, taken again when it is freed, by the same process; all that was taken comes out."""
    home, project = tmp_path / "home", f"full-{chance.getrandbits(32):08x}"
    with small_disk(home / "spool") as disk, Receiver(home, project=project) as receiver:
        stream = Stream(tmp_path / "load", f"{chance.getrandbits(32):08x}")
        sender = Sender(Ledger(home / "sent.jsonl"), receiver.destination, pace=0.02)
        sender.start(stream)
        for _ in range(scaled(2, 20)):
            eventually(taken(sender, 40), "answers before")
            disk.fill()
            time.sleep(1.5)  # the receiver looks once a second
            full = time.monotonic()
            time.sleep(2.0)
            refused = sender.statuses(full, time.monotonic())
            disk.free()
            eventually(taken(sender, 40), "answers behind")
            assert 0 not in refused
        sender.end()
        assert receiver.process.poll() is None
        receiver.end(signal.SIGTERM)
        line = make_line(home, project)
        line.planted = {
            value
            for path in sorted((tmp_path / "load").glob("*.dcm"))[::20]
            for value in identifiers(pydicom.dcmread(path, stop_before_pixels=True))
            if len(value) > 8 and any(map(str.isdigit, value))
        }
        line.run()
        verdict = judge(line.evidence())
        line.close()
    print(f"{sum(s != 0 for _, s in sender.answers)} refused\n{verdict.table()}")
    assert verdict.zero, verdict.table()
    assert verdict.counts["acknowledged"] >= 80


def taken(sender: Sender, count: int) -> Callable[[], bool]:
    """Whether so many more were taken than now."""
    now = sum(status == 0 for _, status in sender.answers)
    return lambda: sum(status == 0 for _, status in sender.answers) >= now + count


def test_f8_the_object_store_is_full(make_line: Callable[..., Line], tmp_path: Path) -> None:
    """The stages wait, nothing is dead or quarantined for it, and all goes on when it is freed."""
    line = make_line()
    waits = 0
    with small_disk(line.clean_folder, 8 << 20) as disk:
        line.start()  # it makes its folders

        def on_wait() -> None:
            nonlocal waits
            waits += 1
            if waits == 5:
                disk.free()

        line.on_wait = on_wait
        disk.fill()
        for paths in small_load(tmp_path / "files", "objects"):
            line.send(*paths)
        line.run()
        verdict = judge(line.evidence())
    print(verdict.table())
    assert waits >= 5
    assert verdict.zero, verdict.table()


def test_f8_the_broker_is_full(small_parts: SmallParts, scaled: Callable[[int, int], int]) -> None:
    """It ends, is started again until there is space, and has every message that it had confirmed; none twice."""
    topic = f"full.{uuid.uuid4().hex[:12]}"
    create_topics(small_parts.kafka, [Topic(topic, "clean", 1, 3_600_000, (), (), ())], 1)
    producer, confirmed = Producer(small_parts.kafka), []

    def send(number: int) -> None:
        body = number.to_bytes(4, "big") + random.Random(number).randbytes(500_000)
        producer.send([Message(topic, b"k", body, [])])
        confirmed.append(number)

    cycles = scaled(1, 20)
    with writing(send):
        for _ in range(cycles):
            through(small_parts.kafka_disk, confirmed, 5)
    print(f"{cycles} times full, {small_parts.deaths('kafka')} restarts, {len(confirmed)} confirmed")
    found = [
        int.from_bytes(m.value[:4]) for m in read(small_parts.kafka, topic, from_start=True, follow=False)
    ]
    assert found[: len(confirmed)] == confirmed


def test_f8_cassandra_is_full(small_parts: SmallParts, scaled: Callable[[int, int], int]) -> None:
    """It ends instead of staying deaf, is started again until there is space, and has every row it confirmed."""
    tables = Tables(small_parts.cassandra, None)
    keyspace = f"full_{uuid.uuid4().hex[:12]}"
    tables.run(
        f"CREATE KEYSPACE {keyspace} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}"
    )
    tables.run(f"CREATE TABLE {keyspace}.rows (number int PRIMARY KEY, bytes blob)")
    confirmed: list[int] = []
    refused = 0

    def write(number: int) -> None:
        nonlocal refused
        while True:
            try:
                tables.run(
                    f"INSERT INTO {keyspace}.rows (number, bytes) VALUES (?, ?)", (number, bytes(500_000))
                )
                confirmed.append(number)
                return
            except SlowDown:
                refused += 1
                time.sleep(0.5)

    before, cycles = small_parts.deaths("cassandra"), scaled(1, 20)
    with writing(write):
        for _ in range(cycles):
            through(small_parts.cassandra_disk, confirmed, 20)
    restarts = small_parts.deaths("cassandra") - before
    print(f"{cycles} times full, {refused} refused, {restarts} restarts, {len(confirmed)} confirmed")
    found = {row.number for row in tables.run(f"SELECT number FROM {keyspace}.rows")}
    tables.run(f"DROP KEYSPACE {keyspace}")
    tables.close()
    assert set(confirmed) <= found
    assert refused
    assert restarts >= cycles


@contextmanager
def writing(write: Callable[[int], None]) -> Iterator[None]:
    """Write one number after the other, in a thread."""
    ended = threading.Event()

    def go_on() -> None:
        for number in itertools.count():
            if ended.is_set():
                return
            write(number)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def through(disk: Disk, confirmed: list[int], count: int) -> None:
    """Fill a disk until nothing is confirmed any more, free it, and wait until all goes on."""
    more(confirmed, count)
    disk.fill()
    last = -1
    while last != len(confirmed):
        last = len(confirmed)
        time.sleep(4.0)
    disk.free()
    more(confirmed, count)


def more(confirmed: list[int], count: int) -> None:
    """Wait until so many more are confirmed."""
    wanted = len(confirmed) + count
    eventually(lambda: len(confirmed) >= wanted, f"{count} more confirmed", 240.0)
