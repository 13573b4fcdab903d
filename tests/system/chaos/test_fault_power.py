"""F7: the power fails, and everything that was not synced is gone. What was acknowledged comes out again, once.

What a power loss takes is taken by hand, for no test can cut the power:

1. every process is killed at one moment, the supervisor too;
2. Kafka's logs are cut at random places behind where they stood when the load began, group places kept: the
   worst, for they stand past the end then;
3. of the objects written since, some are gone, some empty, some cut;
4. the machine has another boot id: so the relay's note of it is changed, which is what it looks at.

Cassandra runs with its commit log synced in groups: it has lost nothing that it had confirmed. The spool has
synced what it acknowledged; its durable end and the relay's place are older, or gone.
"""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from house import House
from programs import supervisor
from scale import LONG
from test_fault_matrix import judged, under_load
from trial import Trial

from infra.stack import processes

pytestmark = pytest.mark.stack


@pytest.mark.skipif(not LONG, reason="starts everything anew, three minutes: make chaos")
def test_f7_the_power_fails(trial: Trial, chance: random.Random, scaled: Callable[[int, int], int]) -> None:
    """Under load, again and again; `prodrome up` is all that is done behind it."""
    losses = []
    for _ in range(scaled(1, 20)):
        logs, began = kafka_logs(trial.house), time.time()
        with under_load(trial, 100):
            time.sleep(chance.uniform(5.0, 15.0))  # some studies close, some predictions are out
            end_all(trial.house)
            losses.append(lose(trial.house, chance, logs, began))
            done = trial.house.prodrome("up", seconds=600)
            assert done.returncode == 0, done.stdout + done.stderr
    judged(trial, losses=losses)
    assert all(loss["log bytes"] and loss["objects"] for loss in losses)


def end_all(house: House) -> None:
    """Every process at once, the one that would restart them first."""
    os.kill(supervisor(house).pid(), signal.SIGKILL)
    processes.end(lambda: processes.of_stack(house.home), grace=0)


def kafka_logs(house: House) -> dict[Path, int]:
    """The length of every log of a topic of ours."""
    folders = (house.home / "kafka" / "data").glob("*.v1-*")
    return {path: path.stat().st_size for folder in folders for path in folder.glob("*.log")}


def lose(house: House, chance: random.Random, before: dict[Path, int], began: float) -> dict[str, int]:
    """Take what was not synced; return how much."""
    lost = {"log bytes": 0, "objects": 0}
    for path, now in kafka_logs(house).items():
        keep = chance.randint(before.get(path, 0), now)
        lost["log bytes"] += now - keep
        os.truncate(path, keep)
        for name in ("*.index", "*.timeindex", "*.snapshot"):
            for derived in path.parent.glob(name):
                derived.unlink()
    for store in ("clean", "trusted"):
        new = [p for p in (house.home / store).rglob("*") if p.is_file() and p.stat().st_mtime >= began]
        for path in chance.sample(new, len(new) // 3):
            lost["objects"] += 1
            lose_object(path, chance)
    place = house.home / "spool" / "relay" / "position.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"boot": "before the power loss"}))
    (house.home / "spool" / "durable").unlink()
    return lost


def lose_object(path: Path, chance: random.Random) -> None:
    """Its name, its bytes, or some of them."""
    kind = chance.randrange(3)
    if kind == 0:
        path.unlink()
    else:
        os.truncate(path, 0 if kind == 1 else path.stat().st_size // 2)
