"""Every principal against every topic, table and group, tried on the real parts with the real passwords.

What comes out must be the table of `schemas.access`: zero unexpected allows, zero unexpected denials. Stores are
tried the same way in test_confine.
"""

import socket
import struct
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cassandra import InvalidRequest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AclOperation, AdminClient

from commands.stack import keyspaces, make_access, role_environment
from infra.cassandra import Tables
from infra.connections import KafkaConnection
from infra.kafka import client_config, wait_ready
from infra.settings import Settings, load
from infra.stack import ready
from infra.stack.layout import Addresses, Layout
from infra.stack.logins import cassandra_as, kafka_as, password_file
from schemas import access
from schemas.errors import SlowDown
from schemas.topics import TOPICS

pytestmark = pytest.mark.stack

#: (principal, thing, right)
Matrix = set[tuple[str, str, str]]
GROUPS = {
    **{f"prodrome-{role}-any": role for role in access.ROLES},
    "subscriber-reporting": access.SUBSCRIBERS,
    access.READ_GROUP: access.OPERATOR,
}
_DENIED = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
PATIENCE = 60.0


@pytest.fixture(scope="module")
def found(shared_layout: Layout, stack: Addresses) -> Settings:
    """The administrator's settings of the shared stack, whose users and grants are made."""
    home = load({"PRODROME_HOME": str(shared_layout.home)})
    made = load(role_environment(home, stack, {}, access.ADMIN))
    make_access(made, stack)
    producer = Producer(client_config(kafka_as(shared_layout, stack)))
    for topic in TOPICS:
        producer.produce(topic.name, b"tried by the matrix test", partition=0)
    assert producer.flush(PATIENCE) == 0
    return made


def topics_read(kafka: KafkaConnection) -> set[str]:
    """The topics that a fetch gives something of."""
    consumer = Consumer(
        {**client_config(kafka), "group.id": "x", "enable.auto.commit": False, "log_level": 0}
    )
    try:
        seen = consumer.list_topics(timeout=PATIENCE).topics  # of others not even the leader is told
        answers = {topic.name: False for topic in TOPICS if topic.name not in seen}
        consumer.assign([TopicPartition(topic.name, 0, 0) for topic in TOPICS if topic.name in seen])
        deadline = time.monotonic() + PATIENCE
        while len(answers) < len(TOPICS) and time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message and message.topic() and (not message.error() or message.error().code() in _DENIED):
                answers[message.topic()] = message.error() is None
    finally:
        consumer.close()
    assert len(answers) == len(TOPICS), f"no answer of {len(TOPICS) - len(answers)} topics"
    return {topic for topic, allowed in answers.items() if allowed}


def topics_written(kafka: KafkaConnection) -> set[str]:
    """The topics that take a message."""
    answers: dict[str, bool] = {}

    def delivered(error: Any, message: Any) -> None:
        assert error is None or error.code() in _DENIED, error
        answers[message.topic()] = error is None

    producer = Producer({**client_config(kafka), "log_level": 0})
    for topic in TOPICS:
        producer.produce(topic.name, b"tried by the matrix test", on_delivery=delivered)
    assert producer.flush(PATIENCE) == 0
    return {topic for topic, allowed in answers.items() if allowed}


def groups_joined(kafka: KafkaConnection) -> set[str]:
    """The groups that a member may be of, by the broker's own word."""
    admin = AdminClient({**client_config(kafka), "log_level": 0})
    asked = admin.describe_consumer_groups(
        list(GROUPS), include_authorized_operations=True, request_timeout=30
    )
    joined = set()
    for group, future in asked.items():
        refused = future.exception()
        while "COORDINATOR" in str(refused):  # a fresh broker's coordinator is still loading
            [again] = admin.describe_consumer_groups([group], include_authorized_operations=True).values()
            future, refused = again, again.exception()
        if refused is None and AclOperation.READ in future.result().authorized_operations:
            joined.add(group)
        assert refused is None or "GROUP_AUTHORIZATION_FAILED" in str(refused), refused
    return joined


def kafka_matrix(layout: Layout, stack: Addresses, principal: str) -> Matrix:
    """What a principal can do in Kafka."""
    if not password_file(layout, principal, "kafka").exists():
        return set()
    kafka = kafka_as(layout, stack, principal)
    able = {(principal, name, "read") for name in topics_read(kafka)}
    able |= {(principal, name, "write") for name in topics_written(kafka)}
    return able | {(principal, name, "join") for name in groups_joined(kafka)}


def allowed(statement: Callable[[], object]) -> bool:
    """Whether a statement came past the check of permissions."""
    try:
        statement()
    except SlowDown as error:
        if "Unauthorized" not in str(error):
            raise
        return False
    except InvalidRequest:
        return True  # an empty row: refused for what it is, not for who sent it
    return True


def cassandra_matrix(layout: Layout, stack: Addresses, found: Settings, principal: str) -> Matrix:
    """What a principal can do in Cassandra; nothing is changed by asking."""
    if not password_file(layout, principal, "cassandra").exists():
        return set()
    able: Matrix = set()
    with closing(Tables(cassandra_as(layout, stack, principal), None)) as tables:
        for table in access.TABLES:
            name = f"{keyspaces(found)[table.zone]}.{table.name}"
            if allowed(lambda name=name: tables.run(f"SELECT * FROM {name} LIMIT 1")):  # type: ignore[misc]
                able.add((principal, f"{table.zone} {table.name}", "read"))
            if allowed(lambda name=name: tables.run(f"INSERT INTO {name} JSON '{{}}'")):  # type: ignore[misc]
                able.add((principal, f"{table.zone} {table.name}", "write"))
    return able


