"""What a test may change in a role that it starts itself; see `plug/sitecustomize.py`. Each is one function."""

import os
import signal
import threading
import time
from pathlib import Path


def answer_before_sync() -> None:
    """The receiver answers, and syncs behind that."""
    from infra.spool.writer import Spool

    right = Spool._commit

    def commit(self, segment, end):  # type: ignore[no-untyped-def]
        threading.Timer(1.0, right, (self, segment, end)).start()  # or a busy machine hides it

    Spool._commit = commit  # type: ignore[method-assign]


def no_folder_sync() -> None:
    """A segment's name is never made durable."""
    from infra.spool import files

    files.sync_folder = lambda folder: None


def record() -> None:
    """Each message that a stage has handled is a line in `CHAOS_RECORD`: process, topic, partition, offset."""
    from consumers.loop import Loop

    right = Loop.process
    file = os.open(os.environ["CHAOS_RECORD"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def process(self, messages):  # type: ignore[no-untyped-def]
        right(self, messages)
        lines = [f"{os.getpid()} {m.topic} {m.partition} {m.offset}\n" for m in messages]
        os.write(file, "".join(lines).encode())

    Loop.process = process  # type: ignore[method-assign]


def shift_clock() -> None:
    """Every clock of the process that knows the day is as many seconds off as `CHAOS_CLOCK` says now.

    Python's, which is what stamps rows (the driver), events and deadlines. libfaketime would shift libc's, and
    librdkafka's threads then miss each other's signals.
    """
    path, right, offset, read = Path(os.environ["CHAOS_CLOCK"]), time.time_ns, 0, -1.0

    def shifted() -> int:
        nonlocal offset, read
        if time.monotonic() > read + 0.1:
            offset, read = int(path.read_text()) * 10**9, time.monotonic()
        return right() + offset

    time.time_ns = shifted
    time.time = lambda: shifted() / 1e9


def stumble() -> None:
    """An instance that `CHAOS_POISON` names ends its worker, or never comes back; a line is a UID and which."""
    from consumers.boundary import Boundary

    right = Boundary.cross

    def cross(self, project, study, instance):  # type: ignore[no-untyped-def]
        poison = dict(map(str.split, Path(os.environ["CHAOS_POISON"]).read_text().splitlines()))
        kind = poison.get(instance.sop_instance_uid)
        if kind == "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        if kind == "hang":
            time.sleep(1e6)
        return right(self, project, study, instance)

    Boundary.cross = cross  # type: ignore[method-assign]
