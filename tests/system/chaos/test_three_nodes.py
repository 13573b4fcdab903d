"""The settings of a real cluster, tried: three Kafka and three Cassandra nodes, each killed in turn under load.

Every copy of what is written is on all three, two of them suffice: a node that is away stops nothing.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType
from house import House, eventually
from programs import away
from scale import LONG
from sender import Ledger
from trial import Trial

from infra.connections import kafka_of
from infra.kafka import client_config
from schemas.topics import TOPICS

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(3 * 3600),
    pytest.mark.skipif(not LONG, reason="six JVMs more, ten minutes on two cores: make chaos"),
]

NODES: Final = ("kafka", "kafka-2", "kafka-3", "cassandra", "cassandra-2", "cassandra-3")


@pytest.fixture
def trial(cluster: House, tmp_path: Path) -> Iterator[Trial]:
    """A load on the cluster; ended with the test."""
    made = Trial(cluster, Ledger(tmp_path / "sent.jsonl"), tmp_path / "load", "three")
    yield made
    made.sender.end()


def brokers(house: House) -> AdminClient:
    """What asks Kafka of itself."""
    return AdminClient(client_config(kafka_of(house.settings.trusted)))


def copies(house: House) -> dict[str, set[int]]:
    """How many copies the partitions of each topic have that are in step."""
    found = brokers(house).list_topics(timeout=20).topics
    return {name: {len(p.isrs) for p in topic.partitions.values()} for name, topic in found.items()}


def test_what_is_written_has_three_copies_of_which_two_suffice(cluster: House) -> None:
    """Every topic and both keyspaces, and logins too: one node alone lets nobody in."""
    assert {topic.name for topic in TOPICS} <= set(copies(cluster))
    eventually(lambda: set().union(*copies(cluster).values()) == {3}, "three copies in step")
    asked = [ConfigResource(ResourceType.TOPIC, topic.name) for topic in TOPICS]
    admin = brokers(cluster)  # its answers end with it
    for future in admin.describe_configs(asked).values():
        told = future.result()
        assert told["min.insync.replicas"].value == "2"
        assert told["unclean.leader.election.enable"].value == "false"
    with cluster.everything("clean") as tables:
        rows = tables.run("SELECT keyspace_name, replication FROM system_schema.keyspaces")
    replication = {row.keyspace_name: dict(row.replication) for row in rows}
    for keyspace in (cluster.settings.trusted.keyspace, cluster.settings.clean.keyspace, "system_auth"):
        assert "3" in replication[keyspace].values(), (keyspace, replication[keyspace])


def test_each_node_dies_in_turn(trial: Trial, scaled: Callable[[int, int], int]) -> None:
    """While one is away images are acknowledged, and come out; when all are back, nothing is amiss."""
    house, seconds = trial.house, float(scaled(10, 60))
    trial.begin()
    trial.sent(40)
    for node in NODES:
        before = settled(house)
        with away(house, node):
            began = time.monotonic()
            time.sleep(seconds)
            during = trial.sender.statuses(began, time.monotonic())
            came_out = settled(house) - before
        back = time.monotonic() - began - seconds
        eventually(lambda: set().union(*copies(house).values()) == {3}, f"copies in step behind {node}", 240)
        print(
            f"{node}: away {seconds:.0f} s, {len(during)} acknowledged, {came_out} came out, back {back:.0f} s"
        )
        assert during
        assert set(during) == {0}
        assert came_out
    trial.sent(40)
    drained = trial.settle()
    verdict = trial.verdict()
    print(f"drained in {drained:.0f} s\n{verdict.table()}")
    assert verdict.zero, verdict.table()


def settled(house: House) -> int:
    """Intakes that have an outcome."""
    found = house.balance()
    return found["acknowledged"] - found["in_flight"]
