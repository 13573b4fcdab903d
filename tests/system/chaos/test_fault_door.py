"""The door alone under faults: what it acknowledged it keeps, byte for byte, and nothing that was half sent.

No Kafka, no Cassandra: the evidence is the sender's ledger and the spool. `make chaos-receive` is the full count.
"""

import hashlib
import itertools
import random
import re
import shutil
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from disks import MEGABYTE
from house import eventually
from loads import write_small
from order import STRACE, uncovered
from receivers import PEER_BYTES, SLOT_SECONDS, Receiver
from scale import LONG
from sender import Ledger, Sender, is_success
from wires import BadWire, element, ended

from infra.spool import InstanceHeader, SpoolStore, pointer_to, readers
from producers import upper_layer as ul
from producers.send import Association, echo

Scaled = Callable[[int, int], int]

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


class Kept(NamedTuple):
    """A record of the spool: the instance that its command named, and a digest of its dataset."""

    uid: str
    content: str


def kept(home: Path) -> Counter[Kept]:
    """Return what the spools of a home hold, checksums verified."""
    store, found = SpoolStore.of(home / "spool"), Counter[Kept]()
    for reader in readers(home / "spool").values():
        for record in itertools.chain.from_iterable(map(reader.records, reader.segments())):
            if isinstance(record.header, InstanceHeader):
                content = hashlib.sha256(store.read(pointer_to(reader.id, record))).hexdigest()
                found[Kept(record.header.sop_instance_uid, content)] += 1
    return found


def judge(sender: Sender, home: Path) -> dict[str, int]:
    """Compare what was answered with what is kept; all but the first two must be 0."""
    sent, there = sender.ledger.sent(), kept(home)
    tried = {Kept(one.uid, one.content) for one in sent}
    acknowledged = Counter({Kept(one.uid, one.content): sum(map(is_success, one.answers)) for one in sent})
    verdict = {
        "acknowledged": acknowledged.total(),
        "kept": sum(there.values()),
        "lost": (acknowledged - there).total(),
        "never sent like that": len(there.keys() - tried),
        "unknown": sum(one.unknown for one in sent),
        "orphans": len(list((home / "spool").rglob("*.part"))),
    }
    print(", ".join(f"{name} {count}" for name, count in verdict.items()))
    return verdict


def right(verdict: dict[str, int]) -> bool:
    """Whether nothing was lost, made up, left unknown or left behind."""
    return not any(count for name, count in verdict.items() if name not in ("acknowledged", "kept"))


def endless(folder: Path, seed: str, count: int = 400) -> Iterator[Path]:
    """Files again and again; a repeat is another arrival of the same content."""
    return itertools.cycle(write_small(folder, seed, count))


@pytest.mark.parametrize("processes", [1, 2] if LONG else [2])
def test_f1_the_listener_is_killed(
    tmp_path: Path, chance: random.Random, scaled: Scaled, processes: int
) -> None:
    """`kill -9` at random under load, started again at once."""
    home = tmp_path / "home"
    settings = {"PRODROME_RECEIVE_PROCESSES": processes, "PRODROME_SPOOL_SEGMENT_BYTES": 4 * MEGABYTE}
    receiver, ready = Receiver(home, **settings), []
    sender = Sender(Ledger(tmp_path / "sent"), receiver.destination)
    with receiver:
        sender.start(endless(tmp_path / "files", "f1"))
        for _ in range(scaled(3, 500)):
            time.sleep(chance.uniform(0.2, 5.0 if scaled(0, 100) else 1.0))
            receiver.end(signal.SIGKILL)
            began = time.monotonic()
            receiver.__enter__()
            ready.append(time.monotonic() - began)
        sender.end()
    print(f"{len(ready)} kills, ready again after at most {max(ready):.1f} s")
    assert right(judge(sender, home))


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is absent: make peers")
def test_f9_syncs_fail(tmp_path: Path, scaled: Scaled) -> None:
    """Every fifth sync of a thread ends with EIO: no success rests on one, and the sender's next attempt is taken."""
    home, trace = tmp_path / "home", tmp_path / "trace"
    under = (*STRACE, "-e", "inject=fdatasync:error=EIO:when=3+5", "-o", str(trace))
    with Receiver(home, under=under) as receiver:
        sender = Sender(Ledger(tmp_path / "sent"), receiver.destination)
        sender.start(write_small(tmp_path / "files", "f9", scaled(60, 4000)))
        sender.finish()
    lines = trace.read_text().splitlines()
    injected = sum("(INJECTED)" in line for line in lines)
    refused = sum(status == 0xA700 for _, status in sender.answers)
    answered, early = uncovered(lines)
    print(
        f"{injected} syncs failed, {refused} refused, {answered} answered with success, {len(early)} of them early"
    )
    assert right(judge(sender, home))
    assert early == []
    assert injected >= scaled(8, 1000)
    assert refused >= injected / 4  # one sync may cover several, and a seal has nobody who waits


