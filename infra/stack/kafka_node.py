"""One Kafka node, broker and controller in one JVM, on loopback, that lets in whom it knows.

1. `configure` writes `<home>/kafka/server.properties` for the addresses of this start.
2. `format_storage` makes the data folder with its cluster id, once.
3. `program` is the command that the supervisor runs.

The quorum is dynamic (`--standalone`): the voter's endpoint stands in the metadata log, and the node, being
the only voter, elects itself and writes the new one down, so that ports may change between starts.

Everybody logs in with SCRAM, at credentials in the cluster's metadata; the administrator, who makes them and is
the broker itself, with PLAIN at a password in the configuration, which is there before any metadata are. So a
home of an earlier release is closed by a new configuration alone.
"""

import base64
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Final

from infra.secret_files import read_secret, write_secret
from infra.stack.fetch import jar_folder
from infra.stack.layout import Addresses, Layout, Program, StackError
from infra.stack.logins import password_file
from schemas.access import ADMIN, user

_MEMORY: Final = ("-Xms256m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError")

#: What does not depend on a place or an address.
_FIXED: Final[dict[str, str | int]] = {
    "process.roles": "broker,controller",
    "node.id": 1,
    "inter.broker.listener.name": "CLIENT",
    "controller.listener.names": "CONTROLLER",
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": f"User:{user(ADMIN)}",
    "sasl.mechanism.inter.broker.protocol": "PLAIN",
    "sasl.mechanism.controller.protocol": "PLAIN",
    "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
    "listener.name.client.sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
    "listener.name.client.scram-sha-512.sasl.jaas.config": (
        "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    ),
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
    broker = f"CLIENT://{addresses.host}:{addresses.kafka}"
    controller = f"CONTROLLER://{addresses.host}:{addresses.kafka_controller}"
    placed = {
        "controller.quorum.bootstrap.servers": f"{addresses.host}:{addresses.kafka_controller}",
        "listeners": f"{broker},{controller}",
        "advertised.listeners": f"{broker},{controller}",
        "log.dirs": folder / "data",
    }
    lines = [f"{key}={value}\n" for key, value in (_FIXED | placed | _closed(layout)).items()]
    write_secret(_properties(layout), "".join(lines))


def _closed(layout: Layout) -> dict[str, str | Path]:
    """What lets in the administrator, and seals the wire if it is to be."""
    name, password = user(ADMIN), read_secret(password_file(layout, ADMIN, "kafka"), "`prodrome up` makes it")
    login = (
        "org.apache.kafka.common.security.plain.PlainLoginModule required"
        f' username="{name}" password="{password}" user_{name}="{password}";'
    )
    protocol = "SASL_SSL" if layout.tls else "SASL_PLAINTEXT"
    found: dict[str, str | Path] = {
        "listener.security.protocol.map": f"CONTROLLER:{protocol},CLIENT:{protocol}",
        "listener.name.controller.plain.sasl.jaas.config": login,
        "listener.name.client.plain.sasl.jaas.config": login,
    }
    if layout.tls:
        found |= {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": layout.certificates / "server.pem",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": layout.certificates / "ca.pem",
        }
    return found


def format_storage(layout: Layout, java: Path) -> None:
    """Make the data folder with its cluster id; does nothing when there is one."""
    data, new = _folder(layout) / "data", _folder(layout) / "data.new"
    if data.exists():
        return
    # Beside the final place and renamed at the end: a format that was cut short is done again.
    shutil.rmtree(new, ignore_errors=True)
    properties = _folder(layout) / "format.properties"
    write_secret(properties, _properties(layout).read_text().replace(f"log.dirs={data}", f"log.dirs={new}"))
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    tool = [*_java(layout, java), "kafka.tools.StorageTool", "format", "--standalone"]
    # 2 s here; ten times that is a machine that is busy, more is one that hangs.
    done = subprocess.run(
        [*tool, f"--cluster-id={cluster}", "-c", str(properties)], capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        raise StackError(f"formatting {data} failed: {(done.stdout + done.stderr).strip()[-600:]}")
    properties.unlink()
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
