"""What keeps the DICOM door open: who may come in, how many, and how long anybody may take."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from doors import CT, EXPLICIT, Door, dataset, eventually, item, store_one, stored

from infra import metrics
from infra.settings import Receive
from infra.spool import Spool
from producers import upper_layer as ul
from producers.receiver import serve
from producers.receiver.statuses import UNKNOWN_CALLER
from producers.receiver.strangers import MAX_STRANGERS
from producers.send import Association, Destination, echo, send
from schemas.errors import SettingsError
from schemas.sources import Source


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


def test_beyond_loopback_needs_a_setting(tmp_path: Path) -> None:
    """Without an explicit setting the receiver does not listen where others can reach it."""
    spool = Spool(tmp_path)
    for host in ("0.0.0.0", "192.0.2.1", "some-name"):
        with pytest.raises(SettingsError, match="ALLOW_PLAINTEXT"):
            serve(Receive(host=host), (Source(name="a"),), spool, threading.Event())
    spool.close()


def test_a_doubt_is_a_no(open_door: Callable[..., Door], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where looking at a request fails, it is rejected and counted; pynetdicom would go on to accept."""

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("injected")

    door = open_door()
    before = refusals()
    with monkeypatch.context() as broken:
        broken.setattr("producers.receiver.door.identify", fails)
        with pytest.raises(ConnectionError, match="rejected"):
            echo(door.destination)
    assert refusals() == before + 1
    assert echo(door.destination) == 0


def refusals() -> float:
    """How often somebody was rejected who is no source."""
    labels = {"reason": UNKNOWN_CALLER.reason, "source": ""}
    return metrics.registry.get_sample_value("prodrome_receive_refused_total", labels) or 0.0