def test_f16_from_nothing_to_gigabytes(tmp_path: Path, scaled: Scaled) -> None:
    """An instance of gigabytes is streamed, one of 0 bytes is taken, one over the limit is not; memory stays."""
    home, size = tmp_path / "home", scaled(192, 4096) * MEGABYTE
    with Receiver(home, PRODROME_RECEIVE_MAX_OBJECT_BYTES=size + MEGABYTE) as receiver:
        association = Association(receiver.destination, {(CT, EXPLICIT): 1})
        assert association.store_from(Zeros(100), CT, "1.2.1", EXPLICIT) == 0
        before = receiver.memory
        assert association.store_from(Zeros(size), CT, "1.2.2", EXPLICIT) == 0
        assert association.store_from(Zeros(0), CT, "1.2.3", EXPLICIT) == 0
        with pytest.raises(Exception, match=r"Reset|abort|closed|Broken"):
            association.store_from(Zeros(size + 2 * MEGABYTE), CT, "1.2.4", EXPLICIT)
        association.close()
        assert echo(receiver.destination) == 0
        grown = receiver.memory - before
    print(f"{size >> 20} MB taken, memory grew by {grown >> 20} MB")
    assert grown < PEER_BYTES
    assert sorted(one.uid for one in kept(home)) == ["1.2.1", "1.2.2", "1.2.3"]
    assert not list((home / "spool").rglob("*.part"))


@pytest.mark.skipif(not LONG, reason="deadlines of 20 s: make chaos-receive; test_receiver floods in short")
def test_f17_slow_sockets(tmp_path: Path, scaled: Scaled) -> None:
    """200 that say a byte a second, before and within an association: an echo is answered, and slots come back."""
    settings = {"PRODROME_RECEIVE_MAX_ASSOCIATIONS": 40}
    with Receiver(tmp_path / "home", **settings) as receiver:
        where = (receiver.destination.host, receiver.destination.port)
        strangers = [socket.create_connection(where) for _ in range(200)]
        slow = [Association(receiver.destination, {(CT, EXPLICIT): 1}) for _ in range(30)]
        took = []
        until = time.monotonic() + scaled(6, 60)
        while time.monotonic() < until:
            for peer in [*strangers, *(one._socket for one in slow)]:
                with suppress(OSError):
                    peer.send(b"\x04")
            began = time.monotonic()
            assert echo(receiver.destination) == 0
            took.append(time.monotonic() - began)
            time.sleep(0.5)
        eventually(lambda: all(ended(one._socket) for one in slow), "slots", SLOT_SECONDS)
        eventually(lambda: all(map(ended, strangers)), "sockets", SLOT_SECONDS)
        again = [Association(receiver.destination, {(CT, EXPLICIT): 1}) for _ in range(40)]
        for peer in [*strangers, *slow, *again]:
            peer.close()
    print(f"echo: p99 {sorted(took)[int(0.99 * len(took))]:.3f} s of {len(took)}")
    assert max(took) < 2.0


def test_f19_the_network_fails(tmp_path: Path, chance: random.Random, scaled: Scaled) -> None:
    """Resets anywhere, between request and response too, and slow answers: a second sending is the same content."""
    home, count = tmp_path / "home", scaled(60, 2000)
    paths = write_small(tmp_path / "files", "f19", count)
    with Receiver(home) as receiver, BadWire(receiver.destination.port, chance, 8_000, 0.02) as wire:
        sender = Sender(Ledger(tmp_path / "sent"), replace(receiver.destination, port=wire.port))
        sender.start(paths)
        sender.finish()
        print(f"{wire.resets} resets")
        assert wire.resets >= count / 20
    verdict = judge(sender, home)
    assert right(verdict)
    assert verdict["acknowledged"] == count
    assert len({one.uid for one in kept(home)}) == count