def kafka_expected(principal: str) -> Matrix:
    """What the table says of Kafka."""
    able = {(principal, t.name, right) for t in TOPICS for right in access.topic_rights(principal, t)}
    prefixes = access.group_prefixes(principal)
    return able | {(principal, group, "join") for group in GROUPS if prefixes and group.startswith(prefixes)}


def cassandra_expected(principal: str) -> Matrix:
    """What the table says of Cassandra."""
    return {
        (principal, f"{t.zone} {t.name}", right)
        for t in access.TABLES
        for right in access.table_rights(principal, t)
    }


@pytest.mark.parametrize("principal", [p for p in access.PRINCIPALS if p != access.ADMIN])
def test_a_principal_can_do_what_the_table_says(
    shared_layout: Layout, stack: Addresses, found: Settings, principal: str
) -> None:
    """Every topic, table and group, read and write: the real parts allow just what is written down."""
    assert kafka_matrix(shared_layout, stack, principal) == kafka_expected(principal)
    assert cassandra_matrix(shared_layout, stack, found, principal) == cassandra_expected(principal)


def test_a_grant_too_many_is_found_and_taken_back(
    shared_layout: Layout, stack: Addresses, found: Settings
) -> None:
    """The check bites: one more ACL and one more grant show, and the next `migrate` takes them away."""
    from infra.access import Acl, _binding

    admin = AdminClient(client_config(kafka_as(shared_layout, stack)))
    extra = _binding(Acl(access.user("score"), "TOPIC", "instance.received.v1", False, "READ"))
    admin.create_acls([extra])[extra].result()
    with closing(Tables(cassandra_as(shared_layout, stack), None)) as tables:
        tables.define(f"GRANT SELECT ON {found.trusted.keyspace}.vault_studies TO {access.user('score')}")
        tables.define("CREATE ROLE stranger WITH LOGIN = true AND PASSWORD = 'x'")

    def too_much() -> Matrix:
        able = kafka_matrix(shared_layout, stack, "score") | cassandra_matrix(
            shared_layout, stack, found, "score"
        )
        return able - kafka_expected("score") - cassandra_expected("score")

    eventually(
        too_much,
        {("score", "instance.received.v1", "read"), ("score", "trusted vault_studies", "read")},
    )
    make_access(found, stack)
    eventually(too_much, set())
    with closing(Tables(cassandra_as(shared_layout, stack), None)) as tables:
        roles = {row.role for row in tables.run("SELECT role FROM system_auth.roles")}
    assert roles == {
        access.user(p) for p in access.PRINCIPALS if password_file(shared_layout, p, "cassandra").exists()
    }


def eventually(matrix: Callable[[], Matrix], expected: Matrix) -> None:
    """Cassandra looks a permission up anew a few seconds after it was last asked for."""
    deadline = time.monotonic() + PATIENCE
    while (last := matrix()) != expected:
        assert time.monotonic() < deadline, last
        time.sleep(0.5)


def test_nobody_comes_in_without_the_right_password(
    shared_layout: Layout, stack: Addresses, found: Settings, tmp_path: Path
) -> None:
    """Anonymous, a wrong password, somebody else's, and the superuser that every Cassandra begins with."""
    for name, text in (("wrong", "wrong"), ("public", "cassandra")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    kafka, cassandra = kafka_as(shared_layout, stack, "score"), cassandra_as(shared_layout, stack, "score")
    wrong: dict[str, Any] = {"password_file": tmp_path / "wrong"}
    others: dict[str, Any] = {"password_file": password_file(shared_layout, "catalog", "kafka")}
    public: dict[str, Any] = {"username": "cassandra", "password_file": tmp_path / "public"}
    assert ready.kafka_answers(kafka)
    assert ready.cassandra_answers(cassandra)
    for bad in (wrong, others, {"username": ""}, {"mechanism": "PLAIN"}):
        assert not ready.kafka_answers(replace(kafka, **bad)), bad
    for bad in (wrong, {"password_file": others["password_file"]}, {"username": ""}, public):
        assert not ready.cassandra_answers(replace(cassandra, **bad)), bad
    with pytest.raises(SlowDown, match="refuses the login of prodrome_score"):
        wait_ready(replace(kafka, **wrong), 1)
    with (
        pytest.raises(SlowDown, match="AuthenticationFailed"),
        closing(Tables(replace(cassandra, **wrong), None)) as no,
    ):
        no.run("SELECT release_version FROM system.local")


def test_the_controller_listens_to_nobody_unknown(stack: Addresses) -> None:
    """Its port closes on a request that comes before a login."""
    metadata = struct.pack(">hhih", 3, 1, 7, -1) + struct.pack(">i", -1)
    with socket.create_connection(("127.0.0.1", stack.kafka_controller), timeout=PATIENCE) as plain:
        plain.sendall(struct.pack(">i", len(metadata)) + metadata)
        assert plain.recv(1) == b""
