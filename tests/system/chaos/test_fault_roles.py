"""Faults that need roles of a test's own: other clocks, many at once, poison on the way. After each all is zero."""

import base64
import itertools
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pydicom
import pytest
from loads import repaint, write_changed, write_small
from programs import Actor, stopped
from scale import LONG
from sender import Sender
from test_fault_matrix import judged, under_load
from trial import CALLED, PATIENCE, Trial

from commands.status import groups_of
from infra.connections import kafka_of
from infra.kafka import Producer
from schemas.codec import Message
from schemas.events import DeadLetter, InstanceReceived
from schemas.topics import BY_NAME, DEAD_LETTER_TOPIC

pytestmark = pytest.mark.stack

Scaled = Callable[[int, int], int]
HOUR = 3600
#: For so long may one poisonous instance hold up what comes behind it.
POISON_SECONDS = 30


# F13


class Clock:
    """The clock of one process, some way off; `set` makes it jump."""

    def __init__(self, path: Path, seconds: int) -> None:
        self._path = path
        self.set(seconds)

    def set(self, seconds: int) -> None:
        """Be so far off from now on."""
        new = self._path.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._path)

    @property
    def environment(self) -> dict[str, str]:
        """What a process is told."""
        return {"CHAOS_CLOCK": str(self._path)}


@pytest.mark.skipif(not LONG, reason="restarts what keeps time, a minute: make chaos")
def test_f13_clocks_are_off_and_jump(trial: Trial, tmp_path: Path, scaled: Scaled) -> None:
    """Roles an hour ahead and behind, whose clocks jump, then the right ones again: no row loses to an older one."""
    roles = ("relay", "deidentify", "catalog", "ledger", "score")
    offsets = dict(zip(roles, itertools.cycle((HOUR, -HOUR)), strict=False)) | {"ledger": HOUR}
    clocks = {role: Clock(tmp_path / f"{role}.time", offset) for role, offset in offsets.items()}
    with under_load(trial), stopped(trial.house, *roles), acting(trial, roles, "shift_clock", clocks):
        for _ in range(scaled(1, 20)):
            trial.sent(40)
            for role, clock in clocks.items():
                offsets[role] = -offsets[role]
                clock.set(offsets[role])
            time.sleep(2)
        trial.sent(20)
    judged(trial, offsets=offsets)


@contextmanager
def acting(
    trial: Trial,
    roles: Sequence[str],
    plug: str = "",
    clocks: dict[str, Clock] | None = None,
    environment: dict[str, str] | None = None,
) -> Iterator[list[Actor]]:
    """Roles of the test's own, while the supervisor's are stopped."""
    actors = [
        Actor(
            trial.house, role, plug, {**(environment or {}), **(clocks[role].environment if clocks else {})}
        )
        for role in roles
    ]
    try:
        yield [actor.await_ready() for actor in actors]
    finally:
        for actor in actors:
            actor.end()


# F14


@pytest.mark.skipif(not LONG, reason="many processes, two minutes: make chaos")
def test_f14_roles_come_and_go(trial: Trial, tmp_path: Path, chance: random.Random, scaled: Scaled) -> None:
    """One to four processes of each stage, others every few seconds: no offset is skipped, no effect doubled."""
    roles = ("deidentify", "catalog", "score")
    record = tmp_path / "record"
    environment = {"CHAOS_RECORD": str(record)}
    rounds = scaled(3, 60)
    with under_load(trial), stopped(trial.house, *roles):
        alive = {role: [Actor(trial.house, role, "record", environment)] for role in roles}
        try:
            for _ in range(rounds):
                for role in roles:
                    wanted = chance.choice((1, 2, 3, 4) if rounds > 10 else (1, 2, 3))
                    while len(alive[role]) < wanted:
                        alive[role].append(Actor(trial.house, role, "record", environment))
                    while len(alive[role]) > wanted:
                        gone = alive[role].pop(chance.randrange(len(alive[role])))
                        gone.kill() if chance.random() < 0.5 else gone.end()
                time.sleep(chance.uniform(4.0, 8.0))
        finally:
            for actor in itertools.chain.from_iterable(alive.values()):
                actor.end()
    judged(trial, rounds=rounds)
    assert gaps(record.read_text().splitlines()) == []


def gaps(lines: Sequence[str]) -> list[str]:
    """Offsets between the first and last that were handled which nobody handled."""
    handled: dict[tuple[str, str], set[int]] = defaultdict(set)
    for line in lines:
        _, topic, partition, offset = line.split()
        handled[topic, partition].add(int(offset))
    missing = {
        where: sorted(set(range(min(some), max(some))) - some) for where, some in handled.items() if some
    }
    return [f"{topic}/{number}: {some[:5]}" for (topic, number), some in missing.items() if some]


def test_a_gap_is_found() -> None:
    """An offset that nobody handled between two that were."""
    assert gaps(["1 t 0 4", "2 t 0 5", "1 t 1 0"]) == []
    assert gaps(["1 t 0 4", "2 t 0 6"]) == ["t/0: [5]"]


# F15