@pytest.mark.parametrize("processes", [1, 2] if LONG else [2])
def test_f20_it_stops_under_load(
    tmp_path: Path, chance: random.Random, scaled: Scaled, processes: int
) -> None:
    """SIGTERM again and again: it ends by itself, with status 0, and what was in flight has its true status."""
    home = tmp_path / "home"
    receiver = Receiver(home, PRODROME_RECEIVE_PROCESSES=processes)
    sender = Sender(Ledger(tmp_path / "sent"), receiver.destination)
    with receiver:
        sender.start(endless(tmp_path / "files", "f20"))
        for _ in range(scaled(2, 20)):
            time.sleep(chance.uniform(0.3, 1.5))
            receiver.end(signal.SIGTERM)
            assert receiver.process.returncode == 0
            receiver.__enter__()
        sender.end()
    assert right(judge(sender, home))


def test_a_dataset_without_end(tmp_path: Path, scaled: Scaled) -> None:
    """A store whose last fragment never comes: memory stays, its file goes when the peer does."""
    home = tmp_path / "home"
    with Receiver(home) as receiver:
        association = Association(receiver.destination, {(CT, EXPLICIT): 1})
        before = receiver.memory
        command = ul.store_command(1, CT, "1.2.1")
        association._socket.sendall(ul.command_pdu(1, command))
        fragment = ul.data_pdu(1, bytes(120_000), last=False)
        for _ in range(scaled(1500, 9000)):
            association._socket.sendall(fragment)
        grown = receiver.memory - before
        parts = list((home / "spool").glob("*.part"))
        association._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        association.close()
        eventually(lambda: not list((home / "spool").glob("*.part")), "an empty spool")
    print(f"memory grew by {grown >> 20} MB")
    assert len(parts) == 1
    assert grown < PEER_BYTES


def test_hostile_uids_reach_no_file(tmp_path: Path) -> None:
    """500 UIDs that are paths, formats and controls, in the command and in the dataset: nothing outside the spool."""
    home, chance = tmp_path / "home", random.Random("uids")
    before = {path for path in tmp_path.rglob("*") if home not in path.parents}
    statuses: Counter[int] = Counter()
    with Receiver(home) as receiver:
        for start in range(0, 500, 50):
            association = Association(receiver.destination, {(CT, EXPLICIT): 1})
            for uid in itertools.islice(hostile_uids(chance), start, start + 50):
                statuses[
                    store_raw(association, uid, element(0x00080018, uid) + element(0x0020000D, uid))
                ] += 1
            association.release()
        log = (home / "log").read_text()
    after = {path for path in tmp_path.rglob("*") if home not in path.parents}
    names = [path.name for path in (home / "spool").rglob("*")]
    assert set(statuses) <= {0x0117, 0x0000, 0xB007}
    assert statuses[0x0117] > 350  # digits and dots are left
    assert after - before <= {home}
    assert all(re.fullmatch(r"[0-9a-z.]+", name) for name in names), names
    assert "evil" not in log


def hostile_uids(chance: random.Random) -> Iterator[bytes]:
    """Yield UIDs that somebody might use as a name, a format or a command; every tenth is a right one."""
    bad = (
        b"../../../../tmp/evil", b"/tmp/evil", b"..\\..\\evil", b"1.2.3/../evil", b"1.2\0.evil", b"%2e%2e%2fevil",
        b"1.2.3\nevil: 1", b"1.2;touch evil", b"$(touch evil)", b"`evil`", b"{evil}", b"%s%n", b"\x1b[2Jevil",
        b"evil" * 20, b"CON", b"~evil", b"", b".", b"..", b"1..2", b"01.2", b"1.2." + b"9" * 70, b"\xff\xfe",
    )  # fmt: skip
    for number in itertools.count():
        stem = bad[number % len(bad)]
        yield f"1.2.{number}".encode() if number % 10 == 9 else stem + chance.choice((b"", b" ", b"\0"))


def store_raw(association: Association, uid: bytes, dataset: bytes) -> int:
    """Send a store whose command names any bytes; return the status."""
    values = {
        0x0002: CT.encode() + b"\0", 0x0100: b"\1\0", 0x0110: b"\1\0", 0x0700: b"\0\0", 0x0800: b"\1\0",
        0x1000: uid + b"\0" * (len(uid) % 2),
    }  # fmt: skip
    body = b"".join(struct.pack("<HHL", 0, tag, len(value)) + value for tag, value in values.items())
    command = struct.pack("<HHLL", 0, 0, 4, len(body)) + body
    return association.call(ul.command_pdu(1, command) + ul.data_pdu(1, dataset, last=True))


class Zeros:
    """A dataset of so many zeros: no element, so nobody's."""

    def __init__(self, size: int) -> None:
        self._left = size

    def __call__(self, count: int) -> bytes:
        """Read."""
        taken = min(count, self._left)
        self._left -= taken
        return bytes(taken)
