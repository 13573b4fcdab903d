"""One Kafka node, broker and controller in one JVM, on loopback.

1. `configure` writes `<home>/kafka/server.properties` for the addresses of this start.
2. `format_storage` makes the data folder with its cluster id, once.
3. `program` is the command that the supervisor runs.

The quorum is dynamic (`--standalone`): the voter's endpoint stands in the metadata log, and the node, being
the only voter, elects itself and writes the new one down, so that ports may change between starts.
"""

import base64
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Final

from infra.stack.fetch import jar_folder
from infra.stack.layout import Addresses, Layout, Program, StackError

_MEMORY: Final = ("-Xms256m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError")

#: What does not depend on a place or an address.
_FIXED: Final[dict[str, str | int]] = {
    "process.roles": "broker,controller",
    "node.id": 1,
    "inter.broker.listener.name": "PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    # topics are made by `prepare`, with the partitions that the design gives them
    "auto.create.topics.enable": "false",
    # one node: one copy
    "default.replication.factor": 1,
    "min.insync.replicas": 1,
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 2,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "share.coordinator.state.topic.num.partitions": 1,
    # two cores and a small heap
    "num.network.threads": 2,
    "num.io.threads": 4,
    "background.threads": 2,
    "log.cleaner.threads": 1,
    "log.cleaner.dedupe.buffer.size": 8 * 2**20,
    "log.segment.bytes": 64 * 2**20,
    "group.initial.rebalance.delay.ms": 0,
    # After kill -9 the new process waits for the old one's session to end before it may register.
    "broker.heartbeat.interval.ms": 1000,
    "broker.session.timeout.ms": 4000,
}


def configure(layout: Layout, addresses: Addresses) -> None:
    """Write the node's configuration."""
    folder = _folder(layout)
    # What a killed JVM unpacked there stays otherwise.
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    (folder / "tmp").mkdir(parents=True)
    broker = f"PLAINTEXT://{addresses.host}:{addresses.kafka}"
    controller = f"CONTROLLER://{addresses.host}:{addresses.kafka_controller}"
    placed = {
        "controller.quorum.bootstrap.servers": f"{addresses.host}:{addresses.kafka_controller}",
        "listeners": f"{broker},{controller}",
        "advertised.listeners": f"{broker},{controller}",
        "log.dirs": folder / "data",
    }
    lines = [f"{key}={value}\n" for key, value in (_FIXED | placed).items()]
    _properties(layout).write_text("".join(lines))


def format_storage(layout: Layout, java: Path) -> None:
    """Make the data folder with its cluster id; does nothing when there is one."""
    data, new = _folder(layout) / "data", _folder(layout) / "data.new"
    if data.exists():
        return
    # Beside the final place and renamed at the end: a format that was cut short is done again.
    shutil.rmtree(new, ignore_errors=True)
    properties = _folder(layout) / "format.properties"
    properties.write_text(_properties(layout).read_text().replace(f"log.dirs={data}", f"log.dirs={new}"))
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    tool = [*_java(layout, java), "kafka.tools.StorageTool", "format", "--standalone"]
    # 2 s here; ten times that is a machine that is busy, more is one that hangs.
    done = subprocess.run(
        [*tool, f"--cluster-id={cluster}", "-c", str(properties)], capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        raise StackError(f"formatting {data} failed: {(done.stdout + done.stderr).strip()[-600:]}")
    new.rename(data)


def program(layout: Layout, java: Path) -> Program:
    """The command of the broker."""
    command = (*_java(layout, java), "kafka.Kafka", str(_properties(layout)))
    return Program(name="kafka", command=command, env={"MALLOC_ARENA_MAX": "2"}, part=True)


def _java(layout: Layout, java: Path) -> list[str]:
    logging = f"-Dlog4j2.configurationFile={(Path(__file__).parent / 'log4j2.xml').as_uri()}"
    temporary = f"-Djava.io.tmpdir={_folder(layout) / 'tmp'}"
    return [str(java), *_MEMORY, logging, temporary, "-cp", f"{jar_folder(layout, 'kafka')}/*"]


def _folder(layout: Layout) -> Path:
    return layout.home / "kafka"


def _properties(layout: Layout) -> Path:
    return _folder(layout) / "server.properties"
