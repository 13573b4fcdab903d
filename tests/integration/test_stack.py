"""The one-machine stack, with the real Kafka and Cassandra: start, death, restart, stop."""

import fcntl
import json
import os
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from queue import Queue
from typing import Any
from uuid import uuid4

import pytest

from infra.cassandra import Tables
from infra.connections import CassandraConnection, KafkaConnection, Tls
from infra.kafka import Producer, create_topics, read
from infra.stack import certificates, java, ports, processes, ready, supervise
from infra.stack import fetch as jars
from infra.stack.layout import Addresses, Layout, MissingPrerequisite, Role, StackError
from infra.stack.lifecycle import down, status, up
from infra.stack.logins import cassandra_as, kafka_as
from schemas.codec import Message
from schemas.topics import Topic

#: For something that takes seconds; a busy machine takes many.
PATIENCE = 90.0

# A role with a title and a worker process; its page tells the worker's pid and a setting as they arrived.
FAKE_ROLE = """
import http.server, json, os, setproctitle, subprocess, sys
setproctitle.setproctitle("prodrome fake")
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
told = json.dumps({"worker": worker.pid, "password": os.environ["PRODROME_PASSWORD"]})
page = f'# {told}\\nprodrome_role_ready{{role="fake"}} 1.0\\n'.encode()
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(page)
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
"""
PASSWORD = "a 'b' \"c\" #d ;e %f,\\"


def make_role(name: str, addresses: Addresses) -> Role:
    port = addresses.metrics[name]
    command = (sys.executable, "-c", FAKE_ROLE, str(port))
    return Role(name=name, command=command, env={"PRODROME_PASSWORD": PASSWORD}, metrics_port=port)


@pytest.fixture(scope="module")
def layout(make_layout: Callable[[str], Layout]) -> Layout:
    """A home too deep for a unix socket, and with a space in its name, whose parts speak TLS."""
    return replace(make_layout("a home of its own/" + "deep/" * 25), tls=True)


@pytest.fixture
def addresses(stack: Addresses, layout: Layout) -> Addresses:
    """A stack of this module's own, up with its role, beside the shared one."""
    return up(layout, ["fake"], make_role)


def eventually(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.2)


def row(layout: Layout, name: str) -> Any:
    return next(row for row in status(layout) if row.name == name)


def kill(layout: Layout, name: str) -> int:
    pid: int = row(layout, name).pid
    os.kill(pid, signal.SIGKILL)
    return pid


def told(addresses: Addresses) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{addresses.metrics['fake']}", timeout=5) as answer:
        return dict(json.loads(answer.readline()[2:]))


def send(kafka: KafkaConnection, topic: str, value: bytes) -> None:
    create_topics(kafka, [Topic(topic, "clean", 1, 3_600_000, (), (), ())], 1)
    Producer(kafka).send([Message(topic, b"key", value, [])])


def values(kafka: KafkaConnection, topic: str) -> list[bytes]:
    return [message.value for message in read(kafka, topic, from_start=True, follow=False)]


def store(cassandra: CassandraConnection, keyspace: str, rows: int) -> None:
    with closing(Tables(cassandra, None)) as tables:
        tables.run(
            f"CREATE KEYSPACE {keyspace} WITH replication = {{'class':'SimpleStrategy','replication_factor':1}}"
        )
        tables.run(f"CREATE TABLE {keyspace}.kept (id int PRIMARY KEY)")
        for at in range(rows):
            tables.run(f"INSERT INTO {keyspace}.kept (id) VALUES (?)", [at])


def stored(cassandra: CassandraConnection, keyspace: str) -> int:
    with closing(Tables(cassandra, None)) as tables:
        return len(tables.run(f"SELECT id FROM {keyspace}.kept"))


@pytest.mark.stack
def test_two_stacks_share_no_port(stack: Addresses, addresses: Addresses) -> None:
    """A second stack on the machine takes other ports, also where the first does not listen now."""
    assert not stack.ports & addresses.ports


@pytest.mark.stack
def test_status_says_what_each_program_uses(addresses: Addresses, layout: Layout) -> None:
    """Every program is listed with its state, memory and CPU, children included."""
    rows = {row.name: row for row in status(layout)}
    assert set(rows) == {"kafka", "cassandra", "fake"}
    assert all(row.state in {"starting", "running"} and row.pid for row in rows.values())
    assert rows["cassandra"].rss_bytes > 2**28
    assert rows["cassandra"].cpu_seconds > 1
    alone = processes.table()[rows["fake"].pid or 0].rss_bytes
    assert rows["fake"].rss_bytes > alone


