"""The role `receive` alone, as a process of the test's own: it needs no Kafka and no Cassandra."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
from disks import MEGABYTE
from house import CHECKOUT, eventually
from programs import PLUG

from infra.settings import PREFIX
from infra.stack.ports import is_free
from producers.send import Destination, echo

#: The guide's: what a hostile peer may cost in memory, and how soon its slot is free again.
PEER_BYTES, SLOT_SECONDS = 32 * MEGABYTE, 30.0
_SOURCE = '[[source]]\nname = "local"\nproject = "{project}"\naddresses = ["127.0.0.0/8"]\n'


class Receiver:
    """A receiver with a home of its own; `under` is a command that runs it, `plug` what changes it."""

    _next_port = 28112 + os.getpid() % 200 * 4  # two runs that begin together do not meet

    def __init__(
        self,
        home: Path,
        *,
        project: str = "default",
        plug: str = "",
        under: Sequence[str] = (),
        **settings: object,
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        sources = home / "sources.toml"
        sources.write_text(_SOURCE.format(project=project))
        port = next(p for p in range(Receiver._next_port, 28999) if is_free(p))
        Receiver._next_port = port + 1
        self.destination = Destination(host="127.0.0.1", port=port)
        outside = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}
        told = {
            "PRODROME_HOME": home, "PRODROME_RECEIVE_PORT": port, "PRODROME_RECEIVE_SOURCES": sources,
            "CHAOS_PLUG": plug, "PYTHONPATH": f"{CHECKOUT}:{PLUG}", **settings,
        }  # fmt: skip
        self._environment = outside | {name: str(text) for name, text in told.items()}
        self._command = [*under, sys.executable, "-m", "prodrome", "receive"]
        self._under, self._log, self._broken = bool(under), home / "log", bool(plug)

    def __enter__(self) -> "Receiver":
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command, env=self._environment, cwd=CHECKOUT, stdout=log, stderr=log
            )
        eventually(self._answers, "receiver")
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGTERM)

    @property
    def memory(self) -> int:
        """The bytes that it holds."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def end(self, number: signal.Signals) -> None:
        """End it with a signal, and wait until it has ended."""
        pid = self.process.pid
        if self._under:
            pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        os.kill(pid, number)
        try:
            self.process.wait(5 if self._broken else 60)
        except subprocess.TimeoutExpired:
            os.kill(pid, signal.SIGABRT)  # its log says then where each thread is
            self.process.wait(60)
            if not self._broken:  # how a build that is broken on purpose ends is nobody's concern
                raise AssertionError(self._log.read_text()) from None

    def _answers(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        try:
            return echo(self.destination) == 0
        except ConnectionError:
            return False
