"""Waiting instead of polling: woken at once by what is due, and by nothing that is not."""

import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from pynetdicom import AE
from pynetdicom.association import Association

from producers.receiver import waiting
from producers.receiver.takeover import fits
from producers.receiver.waiting import wait_for_events


@pytest.fixture
def assoc() -> Any:
    found = Association(AE(), "acceptor")
    found.dul._is_transport_event = lambda: False
    found.is_established = True
    found.dul._idle_timer.start()
    wait_for_events(found, found.dul._is_transport_event)
    return found


def test_the_names_that_are_replaced_are_those_that_pynetdicom_uses() -> None:
    """Private names of a pinned library: where one is gone, waiting would be polling again, or for ever."""
    assoc = Association(AE(), "acceptor")
    assert fits(assoc)
    assert isinstance(assoc._reactor_checkpoint, threading.Event)


@pytest.mark.parametrize("name", ["_decode_pdu", "to_provider_queue", "_is_transport_event"])
def test_another_pynetdicom_is_left_alone(name: str) -> None:
    """Where a name is gone, the plain way is taken."""
    other = Association(AE(), "acceptor")
    other.dul = SimpleNamespace(**{n: None for n in dir(other.dul) if n != name})
    assert not fits(other)


@pytest.mark.parametrize("queue", ["message", "primitive"])
def test_the_association_waits_for_its_queues(
    assoc: Any, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message or a primitive ends the wait; without one it lasts until the look is due."""
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 60.0)
    passed = threading.Event()
    threading.Thread(target=lambda: (assoc._reactor_checkpoint.wait(), passed.set()), daemon=True).start()
    assert not passed.wait(0.05)
    (assoc.dimse.msg_queue if queue == "message" else assoc.dul.to_user_queue).put((1, "anything"))
    assert passed.wait(10)


def test_a_round_that_is_held_up_stays_held_up(assoc: Any) -> None:
    """Who clears the checkpoint wants the thread to stand, however much was told."""
    assoc._reactor_checkpoint.clear()
    assoc.dimse.msg_queue.put((1, "anything"))
    passed = threading.Event()
    threading.Thread(target=lambda: (assoc._reactor_checkpoint.wait(), passed.set()), daemon=True).start()
    assert not passed.wait(0.2)
    assoc._reactor_checkpoint.set()
    assert passed.wait(10)


@pytest.fixture
def peer(assoc: Any) -> Iterator[socket.socket]:
    """The other end of a connection that is in the state in which datasets come."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assoc.dul.socket = SimpleNamespace(socket=ours)
        assoc.dul.state_machine.current_state = "Sta6"
        yield theirs


def looked_at(assoc: Any) -> threading.Event:
    done = threading.Event()
    threading.Thread(target=lambda: (assoc.dul._is_transport_event(), done.set()), daemon=True).start()
    return done


def test_the_provider_waits_for_the_socket_when_nothing_is_owed(
    assoc: Any, peer: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer's next bytes end the wait."""
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 60.0)
    assoc.dul.state_machine.current_state = "Sta2"
    done = looked_at(assoc)
    assert not done.wait(0.05)
    peer.send(b"x")
    assert done.wait(10)


def test_the_provider_waits_for_the_answer_when_one_is_owed(
    assoc: Any, peer: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message was handed over: its answer ends the wait, and not what the peer sends on."""
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 60.0)
    handled: list[str] = []
    assoc.dul._process_recv_primitive = lambda: handled.append("answer")
    assoc.dimse.msg_queue.put((1, "message"))
    done = looked_at(assoc)
    peer.send(b"x")
    assert not done.wait(0.05)
    assoc.dul.to_provider_queue.put("answer")
    assert done.wait(10)
    assert handled == ["answer"]
    assoc.dul.to_provider_queue.get()
    assert looked_at(assoc).wait(10)  # nothing owed any more: the byte that waits is seen at once


def test_a_message_without_an_answer_is_forgotten(assoc: Any, peer: socket.socket) -> None:
    """pynetdicom drops some messages; the socket is looked at again as soon as its thread is idle."""
    peer.send(b"x")
    assoc.dimse.msg_queue.put((1, "message"))
    assoc.dimse.msg_queue.get()
    assoc._reactor_checkpoint.idle = True
    assert looked_at(assoc).wait(10)
    assert assoc.dul._is_transport_event.__self__._answered == 1
