"""The faults of the guide's matrix under load: after each, all is zero. Figures are printed (`-rP`).

Every test is one row: load begins, the fault happens, it heals, and when nothing is in flight the checker
judges everything that was ever sent here. Counts are short; `make chaos` has the full ones.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from checker import Verdict
from confluent_kafka.admin import AdminClient
from house import House
from programs import children, deaths, held, kill, pid, stopped
from trial import Trial

from commands.status import GROUPS
from infra.connections import kafka_of
from infra.kafka import client_config

pytestmark = [pytest.mark.stack, pytest.mark.timeout(6 * 3600)]

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


@pytest.mark.parametrize(
    ("programs", "short", "full"),
    [
        (("relay",), 3, 300),
        (("deidentify",), 2, 300),
        (("catalog", "ledger", "score"), 1, 100),
    ],
    ids=["F2-relay", "F3-deidentify", "F5-catalog-ledger-score"],
)
def test_killed(
    trial: Trial, chance: random.Random, scaled: Scaled, programs: tuple[str, ...], short: int, full: int
) -> None:
    """kill -9 at any moment, again and again: it goes on where it was, and no effect is doubled."""
    before = deaths(trial.house)
    kills = scaled(short, full)
    with under_load(trial):
        for _ in range(kills):
            for program in programs:
                time.sleep(chance.uniform(0.2, 3.0))
                kill(trial.house, program)
    after = deaths(trial.house)
    judged(trial, programs=programs, kills=kills)
    assert all(after[program] - before.get(program, 0) >= kills for program in programs)


def test_f3_a_worker_of_the_pool_is_killed(trial: Trial, chance: random.Random, scaled: Scaled) -> None:
    """In the middle of a write or not: its jobs are done by others, and no half object is seen."""
    killed = 0
    with under_load(trial):
        for _ in range(scaled(3, 300)):
            time.sleep(chance.uniform(0.2, 1.5))
            workers = children(trial.house, "deidentify")
            if workers:
                os.kill(chance.choice(workers), signal.SIGKILL)
                killed += 1
    judged(trial, killed=killed)
    assert killed


def test_f6_the_broker_is_killed_and_away(trial: Trial, chance: random.Random, scaled: Scaled) -> None:
    """The door keeps accepting, no instance is refused, and the relay drains the spool behind it."""
    for _ in range(scaled(1, 100)):
        with under_load(trial, 10):
            time.sleep(chance.uniform(0.0, 0.5))
            kill(trial.house, "kafka")
    outage = float(scaled(10, 300))
    with under_load(trial):
        with stopped(trial.house, "kafka"):
            began = time.monotonic()
            time.sleep(outage)
            during = trial.sender.statuses(began, time.monotonic())
        back = time.monotonic()
    judged(trial, outage=outage, answered_during=len(during), since_back=time.monotonic() - back)
    assert during
    assert set(during) == {0}


def test_f10_cassandra_is_slow_away_and_killed(trial: Trial, chance: random.Random, scaled: Scaled) -> None:
    """Receiving goes on; the stages wait, keep their membership, end nothing and write no dead letter."""
    house = trial.house
    stages = ("deidentify", "catalog", "ledger", "score")
    before, was = members(house), {stage: pid(house, stage) for stage in stages}
    seconds = float(scaled(12, 600))
    with under_load(trial):
        for _ in range(scaled(2, 100)):  # writes that time out
            with held(house, "cassandra"):
                time.sleep(chance.uniform(2.0, 3.0))
            time.sleep(0.5)
        with stopped(house, "cassandra"):
            began = time.monotonic()
            time.sleep(seconds)
            during = trial.sender.statuses(began, time.monotonic())
        kill(house, "cassandra")
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
