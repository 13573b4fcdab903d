"""F8: disks fill up. Nothing is acknowledged that is not kept, nothing crashes for good, all goes on by itself."""

import random
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
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

#: One start in vain may leave less behind than the next: each of them touches the full disk.
STARTS = 3


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
    producer = Producer(small_parts.kafka)

    def send(number: int) -> None:
        body = number.to_bytes(4, "big") + random.Random(number).randbytes(100_000)
        producer.send([Message(topic, b"k", body, [])])

    cycles = scaled(1, 20)
    with writing(send) as written:
        for _ in range(cycles):
            through(small_parts.kafka_disk, written, 5, partial(small_parts.deaths, "kafka"))
    confirmed = written.confirmed
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

    def write(number: int) -> None:
        tables.run(f"INSERT INTO {keyspace}.rows (number, bytes) VALUES (?, ?)", (number, bytes(100_000)))

    before, cycles = small_parts.deaths("cassandra"), scaled(1, 20)
    with writing(write) as written:
        for _ in range(cycles):
            through(small_parts.cassandra_disk, written, 20, partial(small_parts.deaths, "cassandra"))
    restarts = small_parts.deaths("cassandra") - before
    print(
        f"{cycles} times full, {written.refused} refused, {restarts} restarts, {len(written.confirmed)} confirmed"
    )
    found = {row.number for row in tables.run(f"SELECT number FROM {keyspace}.rows")}
    tables.run(f"DROP KEYSPACE {keyspace}")
    tables.close()
    assert set(written.confirmed) <= found
    assert written.refused


@dataclass
class Written:
    """What became of the numbers."""

    confirmed: list[int] = field(default_factory=list)
    refused: int = 0


@contextmanager
def writing(write: Callable[[int], None]) -> Iterator[Written]:
    """Write one number after the other, in a thread, each until it is confirmed."""
    ended, written = threading.Event(), Written()

    def go_on() -> None:
        number = 0
        while not ended.is_set():
            try:
                write(number)
            except SlowDown:
                written.refused += 1
                ended.wait(0.5)
                continue
            written.confirmed.append(number)
            number += 1

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield written
    finally:
        ended.set()
        thread.join()


def through(disk: Disk, written: Written, count: int, deaths: Callable[[], int]) -> None:
    """Fill a disk, wait until its part was started in vain a few times, free it, and wait until all goes on."""
    more(written, count)
    before = deaths()
    disk.fill()
    eventually(lambda: deaths() >= before + STARTS, f"{STARTS} starts on a full disk", 240.0)
    disk.free()
    more(written, count)


def more(written: Written, count: int) -> None:
    """Wait until so many more are confirmed."""
    wanted = len(written.confirmed) + count
    eventually(lambda: len(written.confirmed) >= wanted, f"{count} more confirmed", 240.0)
