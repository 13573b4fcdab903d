"""The DICOM door when disks, processes and peers fail: what was acknowledged is kept, all else is told."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from doors import CT, EXPLICIT, ROOT, Door, closings, dataset, eventually, free_port, item, stored

from infra.spool import SpoolLimits, SpoolReader
from infra.spool.segment import Segment
from producers import upper_layer as ul
from producers.send import Association, Destination, Result, echo, send


def test_an_abort_keeps_what_was_acknowledged(open_door: Callable[..., Door], tmp_path: Path) -> None:
    """A-ABORT in the middle of a dataset: the instances before stay, nothing of the half one does."""
    door = open_door()
    folder = tmp_path / "files"
    folder.mkdir()
    association = Association(door.destination, {(CT, EXPLICIT): 1})
    for n in range(3):
        assert association.store(item(folder, f"1.2.{n}", dataset(f"1.2.{n}"))) == 0
    association._send(ul.command_pdu(1, ul.store_command(9, CT, "1.2.9")))
    association._send(ul.data_pdu(1, bytes(50_000), last=False) + ul.ABORT_REQUEST)
    association.close()
    assert eventually(lambda: bool(closings(door.folder)))
    door.stop()
    assert [header.sop_instance_uid for header, _ in stored(door.folder)] == ["1.2.0", "1.2.1", "1.2.2"]
    (closed,) = closings(door.folder)
    assert (closed.cause, closed.studies) == ("aborted", {"1.2.3": 3})


def test_a_full_spool_answers_a700_and_heals(open_door: Callable[..., Door], tmp_path: Path) -> None:
    """From 95 % every answer is A700, from 85 % nobody new comes in; freeing heals it without a restart."""
    limits = SpoolLimits(segment_bytes=200_000, limit_bytes=2_000_000)
    door = open_door(limits=limits)
    folder = tmp_path / "files"
    folder.mkdir()
    association = Association(door.destination, {(CT, EXPLICIT): 1})
    one = item(folder, "1.2.1", dataset("1.2.1", 90_000))
    statuses = [association.store(one) for _ in range(60)]
    full = statuses.index(0xA700)
    assert statuses == [0] * full + [0xA700] * (60 - full)
    assert len(stored(door.folder)) == full
    with pytest.raises(Exception, match="association rejected 2/3/2"):
        echo(door.destination)
    reader = SpoolReader(door.folder)
    for number in reader.segments():
        reader.free(number)
    assert eventually(lambda: association.store(one) == 0)
    association.release()


def test_sync_errors_are_never_acknowledged(
    open_door: Callable[..., Door], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While every sync fails each answer is A700; when syncs work again, so does the door."""
    door = open_door()
    folder = tmp_path / "files"
    folder.mkdir()
    association = Association(door.destination, {(CT, EXPLICIT): 1})
    one = item(folder, "1.2.1", dataset("1.2.1"))
    with monkeypatch.context() as patch:
        patch.setattr(Segment, "sync", _io_error)
        assert {association.store(one) for _ in range(20)} == {0xA700}
    assert stored(door.folder) == []
    assert association.store(one) == 0
    association.release()


