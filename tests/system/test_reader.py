"""A deidentify role that cannot see the spool's folder, but has a token for the relay's reader.

It runs in a mount namespace where the folder is empty, in place of the stack's own.
"""

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from house import CHECKOUT, House, eventually, free_port, stored

from commands.stack import layout
from infra.load import write_mr
from infra.secret_files import write_secret
from infra.stack.lifecycle import status
from infra.stack.ready import role_answers
from infra.stack.supervise import Supervisor, connect

pytestmark = pytest.mark.stack

INSTANCES = 120
#: An empty folder lies over the spool's, for this process and its children alone.
_BLIND = 'mount -t tmpfs none "$0" && exec "$@"'


class Elsewhere(NamedTuple):
    """The role, as if on another machine; `token` is its file."""

    process: subprocess.Popen[bytes]
    token: Path


@pytest.fixture(scope="module")
def elsewhere(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    """The stack's own deidentify is stopped meanwhile."""
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("a mount namespace needs root and util-linux")
    token = tmp_path_factory.mktemp("elsewhere") / "token"
    shutil.copy(house.settings.reader.tokens_file, token)  # with its mode
    supervisor = _supervisor(house)
    supervisor.stop(["deidentify"])
    try:
        port = free_port()
        own = json.loads((house.home / "run" / "deidentify.json").read_text())
        log = (token.parent / "log").open("wb")
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _BLIND, house.settings.spool.path, *own["command"]],
            cwd=CHECKOUT,
            env={
                **os.environ,
                **own["env"],
                "PRODROME_SPOOL_READERS": f"http://127.0.0.1:{house.settings.reader.port}",
                "PRODROME_SPOOL_TOKEN_FILE": str(token),
                "PRODROME_ROLE_METRICS_PORT": str(port),
            },
            stderr=log,
        )
        log.close()
        try:
            eventually(lambda: role_answers("deidentify", port), "deidentify elsewhere")
            yield Elsewhere(process, token)
        finally:
            process.terminate()
            process.wait(60)
    finally:
        supervisor.start(["deidentify"])
        eventually(
            lambda: role_answers(
                "deidentify", int(_metrics(house, "deidentify").split(":")[2].split("/")[0])
            ),
            "deidentify of the stack",
        )


def test_the_folder_is_out_of_its_sight(house: House, elsewhere: Elsewhere) -> None:
    """The spool is there for the stack, and empty for this process."""
    seen = Path(f"/proc/{elsewhere.process.pid}/root") / house.settings.spool.path.lstrip("/")
    assert list(seen.iterdir()) == []
    assert (Path(house.settings.spool.path) / "spool.json").exists()


def test_all_becomes_clean_while_the_relay_is_killed(
    house: House, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    """From the door to clean over the reader: the same balance, though the relay dies twice in the middle."""
    files, before = write_mr(tmp_path, f"reader-{time.time_ns()}", INSTANCES), house.balance()
    for part in (files[: INSTANCES // 2], files[INSTANCES // 2 :]):
        assert stored(house.send(part, associations=2))
        eventually(lambda: _answers(house, "206"), "ranges")
        _kill_relay(house)
    assert house.gained(before) == {"acknowledged": INSTANCES, "clean": INSTANCES}


def test_a_wrong_token_reads_nothing_and_loses_nothing(
    house: House, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    """Refused, it waits; with the right token again, it goes on where it was."""
    before = house.balance()
    write_secret(elsewhere.token, "0" * 64)
    _kill_relay(house)  # a token is read when a connection is made
    assert stored(house.send(write_mr(tmp_path, f"token-{time.time_ns()}", 5)))
    eventually(lambda: _answers(house, "401") > 2, "refusals")
    assert house.balance()["in_flight"] == 5
    shutil.copy(house.settings.reader.tokens_file, elsewhere.token)
    assert house.gained(before) == {"acknowledged": 5, "clean": 5}


def _supervisor(house: House) -> Supervisor:
    found = connect(layout(house.settings))
    assert found is not None
    return found


def _kill_relay(house: House) -> None:
    """Kill it, and wait until its successor has begun to count anew."""
    pid = eventually(lambda: _pid(house), "relay")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: _pid(house) not in (pid, None), "another relay")


def _pid(house: House) -> int | None:
    return next(p.pid for p in status(layout(house.settings)) if p.name == "relay")


def _answers(house: House, status_: str) -> float:
    """How often the reader has given this answer since the relay's last start."""
    wanted = f'prodrome_relay_reader_requests_total{{status="{status_}"}} '
    try:
        with urllib.request.urlopen(_metrics(house, "relay"), timeout=10) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:  # it is on its way back
        return 0.0
    return sum(float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted))


def _metrics(house: House, role: str) -> str:
    return str(house.json("status", "--json")["addresses"]["metrics"][role])
