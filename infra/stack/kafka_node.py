"""A Kafka node, broker and controller in one JVM, on loopback, that lets in whom it knows.

1. `configure` writes `<home>/kafka/server.properties` for the addresses of this start.
2. `format_storage` makes the data folder with its cluster id, once.
3. `program` is the command that the supervisor runs.

One node's quorum is dynamic (`--standalone`): the voter's endpoint stands in the metadata log, and the node, being
the only voter, elects itself and writes the new one down, so that ports may change between starts. Three nodes
have each other's endpoints in their configurations, for the same reason: nobody could vote a change in.

Everybody logs in with SCRAM, at credentials in the cluster's metadata; the administrator, who makes them and is
the broker itself, with PLAIN at a password in the configuration, which is there before any metadata are. So a
home of an earlier release is closed by a new configuration alone. With an S3 gateway there is one more listener,
where nobody logs in and the access rules let nobody do anything but write the events of buckets.
"""

import base64
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Final

from infra.secret_files import read_secret, write_secret
from infra.stack.fetch import jar_folder
from infra.stack.layout import HOSTS, Addresses, Layout, Program, StackError, node_name
from infra.stack.logins import password_file
from schemas.access import ADMIN, user

_MEMORY: Final = ("-Xms256m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError")

#: What does not depend on a place or an address.
_FIXED: Final[dict[str, str | int]] = {
    "process.roles": "broker,controller",
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
    "unclean.leader.election.enable": "false",
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.num.partitions": 2,
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


def configure(layout: Layout, addresses: Addresses, host: str) -> None:
    """Write a node's configuration."""
    folder = _folder(layout, host)
    # What a killed JVM unpacked there stays otherwise.
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    (folder / "tmp").mkdir(parents=True)
    broker = f"CLIENT://{host}:{addresses.kafka}"
    controller = f"CONTROLLER://{host}:{addresses.kafka_controller}"
    gateway = f",GATEWAY://{host}:{addresses.kafka_gateway}" if layout.s3 else ""
    placed = {
        "node.id": _number(host),
        "listeners": f"{broker},{controller}{gateway}",
        "advertised.listeners": f"{broker},{controller}{gateway}",
        "log.dirs": folder / "data",
    }
    settings = _FIXED | placed | _quorum(addresses) | _copies(layout.nodes) | _closed(layout)
    write_secret(_properties(layout, host), "".join(f"{key}={value}\n" for key, value in settings.items()))


def _quorum(addresses: Addresses) -> dict[str, str]:
    at = addresses.kafka_controller
    if addresses.nodes == 1:
        return {"controller.quorum.bootstrap.servers": f"{addresses.host}:{at}"}
    return {"controller.quorum.voters": ",".join(f"{_number(host)}@{host}:{at}" for host in addresses.hosts)}


def _copies(nodes: int) -> dict[str, int]:
    """How many copies there are of what is written, and how many before it is acknowledged."""
    copies, least = (3, 2) if nodes > 1 else (1, 1)
    return {
        "default.replication.factor": copies,
        "min.insync.replicas": least,
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": least,
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": least,
    }


def _number(host: str) -> int:
    return HOSTS.index(host) + 1


def _closed(layout: Layout) -> dict[str, str | Path]:
    """What lets in the administrator, and seals the wire if it is to be."""
    name, password = user(ADMIN), read_secret(password_file(layout, ADMIN, "kafka"), "`prodrome up` makes it")
    login = (
        "org.apache.kafka.common.security.plain.PlainLoginModule required"
        f' username="{name}" password="{password}" user_{name}="{password}";'
    )
    protocol = "SASL_SSL" if layout.tls else "SASL_PLAINTEXT"
    found: dict[str, str | Path] = {
        "listener.security.protocol.map": f"CONTROLLER:{protocol},CLIENT:{protocol},GATEWAY:PLAINTEXT",
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


def new_cluster() -> str:
    """Return an id for a cluster that there has not been."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def format_storage(layout: Layout, java: Path, host: str, cluster: str) -> None:
    """Make a node's data folder for a cluster; does nothing when there is one."""
    data, new = _folder(layout, host) / "data", _folder(layout, host) / "data.new"
    if data.exists():
        return
    # Beside the final place and renamed at the end: a format that was cut short is done again.
    shutil.rmtree(new, ignore_errors=True)
    properties = _folder(layout, host) / "format.properties"
    write_secret(
        properties, _properties(layout, host).read_text().replace(f"log.dirs={data}", f"log.dirs={new}")
    )
    tool = [*_java(layout, java, host), "kafka.tools.StorageTool", "format"]
    tool += ["--standalone"] if layout.nodes == 1 else []
    # 2 s here; ten times that is a machine that is busy, more is one that hangs.
    done = subprocess.run(
        [*tool, f"--cluster-id={cluster}", "-c", str(properties)], capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        raise StackError(f"formatting {data} failed: {(done.stdout + done.stderr).strip()[-600:]}")
    properties.unlink()
    new.rename(data)


def program(layout: Layout, java: Path, host: str) -> Program:
    """The command of a node."""
    command = (*_java(layout, java, host), "kafka.Kafka", str(_properties(layout, host)))
    return Program(name=node_name("kafka", host), command=command, env={"MALLOC_ARENA_MAX": "2"}, part=True)


def _java(layout: Layout, java: Path, host: str) -> list[str]:
    logging = f"-Dlog4j2.configurationFile={(Path(__file__).parent / 'log4j2.xml').as_uri()}"
    temporary = f"-Djava.io.tmpdir={_folder(layout, host) / 'tmp'}"
    crash = (
        f"-XX:ErrorFile={layout.log(node_name('kafka', host))}.crash"  # else it lies where `up` was called
    )
    return [str(java), *_MEMORY, crash, logging, temporary, "-cp", f"{jar_folder(layout, 'kafka')}/*"]


def _folder(layout: Layout, host: str) -> Path:
    return layout.home / node_name("kafka", host)


def _properties(layout: Layout, host: str) -> Path:
    return _folder(layout, host) / "server.properties"