@pytest.mark.stack
def test_second_up_changes_nothing(addresses: Addresses, layout: Layout) -> None:
    """An `up` of a running stack gives the same addresses and leaves every process as it is."""
    before = [row.pid for row in status(layout)]
    assert up(layout, ["fake"], make_role) == addresses
    assert [row.pid for row in status(layout)] == before


@pytest.mark.stack
def test_two_ups_at_once_wait_for_each_other(addresses: Addresses, layout: Layout) -> None:
    """While one `up` or `down` is at work, another says so and waits."""
    said: Queue[str] = Queue()
    with ThreadPoolExecutor() as pool:
        with (layout.run / "lock").open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            second = pool.submit(up, layout, ["fake"], make_role, say=said.put)
            assert "another" in said.get(timeout=PATIENCE)
            assert not second.done()
        assert second.result(PATIENCE) == addresses


@pytest.mark.stack
def test_ports_stay_claimed_while_their_owner_is_dead(addresses: Addresses, layout: Layout) -> None:
    """No other stack is given a port of this one, whether somebody listens on it at the moment or not."""
    with ports.Reservation() as other:
        assert not any(other.take(port) for port in addresses.ports)


@pytest.mark.stack
@pytest.mark.parametrize("connect", [kafka_as, cassandra_as])
def test_tls_is_the_only_way_in(
    addresses: Addresses, layout: Layout, tmp_path: Path, connect: Callable[..., Any]
) -> None:
    """In plain text, or trusting another CA, the right password is never sent, let alone taken."""
    answers = {kafka_as: ready.kafka_answers, cassandra_as: ready.cassandra_answers}[connect]
    certificates.make(tmp_path)
    ours = connect(layout, addresses)
    assert answers(ours)
    assert not answers(replace(ours, tls=None))
    assert not answers(replace(ours, tls=Tls(ca=tmp_path / "ca.pem")))


@pytest.mark.stack
def test_other_access_rules_need_another_start(addresses: Addresses, layout: Layout) -> None:
    """Parts that run are not changed under their clients' feet: one line says what to do."""
    with pytest.raises(StackError, match=r"`prodrome down`, then `prodrome up`"):
        up(replace(layout, tls=False))


@pytest.mark.stack
def test_up_prepares_before_roles_start(addresses: Addresses, layout: Layout) -> None:
    """The caller's preparation runs when Kafka and Cassandra answer, and before a role starts."""
    up(layout)
    seen: list[set[str]] = []
    up(layout, ["fake"], make_role, lambda _: seen.append({row.name for row in status(layout) if row.pid}))
    assert seen == [{"kafka", "cassandra"}]


@pytest.mark.stack
def test_environment_of_a_role_arrives_unchanged(addresses: Addresses) -> None:
    """Quotes, comment signs and percent signs in a setting reach the role as they were given."""
    assert told(addresses)["password"] == PASSWORD


@pytest.mark.stack
def test_killed_role_comes_back_and_takes_its_workers_along(addresses: Addresses, layout: Layout) -> None:
    """A role that dies is started again, is counted, and leaves no worker behind."""
    worker, deaths = told(addresses)["worker"], row(layout, "fake").restarts
    pid = kill(layout, "fake")
    eventually(lambda: ready.role_answers("fake", addresses.metrics["fake"]))
    assert row(layout, "fake").pid != pid
    assert row(layout, "fake").restarts == deaths + 1
    eventually(lambda: worker not in processes.of_stack(layout.home))


@pytest.mark.stack
def test_killed_kafka_comes_back_with_its_messages(addresses: Addresses, layout: Layout) -> None:
    """After a kill of the broker, the same address serves the message that was acknowledged before."""
    topic = f"kept-{uuid4().hex}"
    kafka = kafka_as(layout, addresses)
    send(kafka, topic, b"still here")
    kill(layout, "kafka")
    eventually(lambda: ready.kafka_answers(kafka))
    assert values(kafka, topic) == [b"still here"]


