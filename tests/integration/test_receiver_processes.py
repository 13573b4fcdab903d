"""Several listener processes on one port: all of their spools are one receiver's, whoever of them dies."""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from doors import CT, EXPLICIT, dataset, eventually, free_port, item, stored

from infra.spool import readers
from producers.relay import relay
from producers.send import Association, Destination, Item, echo, send

ROOT = Path(__file__).parents[2]


class Receiver:
    """`prodrome receive --processes N` and what it says."""

    def __init__(self, folder: Path, home: Path, processes: int, **settings: str) -> None:
        self.folder, self._processes = folder, processes
        self.destination = Destination(host="127.0.0.1", port=free_port())
        self._metrics = free_port()
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PRODROME_")}
        environ |= {"PYTHONPATH": str(ROOT), "PRODROME_HOME": str(home)}
        environ |= {"PRODROME_ROLE_METRICS_PORT": str(self._metrics)}
        environ |= {f"PRODROME_RECEIVE_{name.upper()}": value for name, value in settings.items()}
        options = f"--port {self.destination.port} --spool {folder} --processes {processes}".split()
        command = [sys.executable, "-m", "prodrome", "receive", *options]
        self.process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE)
        self.said: list[bytes] = []
        self._listening = threading.Thread(target=self._listen)
        self._listening.start()
        assert eventually(self.complete, 60.0), self.said

    def _listen(self) -> None:
        with self.process.stderr as lines:  # type: ignore[union-attr]
            self.said.extend(lines)

    def complete(self) -> bool:
        return (
            echo(self.destination) == 0
            and len(set(_values(self, "prodrome_receive_slots"))) == self._processes
        )

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def others(self) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children()
        return [one for one in found if "spawn_main" in " ".join(one.cmdline())]

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(40) == 0, self.said

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._listening.join()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Receiver]]:
    """A maker of receivers on one spool folder."""
    made: list[Receiver] = []

    def make(processes: int, **settings: str) -> Receiver:
        made.append(Receiver(tmp_path / "spool", tmp_path / "home", processes, **settings))
        return made[-1]

    yield make
    for receiver in made:
        receiver.kill()


@contextmanager
def held(destination: Destination, count: int) -> Iterator[list[Association]]:
    """Associations that are open meanwhile."""
    with ExitStack() as ending:
        found = [Association(destination, {(CT, EXPLICIT): 1}) for _ in range(count)]
        for one in found:
            ending.callback(one.close)
        yield found


def _files(folder: Path, count: int) -> dict[Path, tuple[Item, bytes]]:
    folder.mkdir(exist_ok=True)
    data = {f"1.2.{number}": dataset(f"1.2.{number}", 20_000) for number in range(count)}
    items = [(item(folder, name, one), one) for name, one in data.items()]
    return {one.path: (one, sent) for one, sent in items}


def _kept(folder: Path) -> list[dict[str, bytes]]:
    return [
        {header.sop_instance_uid: data for header, data in stored(one.folder)}
        for one in readers(folder).values()
    ]


def _values(receiver: Receiver, name: str) -> dict[str, float]:
    """The values of a metric, by its labels."""
    found = (line.rpartition(" ") for line in receiver.metrics().splitlines() if line.startswith(name))
    return {labels: float(value) for labels, _, value in found}


def test_all_take_part(start: Callable[..., Receiver], tmp_path: Path) -> None:
    """Both store, each in its own spool; together they hold every byte, and the first one tells all metrics."""
    receiver = start(2)
    files = _files(tmp_path / "files", 120)
    with held(receiver.destination, 6) as associations:
        for (one, _), association in zip(files.values(), associations * 20, strict=True):
            assert association.store(one) == 0
        now = "prodrome_receive_associations{"
        assert eventually(lambda: sorted(_values(receiver, now).values()) == [3.0, 3.0], 10.0)
    ever = "prodrome_receive_instances_total{"
    assert eventually(lambda: sum(_values(receiver, ever).values()) == 120, 10.0)
    receiver.stop()
    kept = _kept(receiver.folder)
    assert [len(one) for one in kept] == [60, 60]
    assert kept[0] | kept[1] == {one.sop_instance_uid: data for one, data in files.values()}


def test_caps_hold_over_all(start: Callable[..., Receiver]) -> None:
    """Five slots are five, whichever process has them; a place that is given back is taken by the next."""
    receiver = start(3, max_associations="5")
    with held(receiver.destination, 5):
        for _ in range(6):
            with pytest.raises(Exception, match="association rejected 2/3/2"):
                Association(receiver.destination, {(CT, EXPLICIT): 1})
    assert eventually(lambda: echo(receiver.destination) == 0)


@pytest.mark.parametrize("whom", ["a further one", "the first one"])
def test_kill_9(start: Callable[..., Receiver], tmp_path: Path, whom: str) -> None:
    """Under load: what was acknowledged is kept, all come back, and none is left behind by the first."""
    receiver = start(2)
    files = _files(tmp_path / "files", 400)
    left = receiver.others()
    results = []
    for result in send(
        list(files), receiver.destination, associations=4, retry_seconds=0 if "first" in whom else 60
    ):
        results.append(result)
        if len(results) == 100:
            (left[0] if "further" in whom else receiver.process).kill()
            if "first" in whom:
                receiver.process.wait()
                assert eventually(lambda: not any(one.is_running() for one in left), 5.0)
    if "first" in whom:
        receiver = start(2)
    assert eventually(lambda: len(receiver.others()) == 1, 10.0)
    assert receiver.others() != left
    assert eventually(lambda: "process" in receiver.metrics(), 20.0)
    receiver.stop()
    acknowledged = [files[result.path] for result in results if result.stored]
    assert len(acknowledged) >= (400 if "further" in whom else 100)
    kept = _kept(receiver.folder)
    for one, data in acknowledged:
        assert any(spool.get(one.sop_instance_uid) == data for spool in kept)


def test_fewer_processes_leave_nothing_behind(start: Callable[..., Receiver], tmp_path: Path) -> None:
    """After a start with one process the relay publishes both spools to their end, and a third when it comes."""
    files = _files(tmp_path / "files", 40)
    receiver = start(2)
    with held(receiver.destination, 2) as associations:
        for (one, _), association in zip(files.values(), associations * 20, strict=True):
            assert association.store(one) == 0
    os.kill(receiver.process.pid, signal.SIGKILL)
    receiver.process.wait()
    receiver = start(1)
    sent: list[str] = []
    stop = threading.Event()

    class Broker:
        def send(self, messages: list) -> None:  # type: ignore[type-arg]
            sent.extend(
                message.topic for message in messages for _ in range(message.value.count(b'"intake"'))
            )

    options = {"poll_seconds": 0.01, "large_bytes": 1 << 30}
    relaying = threading.Thread(target=relay, args=(receiver.folder, Broker(), stop), kwargs=options)
    relaying.start()
    try:
        assert eventually(lambda: sent.count("instance.received.v1") == 40, 20.0), len(sent)
        further = list(readers(receiver.folder).values())[1]
        assert further.segment(further.segments()[-1]).sealed
    finally:
        stop.set()
        relaying.join()
    receiver.stop()
    assert b"Traceback" not in b"".join(receiver.said)


def test_stopping_ends_stores_in_flight(start: Callable[..., Receiver], tmp_path: Path) -> None:
    """SIGTERM: every process ends its associations, and none is killed."""
    receiver = start(3)
    with held(receiver.destination, 6):
        began = time.monotonic()
        receiver.stop()
    assert time.monotonic() - began < 20
    assert not any(b"ended with" in line for line in receiver.said)