@pytest.mark.skipif(not LONG, reason="waits for what hangs, two minutes: make chaos")
def test_f15_poison(trial: Trial, tmp_path: Path, chance: random.Random, scaled: Scaled) -> None:
    """Messages that are none, instances that crash or hang their worker: good ones pass, poison is lettered."""
    house, poison = trial.house, tmp_path / "poison"
    bad = write_small(tmp_path / "bad", f"poison {chance.random():.6f}", scaled(2, 40), 1)
    uids = [sop_of(path) for path in bad]
    kinds = dict(zip(uids, itertools.cycle(("segv", "hang")), strict=False))
    poison.write_text("".join(f"{uid} {kind}\n" for uid, kind in kinds.items()))
    before = len(all_letters(trial))
    malformed = 0
    trial.ledger.poison.update(uids)
    dead = house.balance()["dead"]
    with (
        stopped(house, "deidentify"),
        acting(trial, ("deidentify",), "stumble", environment={"CHAOS_POISON": str(poison)}),
    ):
        with under_load(trial):
            hostile = Sender(trial.ledger, house.destination(CALLED), associations=1)
            hostile.start(bad)
            for message in itertools.islice(nonsense(chance), scaled(16, 200)):
                zone = BY_NAME[message.topic].zone
                Producer(kafka_of(getattr(house.settings, zone))).send([message])
                malformed += sum(message.topic in topics for topics in groups_of(house.settings).values())
            hostile.finish()
            trial.sent(scaled(0, 5000))
        stall = longest_stall(trial, dead + len(bad), PATIENCE + POISON_SECONDS * len(bad))
    judged(trial, malformed=malformed, crashing=kinds, longest_stall=round(stall, 1))
    found = all_letters(trial)
    print(Counter((letter.stage, letter.topic, letter.reason, letter.attempts) for letter in found))
    assert Counter(uid for letter in found for uid in lettered(letter)) == Counter(uids)
    assert len(found) - before == malformed + len(bad)
    assert {letter.reason for letter in found} >= {
        "malformed_message",
        "unknown_version",
        "crashed_worker",
        "over_budget",
    }
    assert not any(uid in letter.detail for letter in found for uid in uids)


def nonsense(chance: random.Random) -> Iterator[Message]:
    """Messages that no reader can take, to every topic that a stage reads."""
    topics = ("instance.received.v1", "instance.settled.v1", "instance.deidentified.v1", "study.revised.v1")
    for topic in itertools.cycle(topics):
        kind = BY_NAME[topic].types[0].encode()
        yield Message(topic, chance.randbytes(4), chance.randbytes(40), [("ce_type", kind)])
        yield Message(topic, chance.randbytes(4), b"{}", [("ce_type", kind)])
        yield Message(topic, chance.randbytes(4), b"{}", [("ce_type", b"org.example.other.v9")])
        yield Message(topic, chance.randbytes(4), json.dumps({"project": 7}).encode(), [])


def all_letters(trial: Trial) -> list[DeadLetter]:
    """The dead letters of both zones, each once."""
    found = {
        dict(message.headers)["ce_id"]: msgspec.json.decode(message.value, type=DeadLetter)
        for topic in DEAD_LETTER_TOPIC.values()
        for message in trial.topic(topic)
    }
    return list(found.values())


def lettered(letter: DeadLetter) -> list[str]:
    """The SOP Instance UIDs of a letter that is about instances."""
    if letter.reason not in {"crashed_worker", "over_budget"}:
        return []
    event = msgspec.json.decode(base64.b64decode(letter.value), type=InstanceReceived)
    return [instance.sop_instance_uid for instance in event.instances]


def longest_stall(trial: Trial, dead: int, patience: float) -> float:
    """The longest time in which nothing settled, until so many are dead."""
    began = stalled = time.monotonic()
    last, longest = -1, 0.0
    while (balance := trial.house.balance())["dead"] < dead and time.monotonic() - began < patience:
        settled = balance["acknowledged"] - balance["in_flight"]
        now = time.monotonic()
        if settled != last:
            last, stalled = settled, now
        longest = max(longest, now - stalled)
        time.sleep(0.2)
    return longest


def sop_of(path: Path) -> str:
    """The SOP Instance UID of a file."""
    return str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)


# F18


def test_f18_duplicates_and_conflicts(
    trial: Trial, tmp_path: Path, chance: random.Random, scaled: Scaled
) -> None:
    """32 copies at once; pairs of one UID with other bytes, in any order: one effect each, nothing overwritten."""
    seed = f"{chance.getrandbits(32):08x}"
    one = write_small(tmp_path / "one", f"{seed} one", 1)
    pairs = write_small(tmp_path / "pairs", f"{seed} pairs", scaled(60, 10_000))
    others = [write_changed(path, repaint) for path in pairs]
    copies = Sender(trial.ledger, trial.house.destination(CALLED), associations=32)
    copies.start(one * 32)
    both = [*pairs, *others]
    chance.shuffle(both)
    trial.begin(both)
    assert trial.sender.finish() == len(both)
    assert copies.finish() == 32
    before = trial.house.balance()
    verdict = judged(trial, copies=32, pairs=len(pairs))
    assert verdict.counts["attempted"] >= 1 + len(both)
    rows = trial.clean.run("SELECT project, sop, conflict FROM study_instances")
    conflicts = {row.sop for row in rows if row.project == trial.project and row.conflict}
    assert conflicts >= {trial.keys.pseudonymous_uid(sop_of(path)) for path in pairs}
    assert before["dead"] == trial.house.balance()["dead"]
