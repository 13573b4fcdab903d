"""The DICOM door over real sockets: bytes kept, statuses true, durable before the answer, strangers out."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from doors import (
    CT,
    DATA,
    EXPLICIT,
    Door,
    dataset,
    eventually,
    free_port,
    item,
    needs_data,
    store_one,
    stored,
)

from infra.settings import Receive
from infra.spool import (
    AssociationClosedHeader,
    Spool,
    SpoolLimits,
    SpoolReader,
)
from infra.spool.segment import Segment
from producers import upper_layer as ul
from producers.receiver import serve
from producers.receiver.strangers import MAX_STRANGERS
from producers.send import Association, Destination, Item, Result, echo, inspect_file, send
from schemas.errors import SettingsError
from schemas.sources import Source

ROOT = Path(__file__).parents[2]


def closings(folder: Path) -> list[AssociationClosedHeader]:
    """Every closed association that the spool holds."""
    reader = SpoolReader(folder)
    found = (record.header for number in reader.segments() for record in reader.records(number))
    return [header for header in found if isinstance(header, AssociationClosedHeader)]


def test_echo(open_door: Callable[..., Door]) -> None:
    """C-ECHO is answered with 0000, and leaves nothing in the spool."""
    door = open_door()
    assert echo(door.destination) == 0
    door.stop()
    assert SpoolReader(door.folder).segments() == []


@needs_data
def test_shared_files_are_kept_byte_for_byte(open_door: Callable[..., Door]) -> None:
    """Every DICOM file of the shared data is acknowledged, and stored exactly as it was sent."""
    door = open_door()
    files = [path for path in sorted(DATA.rglob("*")) if path.is_file()]
    sent = {path: found for path in files if isinstance(found := inspect_file(path), Item)}
    results = list(send(list(sent), door.destination, associations=2))
    door.stop()
    assert all(result.stored for result in results), [result for result in results if not result.stored]
    assert len(results) > 790
    kept: dict[str, list[bytes]] = {}
    for header, data in stored(door.folder):
        kept.setdefault(header.sop_instance_uid, []).append(data)
    for path, found in sent.items():
        assert path.read_bytes()[found.dataset_offset :] in kept[found.sop_instance_uid], path
    assert sum(map(len, kept.values())) == len(results)


def test_alone(tmp_path: Path) -> None:
    """The command with a port, a folder and a title, and nothing else that runs: kept after `kill -9`."""
    folder, port = tmp_path / "spool", free_port()
    command = [
        sys.executable,
        "-m",
        "prodrome",
        "receive",
        "--port",
        str(port),
        "--spool",
        folder,
        "--aet",
        "ALONE",
    ]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PRODROME_")}
    environ |= {"PYTHONPATH": str(ROOT), "PRODROME_HOME": str(tmp_path / "home")}
    destination = Destination(host="127.0.0.1", port=port, called="ALONE")
    data = dataset("1.2.3.4")
    with subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL) as process:
        try:
            assert eventually(lambda: echo(destination) == 0, 30.0)
            association = Association(destination, {(CT, EXPLICIT): 1})
            assert association.store(item(tmp_path, "1.2.3.4", data)) == 0
            association.close()
        finally:
            process.kill()
    Spool(folder).close()
    assert [found for _, found in stored(folder)] == [data]


def test_statuses(open_door: Callable[..., Door], tmp_path: Path) -> None:
    """Each status of the table is given for its cause, and only Success and warnings are in the spool."""
    lax, strict = Source(name="lax"), Source(name="strict", called_ae_title="STRICT", strict=True)
    door = open_door(lax, strict, deny_sop_classes=("1.2.840.10008.5.1.4.1.1.66",))
    folder = tmp_path / "files"
    folder.mkdir()
    assert store_one(door, item(folder, "1.2.1", dataset("1.2.1"))) == 0x0000
    assert store_one(door, item(folder, "1.2.2", dataset("1.2.99"))) == 0xB007
    assert store_one(door, item(folder, "1.2.2", dataset("../../tmp/evil"))) == 0xB007
    assert store_one(door, item(folder, "../../tmp/evil", dataset("1.2.1"))) == 0x0117
    assert store_one(door, item(folder, "", dataset("1.2.1"))) == 0x0117
    assert store_one(door, item(folder, "1.2.3", b"", "1.2.840.10008.5.1.4.1.1.66")) == 0x0122
    assert store_one(door, item(folder, "1.2.4", b"garbage")) == 0x0000
    assert store_one(door, item(folder, "1.2.5", b"")) == 0x0000
    assert store_one(door, item(folder, "1.2.6", dataset("1.2.99")), called="STRICT") == 0xA900
    assert store_one(door, item(folder, "1.2.7", b"garbage"), called="STRICT") == 0xC000
    door.stop()
    kept = [(header.sop_instance_uid, header.dataset_mismatch) for header, _ in stored(door.folder)]
    assert kept == [("1.2.1", False), ("1.2.2", True), ("1.2.2", True), ("1.2.4", False), ("1.2.5", False)]
    assert not list(Path("/tmp").glob("evil*"))


def test_a_record_carries_source_project_and_study(open_door: Callable[..., Door], tmp_path: Path) -> None:
    """What the way ahead needs is in the record: project, source, study, ordinal, syntax, trace."""
    door = open_door(Source(name="ct", project="chest", calling_ae_titles=("CT1",)))
    folder = tmp_path / "files"
    folder.mkdir()
    paths = [item(folder, f"1.2.{n}", dataset(f"1.2.{n}")).path for n in range(3)]
    results = list(send(paths, Destination(host="127.0.0.1", port=door.destination.port, calling="CT1")))
    door.stop()
    assert [result.status for result in results] == [0, 0, 0]
    headers = [header for header, _ in stored(door.folder)]
    assert [header.ordinal for header in headers] == [0, 1, 2]
    assert {(h.project, h.source, h.study_instance_uid, h.transfer_syntax_uid) for h in headers} == {
        ("chest", "ct", "1.2.3", EXPLICIT)
    }
    assert len({header.trace for header in headers}) == 3
    (closed,) = closings(door.folder)
    assert (closed.association, closed.studies, closed.cause) == (
        headers[0].association,
        {"1.2.3": 3},
        "released",
    )


@pytest.mark.parametrize(
    ("titles", "rejected"),
    [({"called": "OTHER"}, "1/1/7"), ({"calling": "STRANGER"}, "1/1/3"), ({"called": "ELSEWHERE"}, "1/1/3")],
)
def test_strangers_are_rejected(
    open_door: Callable[..., Door], titles: dict[str, str], rejected: str
) -> None:
    """A wrong called title, calling title or address is rejected for good, and the sender is told which."""
    door = open_door(
        Source(name="ct", calling_ae_titles=("PRODROME_SEND",)),
        Source(name="far", addresses=("10.0.0.0/8",), called_ae_title="ELSEWHERE"),
    )
    destination = Destination(host="127.0.0.1", port=door.destination.port, **titles)
    with pytest.raises(Exception, match=f"association rejected {rejected}"):
        echo(destination)
    assert echo(door.destination) == 0


@pytest.mark.parametrize("sent", ["command", "dataset"])
def test_a_message_that_trickles_ends(
    open_door: Callable[..., Door], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: str
) -> None:
    """Whole PDUs, each in time, of a message that never ends: its association ends, and nothing is kept."""
    monkeypatch.setattr("producers.receiver.takeover.MESSAGE_SECONDS", 0.5)
    door = open_door(way="taken over")
    association = Association(door.destination, {(CT, EXPLICIT): 1})
    pdu = ul.data_pdu(1, b"\0\0", last=False)
    if sent == "command":
        pdu = pdu[:-3] + b"\1" + pdu[-2:]  # a fragment of a command, and not the last one
    else:
        association._socket.sendall(ul.command_pdu(1, ul.store_command(1, CT, "1.2.3")))

    def ended() -> bool:
        try:
            association._socket.sendall(pdu)
        except OSError:
            return True
        return False

    assert eventually(ended)
    association.close()
    assert stored(door.folder) == []
    assert echo(door.destination) == 0


def test_the_association_cap_is_transient(open_door: Callable[..., Door]) -> None:
    """At the cap another association is told to come again (2/3/2), and admitted once one has ended."""
    door = open_door(max_associations=2)
    contexts = {(CT, EXPLICIT): 1}
    held = [Association(door.destination, contexts) for _ in range(2)]
    with pytest.raises(Exception, match="association rejected 2/3/2"):
        echo(door.destination)
    held[0].release()
    held[1].close()  # without a word
    assert eventually(lambda: echo(door.destination) == 0)


def test_silent_peers_hold_no_slot(open_door: Callable[..., Door]) -> None:
    """Peers that connect and stall, or announce a PDU of 4 GB, keep nobody out."""
    door = open_door(max_associations=2)
    peers = [socket.create_connection(("127.0.0.1", door.destination.port)) for _ in range(20)]
    for index, peer in enumerate(peers):
        peer.sendall((b"", b"\x01\x00", b"\x01\x00\xff\xff\xff\xff" + bytes(400))[index % 3])
    assert echo(door.destination) == 0
    peers[2].settimeout(5)
    assert peers[2].recv(100)[:1] in (b"", b"\x07")  # cut at once, not after four gigabytes
    for peer in peers:
        peer.close()


def test_a_source_keeps_its_slots(open_door: Callable[..., Door]) -> None:
    """One sender at its cap, and slots that are kept: the other comes in, and only then is all taken."""
    sources = (
        Source(name="greedy", calling_ae_titles=("GREEDY",)),
        Source(name="stroke", calling_ae_titles=("STROKE",), reserved_associations=1),
    )
    door = open_door(*sources, max_associations=3)
    contexts = {(CT, EXPLICIT): 1}
    greedy, stroke = (replace(door.destination, calling=title) for title in ("GREEDY", "STROKE"))
    held = [Association(greedy, contexts) for _ in range(2)]
    with pytest.raises(Exception, match="association rejected 2/3/2"):
        Association(greedy, contexts)
    held.append(Association(stroke, contexts))
    with pytest.raises(Exception, match="association rejected 2/3/2"):
        Association(stroke, contexts)
    for one in held:
        one.release()


def test_a_flood_of_strangers_is_bounded(open_door: Callable[..., Door]) -> None:
    """F17: 400 sockets, a byte a second each: an echo is answered within two seconds, and threads stay few."""
    door = open_door()
    before = threading.active_count()
    peers = [socket.create_connection(("127.0.0.1", door.destination.port)) for _ in range(400)]
    seconds = []
    for round_ in range(5):
        for peer in peers:
            with contextlib.suppress(OSError):  # it may be one of those that had to go
                peer.send(b"\x01\x00\x00\x00\x10"[round_ : round_ + 1])
        began = time.monotonic()
        assert echo(door.destination) == 0
        seconds.append(time.monotonic() - began)
        time.sleep(0.5)
    assert threading.active_count() - before < 2 * MAX_STRANGERS + 20
    gone = 0
    for peer in peers:
        peer.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            gone += not peer.recv(1)
    assert gone >= 400 - MAX_STRANGERS
    for peer in peers:
        peer.close()


def test_an_object_over_the_limit_ends_the_association(
    open_door: Callable[..., Door], tmp_path: Path
) -> None:
    """Past the size limit the association is aborted; others go on."""
    door = open_door(max_object_bytes=100_000)
    folder = tmp_path / "files"
    folder.mkdir()
    large = item(folder, "1.2.1", dataset("1.2.1", 3_000_000)).path
    (result,) = send([large], door.destination)
    assert result.status is None
    assert result.error.startswith("lost")
    assert store_one(door, item(folder, "1.2.2", dataset("1.2.2"))) == 0
    door.stop()
    assert [header.sop_instance_uid for header, _ in stored(door.folder)] == ["1.2.2"]


def test_a_large_object_passes_through_the_side_way(
    open_door: Callable[..., Door], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance over the memory bound is streamed into a segment of its own, byte for byte."""
    monkeypatch.setattr("producers.receiver.intake.MEMORY_BYTES", 1 << 20)
    door = open_door()
    folder = tmp_path / "files"
    folder.mkdir()
    data = [dataset(f"1.2.{n}", size) for n, size in enumerate((100, 5_000_000, 100))]
    paths = [item(folder, f"1.2.{n}", one).path for n, one in enumerate(data)]
    assert [result.status for result in send(paths, door.destination)] == [0, 0, 0]
    door.stop()
    assert [kept for _, kept in stored(door.folder)] == data
    assert not list(door.folder.glob("*.part"))


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


def test_beyond_loopback_needs_a_setting(tmp_path: Path) -> None:
    """Without an explicit setting the receiver does not listen where others can reach it."""
    spool = Spool(tmp_path)
    for host in ("0.0.0.0", "192.0.2.1", "some-name"):
        with pytest.raises(SettingsError, match="ALLOW_PLAINTEXT"):
            serve(Receive(host=host), (Source(name="a"),), spool, threading.Event())
    spool.close()


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
    paths = [item(files, f"1.2.{n}", dataset(f"1.2.{n}")).path for n in range(50)]
    calls = "trace=fdatasync,fsync,pwritev,pwritev2,sendto"
    under = ("strace", "-f", "-qq", "-y", "-s", "8", "-e", calls, "-o", str(trace))
    port = free_port()
    process = _process(tmp_path / "spool", port, build, under=under)
    results = list(send(paths, Destination(host="127.0.0.1", port=port)))
    os.kill(_child_of(process.pid), signal.SIGTERM)
    process.wait(30)
    responses, early = _order(trace.read_text().splitlines())
    assert [result.status for result in results] == [0] * 50
    assert responses == 50
    assert early == (0 if build == "right" else 50)


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
