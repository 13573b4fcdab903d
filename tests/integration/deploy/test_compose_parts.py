"""Kafka and Cassandra as the compose file starts them: its scripts and settings, on the real parts.

Only places are moved (ports, folders), and what the images have on their path is put there: the launchers of the
jars, and a `cqlsh` that runs what it is told by the driver.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from confluent_kafka import KafkaException

from infra.cassandra import Tables
from infra.connections import CassandraConnection, KafkaConnection
from infra.kafka import AdminClient, client_config, create_topics
from infra.secret_files import write_secret
from infra.stack.fetch import fetch, jar_folder
from infra.stack.java import find_java
from infra.stack.layout import Layout
from schemas.errors import SlowDown
from schemas.topics import TOPICS

CHECKOUT = Path(__file__).parents[3]
COMPOSE = CHECKOUT / "infra" / "deploy" / "compose"
JARS = Layout(CHECKOUT / ".prodrome", CHECKOUT / ".prodrome" / "lib")
PASSWORD = "a-password-of-this-test-alone"

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    return found


def moved(folder: Path, part: str, places: dict[str, str]) -> Path:
    """The part's files in a folder, with places of this machine; returns the script."""
    everywhere = {"/etc/prodrome": str(folder), "/run/secrets/prodrome": str(folder / "secrets"), **places}
    # in one pass: what was put in may hold what is looked for
    there = re.compile("|".join(map(re.escape, sorted(everywhere, key=len, reverse=True))))
    for path in COMPOSE.glob(f"{part}.*"):
        (folder / path.name).write_text(there.sub(lambda found: everywhere[found[0]], path.read_text()))
    write_secret(folder / "secrets" / part, PASSWORD + "\n")
    return folder / f"{part}.sh"


@pytest.fixture(scope="module", autouse=True)
def jars() -> None:
    """What the images hold; fetched where it is not there yet."""
    fetch(JARS, print)


def launcher(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o700)


@contextmanager
def running(script: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The script as a process, and all that it started ended afterwards."""
    with (folder / "log").open("ab") as log:
        environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(folder)}
        process = subprocess.Popen(
            ["/bin/bash", script], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):  # it ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait(process: subprocess.Popen[bytes], folder: Path, answers: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180  # ten times what it takes here
    while not answers():
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
        assert time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
        time.sleep(0.3)


def test_kafka_starts_closed(tmp_path: Path) -> None:
    """Its administrator gets in with the password of a file, and nobody without one; twice over one volume."""
    client, controller = free_ports(2)
    places = {"kafka:9093": f"127.0.0.1:{controller}", "kafka:9092": f"127.0.0.1:{client}", ":9092": f":{client}",
              ":9093": f":{controller}", "/opt/kafka/bin": str(tmp_path / "bin"),
              "/var/lib/kafka/data": str(tmp_path / "data"), "/tmp/": f"{tmp_path}/"}  # fmt: skip
    script = moved(tmp_path, "kafka", places)
    java = f"exec {find_java()} -Xmx256m -cp '{jar_folder(JARS, 'kafka')}/*'"
    launcher(tmp_path / "bin" / "kafka-storage.sh", f'{java} kafka.tools.StorageTool "$@"')
    launcher(tmp_path / "bin" / "kafka-server-start.sh", f'{java} kafka.Kafka "$@"')
    admin = KafkaConnection(
        servers=f"127.0.0.1:{client}", username="prodrome_admin", password_file=tmp_path / "secrets" / "kafka",
        mechanism="PLAIN",
    )  # fmt: skip
    for made in ([TOPICS[0].name], []):  # the second start finds the topic of the first
        with running(script, tmp_path) as process:
            wait(process, tmp_path, lambda: lists_topics(admin))
            assert create_topics(admin, TOPICS[:1], 1) == made
            assert not lists_topics(KafkaConnection(servers=admin.servers))
    assert PASSWORD not in (tmp_path / "log").read_text()


def lists_topics(connection: KafkaConnection) -> bool:
    try:
        client = AdminClient({**client_config(connection), "log_level": 0})
        return bool(client.list_topics(timeout=2).brokers)
    except KafkaException:
        return False


@pytest.mark.skipif(not os.environ.get("RUN_SLOW"), reason="starts Cassandra three times: RUN_SLOW=1")
def test_cassandra_starts_closed(tmp_path: Path) -> None:
    """Its public superuser is gone before the node can be reached, also after a first start that was cut."""
    client, storage = free_ports(2)
    places = {"/var/lib/cassandra": str(tmp_path / "data"), "/tmp/": f"{tmp_path}/", ": 9042": f": {client}",
              "7000": str(storage), "rpc_address: 0.0.0.0": "rpc_address: 127.0.0.1",
              "broadcast_rpc_address: cassandra": "broadcast_rpc_address: 127.0.0.1"}  # fmt: skip
    script = moved(tmp_path, "cassandra", places)
    (tmp_path / "data").mkdir()
    (tmp_path / "triggers").mkdir()
    launcher(tmp_path / "bin" / "cassandra", _cassandra(tmp_path))
    launcher(
        tmp_path / "bin" / "cqlsh",
        f'exec {sys.executable} {Path(__file__).parent / "cqlsh.py"} {client} "$@"',
    )
    at = CassandraConnection(servers=f"127.0.0.1:{client}", username="prodrome_admin",
                             password_file=tmp_path / "secrets" / "cassandra")  # fmt: skip
    write_secret(tmp_path / "secrets" / "public", "cassandra")
    public = CassandraConnection(servers=at.servers, username="cassandra",
                                 password_file=tmp_path / "secrets" / "public")  # fmt: skip
    with running(script, tmp_path) as process:
        wait(process, tmp_path, lambda: lets_in(public))  # cut in the middle of the first start
    with running(script, tmp_path) as process:
        wait(process, tmp_path, lambda: (tmp_path / "data" / "closed").exists() and lets_in(at))
        assert not lets_in(public)
    assert PASSWORD not in (tmp_path / "log").read_text()


def _cassandra(folder: Path) -> str:
    from infra.stack.cassandra_node import _MODULES

    [agent] = jar_folder(JARS, "cassandra").glob("jamm-*.jar")
    places = (
        f"-Dcassandra.logdir={folder} -Dcassandra.triggers_dir={folder}/triggers -Djava.io.tmpdir={folder}"
    )
    java = f"{find_java()} -javaagent:{agent} -Xmx512m {' '.join(_MODULES)} {places}"
    daemon = f"-cp '{jar_folder(JARS, 'cassandra')}/*' org.apache.cassandra.service.CassandraDaemon"
    return f'shift; exec {java} -Dcassandra.ring_delay_ms=0 "$@" {daemon}'


def lets_in(connection: CassandraConnection) -> bool:
    tables = Tables(connection, None)
    try:
        return bool(tables.run("SELECT release_version FROM system.local"))
    except SlowDown:
        return False
    finally:
        tables.close()