@pytest.mark.stack
def test_killed_cassandra_comes_back_with_its_rows(addresses: Addresses, layout: Layout) -> None:
    """After a kill of the node, the same address serves every row that was acknowledged, the last ones too."""
    keyspace = f"kept_{uuid4().hex}"
    cassandra = cassandra_as(layout, addresses)
    store(cassandra, keyspace, rows=50)
    kill(layout, "cassandra")
    eventually(lambda: ready.cassandra_answers(cassandra))
    assert stored(cassandra, keyspace) == 50


@pytest.mark.stack
def test_role_that_does_not_start_is_explained(
    addresses: Addresses, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a role keeps dying, `up` fails with the place and the end of its log."""
    monkeypatch.setattr(ready, "_HOPELESS", 2)

    def broken(name: str, at: Addresses) -> Role:
        return Role(name=name, command=(sys.executable, "-c", "exit('no such model')"), metrics_port=1)

    with pytest.raises(StackError, match="no such model") as raised:
        up(layout, ["broken"], broken)
    assert str(layout.log("broken")) in str(raised.value)


@pytest.mark.stack
def test_up_recovers_from_a_killed_supervisor_on_other_ports(addresses: Addresses, layout: Layout) -> None:
    """What outlived its supervisor is ended; the old data are served on new ports where the old are taken."""
    topic, keyspace = f"moved-{uuid4().hex}", f"moved_{uuid4().hex}"
    send(kafka_as(layout, addresses), topic, b"moved")
    store(cassandra_as(layout, addresses), keyspace, rows=50)
    supervisor, role = supervise.connect(layout), row(layout, "fake").pid
    assert supervisor is not None
    os.kill(supervisor.pid(), signal.SIGKILL)
    processes.end(lambda: processes.of_stack(layout.home), grace=0)
    assert not processes.is_alive(role)
    taken = [
        socket.create_server(("127.0.0.1", port))
        for port in (addresses.kafka_controller, addresses.cassandra)
    ]
    try:
        moved = up(layout)
    finally:
        for server in taken:
            server.close()
    assert moved.kafka_controller != addresses.kafka_controller
    assert moved.cassandra != addresses.cassandra
    assert moved.kafka == addresses.kafka
    assert values(kafka_as(layout, moved), topic) == [b"moved"]
    assert stored(cassandra_as(layout, moved), keyspace) == 50


@pytest.mark.stack
def test_down_leaves_no_process(addresses: Addresses, layout: Layout) -> None:
    """`down` ends parts, roles and their children; a second one finds nothing to do."""
    assert processes.of_stack(layout.home)
    down(layout)
    assert not processes.of_stack(layout.home)
    assert status(layout) == []
    assert not Path(ports.read_state(layout)["socket"]).parent.exists()
    down(layout)


def test_missing_java_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a Java 17, one line says what to install, and the exit status is 2."""
    other = tmp_path / "bin" / "java"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\necho 'openjdk version \"21.0.1\" 2023-10-17' >&2\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{other.parent}:/bin")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(java, "_debian_folder", lambda: tmp_path)
    with pytest.raises(MissingPrerequisite, match=r"Java 21.*apt-get install openjdk-17") as raised:
        java.find_java()
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2


def test_missing_maven_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without Maven and without jars, one line says what to install, and the exit status is 2."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPrerequisite, match="apt-get install maven") as raised:
        up(Layout(tmp_path / "home", tmp_path / "lib"))
    assert raised.value.exit_code == 2


def test_jar_that_is_not_on_the_list_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A jar with another digest than the listed one is named, and nothing is left in place."""
    maven = tmp_path / "mvn"
    maven.write_text(
        '#!/bin/sh\nfor last; do :; done; folder="${last#*=}"; mkdir "$folder"; echo > "$folder/odd.jar"\n'
    )
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    layout = Layout(tmp_path / "home", tmp_path / "lib")
    with pytest.raises(StackError, match="kafka"):
        jars.fetch(layout)
    assert list((layout.lib / "kafka").iterdir()) == []


def test_taken_port_is_not_chosen(tmp_path: Path) -> None:
    """A port that somebody listens on, or that another start has just chosen, is not given out."""
    layout = Layout(tmp_path, tmp_path)
    with ports.Reservation() as first, ports.Reservation() as second:
        one = ports.choose(layout, ["a"], first)
        layout.state.unlink()
        assert not one.ports & ports.choose(layout, ["a"], second).ports


def test_unusable_home_is_refused() -> None:
    """A path that would end a value in a generated file is refused by name."""
    with pytest.raises(StackError, match="half:done"):
        Layout(Path("/tmp/half:done"), Path("/tmp/lib"))
