"""The faults of the guide's matrix under load: after each, all is zero. Figures are printed (`-rP`).

Every test is one row: load begins, the fault happens, it heals, and when nothing is in flight the checker
judges everything that was ever sent here. Counts are short; `make chaos` has the full ones.
"""

import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Final

import pytest
from checker import Verdict
from confluent_kafka.admin import AdminClient
from house import House, eventually
from programs import await_running, children, deaths, held, kill, pid, stopped
from scale import LONG
from trial import Trial

from commands.status import GROUPS
from infra.connections import kafka_of
from infra.kafka import client_config

pytestmark = pytest.mark.stack

Scaled = Callable[[int, int], int]


@contextmanager
def under_load(trial: Trial, answers: int = 40) -> Iterator[None]:
    """Send before, during and behind the fault."""
    trial.begin()
    try:
        trial.sent(answers)
        yield
        trial.sent(answers)
    finally:
        trial.sender.end()


def judged(trial: Trial, **figures: object) -> Verdict:
    """Wait, judge, and print the row."""
    drain = trial.settle()
    verdict = trial.verdict()
    print(f"{figures} drained in {drain:.0f} s\n{verdict.table()}")
    assert verdict.zero, verdict.table()
    assert verdict.counts["acknowledged"] > 0
    return verdict


#: what dies -> how often in full; `worker` is a process of deidentify's pool
KILLED: Final = {
    "receive": 1000, "relay": 300, "deidentify": 300, "worker": 300, "catalog": 100, "ledger": 100, "score": 300,
    "cassandra": 100,
}  # fmt: skip


@pytest.mark.parametrize("programs", [(name,) for name in KILLED] if LONG else [tuple(KILLED)], ids="-".join)
def test_killed(trial: Trial, chance: random.Random, scaled: Scaled, programs: tuple[str, ...]) -> None:
    """F1 to F5: kill -9 at any moment, again and again: it goes on where it was, and no effect is doubled."""
    before, kills = deaths(trial.house), {name: scaled(1, KILLED[name]) for name in programs}
    with under_load(trial):
        for name in itertools.chain.from_iterable([name] * n for name, n in kills.items()):
            trial.keep_up()
            time.sleep(chance.uniform(0.2, 3.0))
            if name == "worker":
                kill_worker(trial.house, chance)
                continue
            if chance.random() < 0.8:  # else it dies while it starts
                await_running(trial.house, name)
            kill(trial.house, name)
    judged(trial, kills=kills)
    after = deaths(trial.house)
    assert all(after[name] - before.get(name, 0) >= n for name, n in kills.items() if name != "worker")
    assert trial.house.prodrome("reconcile").returncode == 0


def kill_worker(house: House, chance: random.Random) -> None:
    """Kill a process of deidentify's pool, in the middle of a write or not."""
    workers = eventually(lambda: children(house, "deidentify"), "worker")
    with suppress(ProcessLookupError):
        os.kill(chance.choice(workers), signal.SIGKILL)


def test_f6_the_broker_is_killed_and_away(trial: Trial, chance: random.Random, scaled: Scaled) -> None:
    """The door keeps accepting, no instance is refused, and the relay drains the spool behind it."""
    kills = scaled(1, 100)
    with under_load(trial, 10):
        for _ in range(kills):
            trial.keep_up()
            time.sleep(chance.uniform(0.2, 3.0))
            kill(trial.house, "kafka")
    outage = float(scaled(8, 300))
    with under_load(trial):
        with stopped(trial.house, "kafka"):
            began = time.monotonic()
            time.sleep(outage)
            during = trial.sender.statuses(began, time.monotonic())
        back = time.monotonic()
    judged(
        trial, kills=kills, outage=outage, answered_during=len(during), back=round(time.monotonic() - back)
    )
    assert during
    assert set(during) == {0}


@pytest.mark.skipif(not LONG, reason="stalls Cassandra, a minute: make chaos")
def test_f10_cassandra_is_slow_and_away(trial: Trial, chance: random.Random, scaled: Scaled) -> None:
    """Receiving goes on; the stages wait, keep their membership, end nothing and write no dead letter."""
    house = trial.house
    stages = ("deidentify", "catalog", "ledger", "score")
    before, was = members(house), {stage: pid(house, stage) for stage in stages}
    seconds = float(scaled(8, 600))
    with under_load(trial):
        for _ in range(scaled(1, 100)):  # writes that time out
            with held(house, "cassandra"):
                time.sleep(chance.uniform(2.0, 3.0))
            time.sleep(0.5)
        with stopped(house, "cassandra"):
            began = time.monotonic()
            time.sleep(seconds)
            during = trial.sender.statuses(began, time.monotonic())
    judged(trial, outage=seconds, answered_during=len(during))
    assert during
    assert set(during) == {0}
    assert {stage: pid(house, stage) for stage in stages} == was
    assert members(house) == before


def members(house: House) -> dict[str, list[str]]:
    """The members of every group, by the broker."""
    admin = AdminClient(client_config(kafka_of(house.settings.trusted)))
    found = admin.describe_consumer_groups(list(GROUPS))
    return {group: [m.member_id for m in future.result().members] for group, future in found.items()}


@pytest.mark.skipif(not LONG, reason="a whole demo: make chaos")
def test_the_demo_while_stages_are_killed(house: House, chance: random.Random) -> None:
    """`prodrome demo` with a stage killed every few seconds: all that it checks holds, and it ends with status 0."""
    assert house.prodrome("models", "promote", "dementia-t1@1.0.0").returncode == 0
    with ThreadPoolExecutor(1) as other:
        demo = other.submit(house.prodrome, "demo")
        kills = 0
        while not demo.done():
            time.sleep(chance.uniform(1.0, 5.0))
            kill(house, chance.choice(["relay", "deidentify", "catalog", "ledger", "score"]))
            kills += 1
    done = demo.result()
    assert house.prodrome("models", "retire", "dementia-t1").returncode == 0
    print(f"{kills} kills", done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert kills > 5
