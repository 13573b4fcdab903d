"""Every response follows the syncs that cover it, by system calls; builds that skip one are caught."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from house import CHECKOUT, eventually
from loads import write_small
from order import STRACE, uncovered
from sender import Ledger, Sender

from infra.settings import PREFIX
from infra.stack.ports import is_free
from producers.send import Destination, echo

PLUG = Path(__file__).with_name("plug")

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is absent: make peers")


@pytest.mark.parametrize(
    ("plug", "said"),
    [
        ("", ""),
        ("answer_before_sync", "before its record was synced"),
        ("no_folder_sync", "before its segment's name was synced"),
    ],
)
def test_each_response_follows_the_syncs_that_cover_it(
    tmp_path: Path, scaled: Callable[[int, int], int], plug: str, said: str
) -> None:
    """Four associations at once, segments that fill up: all are covered; in a broken build most are not."""
    count = scaled(120, 1000)
    paths = write_small(tmp_path / "files", "order", count)
    port = next(port for port in range(28112, 28400) if is_free(port))
    destination = Destination(host="127.0.0.1", port=port)
    process = traced_receiver(tmp_path, port, plug)
    try:
        eventually(lambda: answers(destination), "receiver")
        sender = Sender(Ledger(tmp_path / "sent"), destination)
        sender.start(paths)
        assert sender.finish() == count
    finally:
        [child] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        process.wait(60)
    answered, early = uncovered((tmp_path / "trace").read_text().splitlines())
    print(f"{answered} responses, {len(early)} early")
    assert answered == count
    # One that is answered early may be covered all the same, by the sync of another.
    assert len(early) > count / 2 if plug else early == []
    assert all(said in line for line in early)


def traced_receiver(home: Path, port: int, plug: str) -> "subprocess.Popen[bytes]":
    """Start a receiver with small segments, its system calls written down."""
    outside = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}
    settings = {
        "PRODROME_HOME": str(home), "PRODROME_RECEIVE_PORT": str(port),
        "PRODROME_SPOOL_SEGMENT_BYTES": str(64 << 10), "CHAOS_PLUG": plug,
        "PYTHONPATH": f"{CHECKOUT}:{PLUG}",
    }  # fmt: skip
    command = [*STRACE, "-o", str(home / "trace"), sys.executable, "-m", "prodrome", "receive"]
    with (home / "log").open("wb") as log:
        return subprocess.Popen(command, env=outside | settings, cwd=CHECKOUT, stdout=log, stderr=log)


def answers(destination: Destination) -> bool:
    """Whether a receiver answers there."""
    try:
        return echo(destination) == 0
    except ConnectionError:
        return False
