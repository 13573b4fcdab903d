"""The example subscriber as a process on a real broker, killed and started again: one final state."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from infra.connections import KafkaConnection
from infra.kafka import Producer, client_config, create_topics, lags
from schemas.codec import Message, encode
from schemas.events import Prediction
from schemas.ids import study_key
from schemas.topics import Topic
from schemas.worked_examples import EXAMPLES

pytestmark = pytest.mark.stack

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "subscriber.py"
SHOWN: Any = next(event for _, name, event in EXAMPLES if isinstance(event, Prediction) and not name)
LIFECYCLE: Any = [("ce_type", b"org.prodrome.lifecycle.v1")]


class Site:
    """Two topics of a broker, and a reporting service that comes and goes."""

    def __init__(self, at: KafkaConnection, folder: Path) -> None:
        self.at, self.folder = at, folder
        self.topics = [f"subscriber.{what}.{uuid.uuid4().hex[:8]}" for what in ("prediction", "lifecycle")]
        made = [Topic(name, "clean", 3, 3_600_000, (), (), ()) for name in self.topics]
        create_topics(at, made, 1)
        self.producer = Producer(at)

    def predict(self, study: str, number: int, **more: Any) -> Message:
        """A prediction of a study."""
        event = msgspec.structs.replace(
            SHOWN, prediction_id=f"{study}-{number}", study_instance_uid=study, revision=number, **more
        )
        key = study_key("default", study)
        made = encode("prediction.v1", key, event, identity=(study, number), source="score")
        return made._replace(topic=self.topics[0])

    def retract(self, study: str) -> Message:
        """The word that withdraws a study."""
        said = {"project": "default", "study_instance_uid": study, "kind": "retracted"}
        return Message(self.topics[1], study_key("default", study), json.dumps(said).encode(), LIFECYCLE)

    @contextmanager
    def service(self, group: str, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """The example, as a process, killed at the end."""
        settings = self.folder / f"{group}.json"
        # a named member that was killed takes its place again at once; others wait for its session to end
        named = {"group.id": group, "group.instance.id": "reporting-1"}
        settings.write_text(json.dumps(client_config(self.at) | named))
        process = subprocess.Popen(
            [sys.executable, EXAMPLE, settings, self.folder / name, *self.topics], stderr=subprocess.PIPE
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()

    def effective_after(self, group: str, name: str) -> dict[str, str]:
        """What the service holds once it has read everything; it is killed then."""
        with self.service(group, name) as process:
            self._wait(process, lambda: not any(lag.messages for lag in lags(self.at, {group: self.topics})))
        with sqlite3.connect(self.folder / name) as memory:
            return dict(memory.execute("SELECT study, id FROM effective").fetchall())

    def _wait(self, process: subprocess.Popen[bytes], done: Callable[[], bool]) -> None:
        while not done():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.1)


def test_kills_repeats_and_restarts_end_in_one_state(kafka_at: KafkaConnection, tmp_path: Path) -> None:
    """Chains, an answer after `incomplete`, old messages again, a retraction: the same whichever way it was read."""
    site = Site(kafka_at, tmp_path)
    studies = [f"2.25.{number}" for number in range(1, 7)]
    chain = [
        site.predict(study, number, supersedes=f"{study}-{number - 1}" if number > 1 else None)
        for study in studies
        for number in (1, 2, 3)
    ]
    early = site.predict("2.25.9", 1, outcome="incomplete", score=None)
    site.producer.send([*chain, early])
    assert site.effective_after("first", "one.db") == {**{s: f"{s}-3" for s in studies}, "2.25.9": "2.25.9-1"}

    again = random.Random(7).sample(chain, len(chain))
    late = site.predict("2.25.9", 2, supersedes="2.25.9-1")
    site.producer.send([*again, site.retract(studies[0]), late, *chain[:3], early])
    expected = {**{s: f"{s}-3" for s in studies[1:]}, "2.25.9": "2.25.9-2"}
    assert site.effective_after("first", "one.db") == expected  # goes on where it was killed
    assert site.effective_after("second", "one.db") == expected  # from the oldest, over what it has
    assert site.effective_after("third", "new.db") == expected  # from the oldest, with nothing