def test_associations_share_syncs(
    open_door: Callable[..., Door], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight associations need fewer syncs than they store instances."""
    syncs: list[int] = []
    real = Segment.sync

    def slow(segment: Segment) -> None:
        syncs.append(segment.tail)
        time.sleep(0.01)  # a disk of ten milliseconds
        real(segment)

    monkeypatch.setattr(Segment, "sync", slow)
    door = open_door()
    folder = tmp_path / "files"
    folder.mkdir()
    paths = [item(folder, f"1.2.{n}", dataset(f"1.2.{n}")).path for n in range(80)]
    assert {result.status for result in send(paths, door.destination, associations=8)} == {0}
    assert len(syncs) < 70


def test_a_stop_lets_the_store_in_flight_end(
    open_door: Callable[..., Door], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM while a store is being synced: it is answered with its true status, then all ends."""
    real, syncing = Segment.sync, threading.Event()

    def slow(segment: Segment) -> None:
        syncing.set()
        time.sleep(1.0)
        real(segment)

    monkeypatch.setattr(Segment, "sync", slow)
    door = open_door()
    folder = tmp_path / "files"
    folder.mkdir()
    results: list[Result] = []
    paths = [item(folder, "1.2.1", dataset("1.2.1")).path]
    sender = threading.Thread(target=lambda: results.extend(send(paths, door.destination)))
    sender.start()
    assert syncing.wait(10)
    door.stop()
    sender.join(10)
    assert [result.status for result in results] == [0]
    assert len(stored(door.folder)) == 1


_PROCESS = """
import signal, sys, threading
sys.path.insert(0, sys.argv[1])
from pathlib import Path

from infra.settings import Receive
from infra.spool import Spool
from producers.receiver import serve
from schemas.sources import Source
if "broken" in sys.argv:
    Spool._commit = lambda *_: None
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
spool = Spool(Path(sys.argv[2]))
serve(Receive(port=int(sys.argv[3])), (Source(name="local"),), spool, stop,
      ready=lambda port: print(port, flush=True))
spool.close()
"""


def _process(folder: Path, port: int, *extra: str, under: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    command = [*under, sys.executable, "-c", _PROCESS, str(ROOT), str(folder), str(port), *extra]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as lines:
        assert lines.readline().strip().isdigit()
    return process


def test_kill_9_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """The receiver is killed three times while four associations send: every acknowledged instance is there."""
    files, folder, port = tmp_path / "files", tmp_path / "spool", free_port()
    files.mkdir()
    data = {f"1.2.{n}": dataset(f"1.2.{n}", 5_000 + n) for n in range(280)}
    paths = [item(files, uid, one).path for uid, one in data.items()]
    process = _process(folder, port)
    killed = 0
    destination = Destination(host="127.0.0.1", port=port)
    results = send(paths, destination, associations=4, retry_seconds=60)
    for acknowledged, result in enumerate(results, 1):
        assert result.stored, result
        if acknowledged % 70 == 0 and killed < 3:
            process.kill()
            process.wait()
            killed += 1
            process = _process(folder, port)
    process.terminate()
    assert process.wait(30) == 0
    kept: dict[str, set[bytes]] = {}
    for header, one in stored(folder):
        kept.setdefault(header.sop_instance_uid, set()).add(one)
    assert killed == 3
    assert {uid: {one} for uid, one in data.items()} == kept


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is absent: make peers")
@pytest.mark.parametrize("build", ["right", "broken"])
def test_each_response_follows_the_sync_that_covers_it(tmp_path: Path, build: str) -> None:
    """By system calls: no response leaves before its record's sync; a build that answers first is caught."""
    files, trace = tmp_path / "files", tmp_path / "trace"
    files.mkdir()
    count = 1000 if build == "right" else 50
    paths = [item(files, f"1.2.{n}", dataset(f"1.2.{n}")).path for n in range(count)]
    calls = "trace=fdatasync,fsync,pwritev,pwritev2,sendto"
    under = ("strace", "-f", "-qq", "-y", "-s", "8", "-e", calls, "-o", str(trace))
    port = free_port()
    process = _process(tmp_path / "spool", port, build, under=under)
    results = list(send(paths, Destination(host="127.0.0.1", port=port)))
    os.kill(_child_of(process.pid), signal.SIGTERM)
    process.wait(30)
    responses, early = _order(trace.read_text().splitlines())
    assert [result.status for result in results] == [0] * count
    assert responses == count
    assert early == (0 if build == "right" else count)


def _order(lines: list[str]) -> tuple[int, int]:
    # One association: a response is early if the record before it was written and not yet synced.
    responses = early = 0
    dirty = False
    for line in lines:
        if "pwritev" in line and "resumed" not in line and ".seg>" in line:
            dirty = True
        elif re.search(r"fdatasync.*= 0$", line):
            dirty = False
        elif "sendto(" in line and r'"\4\0' in line:
            responses += 1
            early += dirty
    return responses, early


def _child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _io_error(_segment: Segment) -> None:
    raise OSError(5, "injected")
