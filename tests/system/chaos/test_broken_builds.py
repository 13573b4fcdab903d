"""The checker catches builds that are broken on purpose, each, and nearly every time."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from broken import BROKEN
from checker import judge
from disks import SmallParts
from house import eventually
from line import Line
from loads import small_load
from scale import LONG
from test_line import sent

import infra.kafka
from infra.kafka import create_topics, read
from infra.stack.ready import kafka_answers
from producers.relay import Relay
from schemas.codec import Message
from schemas.topics import TOPICS

pytestmark = pytest.mark.stack

#: Of twenty runs, nineteen: chance may kill a broken build where nothing shows. The short form asks for one of four.
RUNS, AT_LEAST = (20, 19) if LONG else (4, 1)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_build_is_caught(
    make_line: Callable[[], Line],
    tmp_path: Path,
    chance: random.Random,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """Under its fault, as what it breaks."""
    broken = BROKEN[name]
    broken.patch(monkeypatch)
    caught = 0
    for run in range(RUNS):
        batches = small_load(tmp_path / f"files{run}", f"{chance.getrandbits(32):08x}")
        line = sent(make_line(), batches, lambda line: broken.fault(line, chance))
        verdict = judge(line.evidence())
        print(verdict.table())
        caught += verdict.breaks(*broken.caught_as)
        if caught == AT_LEAST:
            return
    pytest.fail(f"{name}: {caught} of {RUNS}")


@pytest.mark.parametrize("acks", ["all", "0"])
def test_a_producer_that_waits_for_no_confirmation_is_caught(
    small_parts: SmallParts,
    make_line: Callable[..., Line],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    acks: str,
) -> None:
    """The broker is held, so that what is sent is in no log yet, and killed: `acks=0` took it as published."""
    if acks == "0":
        right: Any = infra.kafka._Producer
        asks_nothing = {"acks": 0, "enable.idempotence": False}
        monkeypatch.setattr(infra.kafka, "_Producer", lambda config: right({**config, **asks_nothing}))
    create_topics(small_parts.kafka, TOPICS, 1)
    line = make_line()
    first, *others = small_load(tmp_path / "files", "acks")
    producer = infra.kafka.Producer(small_parts.kafka)
    relay = Relay(line.spool.folder, producer, large_bytes=1 << 30)
    line.send(*first)
    relay_all(relay)
    broker = small_parts.pid("kafka")
    assert broker is not None
    os.kill(broker, signal.SIGSTOP)
    for paths in others:
        line.send(*paths)
    publishing = threading.Thread(target=relay_all, args=(relay,))
    publishing.start()
    time.sleep(2.0)
    os.kill(broker, signal.SIGKILL)
    publishing.join()
    eventually(lambda: kafka_answers(small_parts.kafka), "broker", 120.0)
    time.sleep(1.0)
    relay_all(relay)
    for topic in ("instance.received.v1", "instance.settled.v1"):
        for message in read(small_parts.kafka, topic, from_start=True, follow=False):
            if any(name.encode() in message.value for name in (line.spool.id, line.project)):
                line.broker.send([Message(topic, message.key, message.value, message.headers)])
    line.start()  # its relay goes on where ours is
    line.run()
    verdict = judge(line.evidence())
    print(verdict.table())
    assert verdict.breaks("lost", "stuck") == (acks == "0"), verdict.table()


def relay_all(relay: Relay) -> None:
    """Publish what there is."""
    while relay.step():
        pass
