"""A reporting service's side of prodrome: keeps the effective result of every study and model in SQLite.

The rule that it follows is docs/subscribing.md. It may be killed at any point and started again, from where it
was or from the oldest message: what it ends with is the same.
"""

import json
import sqlite3
import sys
from typing import Any

from confluent_kafka import Consumer

TABLES = """
CREATE TABLE IF NOT EXISTS predictions
    (id PRIMARY KEY, project, study, model, revision, outcome, status, supersedes, body);
CREATE TABLE IF NOT EXISTS retracted (project, study, PRIMARY KEY (project, study));
CREATE VIEW IF NOT EXISTS effective AS SELECT * FROM (
    SELECT *, row_number() OVER (PARTITION BY project, study, model
                                 ORDER BY outcome = 'incomplete', revision DESC, id) AS place
    FROM predictions WHERE id NOT IN (SELECT supersedes FROM predictions WHERE supersedes IS NOT NULL)
) WHERE place = 1 AND status <> 'retracted';
"""


def remember(memory: sqlite3.Connection, kind: str, said: dict[str, Any]) -> None:
    """Take one message in; a second time, or in another order, makes no difference."""
    study = (said["project"], said["study_instance_uid"])
    if kind == "org.prodrome.lifecycle.v1" and said["kind"] == "retracted":
        memory.execute("INSERT OR IGNORE INTO retracted VALUES (?, ?)", study)
        memory.execute("DELETE FROM predictions WHERE project = ? AND study = ?", study)
    elif kind == "org.prodrome.imaging.prediction.created.v1":
        known = "SELECT 1 FROM retracted WHERE project = ? AND study = ?"
        if memory.execute(known, study).fetchone() is None:
            row = (said["prediction_id"], *study, said["model"]["id"], said["revision"], said["outcome"],
                   said["status"], said.get("supersedes"), json.dumps(said))  # fmt: skip
            memory.execute("INSERT OR IGNORE INTO predictions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def follow(settings: dict[str, Any], path: str, topics: list[str]) -> None:
    """Read the topics for ever; a message counts as read once what it changed is on disk."""
    memory = sqlite3.connect(path)
    memory.executescript(TABLES)
    consumer = Consumer({"auto.offset.reset": "earliest", **settings, "enable.auto.commit": False})
    consumer.subscribe(topics)
    while True:
        message = consumer.poll(1.0)
        if message is None or message.error():
            continue  # nothing yet, or a broker that is away: the client goes on trying
        kind = dict(message.headers() or ()).get("ce_type", b"").decode()
        remember(memory, kind, json.loads(message.value()))
        memory.commit()
        consumer.commit(message)


if __name__ == "__main__":  # subscriber.py SETTINGS.json DATABASE [TOPIC ...]
    with open(sys.argv[1], encoding="utf-8") as file:
        follow(json.load(file), sys.argv[2], sys.argv[3:] or ["prediction.v1", "lifecycle.v1"])
