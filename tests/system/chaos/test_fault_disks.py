"""F8: disks fill up. Nothing is acknowledged that is not kept, nothing crashes for good, all goes on by itself."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from checker import judge
from disks import small_disk
from house import eventually
from line import Line
from loads import Stream, small_load
from needles import identifiers
from receivers import Receiver
from sender import Ledger, Sender

from infra.cassandra import Tables

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
        stream = Stream(tmp_path / "load", project)
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
