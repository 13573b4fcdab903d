"""Make what `schemas.access` says true of a Kafka and a Cassandra: users, ACLs, roles, grants.

1. `close_kafka` makes each principal's SCRAM credential and exactly the ACLs of the table.
2. `close_cassandra` makes each principal's role and exactly the grants of the table.
3. Whatever else is there is taken away: an ACL, grant, user or role that the table does not have.
4. `as_commands` says the same as lines for the administrators of clusters that are not ours.

For clusters that belong to prodrome alone. Done again it changes nothing; a new password file is a new password.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)

from infra.cassandra import CHANGE_SECONDS, Tables
from infra.connections import CassandraConnection, KafkaConnection
from infra.kafka import ADMIN_SECONDS, client_config
from schemas import access
from schemas.errors import SlowDown
from schemas.topics import TOPICS, Zone

#: The passwords are random and long: more rounds would only cost time at each connection.
SCRAM_ITERATIONS: Final = 4096


class Acl(NamedTuple):
    """One thing that a principal may do in Kafka."""

    user: str
    kind: str
    name: str
    prefix: bool
    operation: str


class Grant(NamedTuple):
    """One thing that a principal may do in Cassandra."""

    user: str
    keyspace: str
    table: str
    permission: str


#: Who has not logged in.
ANONYMOUS: Final = "ANONYMOUS"


def acls(*, gateway: bool = False) -> Iterator[Acl]:
    """Yield what the table allows in Kafka; the administrator needs none, the brokers know who it is.

    With `gateway` whoever has not logged in may write what the table lets the S3 gateway write, and nothing else:
    for a stack whose Kafka has a listener for it, on loopback.
    """
    if gateway:
        for topic in TOPICS:
            for right in sorted(access.topic_rights(access.GATEWAY, topic)):
                yield Acl(ANONYMOUS, "TOPIC", topic.name, False, right.upper())
    for principal in access.PRINCIPALS:
        if principal == access.ADMIN:
            continue
        name = access.user(principal)
        for topic in TOPICS:
            for right in sorted(access.topic_rights(principal, topic)):
                yield Acl(name, "TOPIC", topic.name, False, right.upper())
            if principal == access.OPERATOR:  # `forget` says when retention ends what it cannot remove
                yield Acl(name, "TOPIC", topic.name, False, "DESCRIBE_CONFIGS")
        for prefix in access.group_prefixes(principal):
            yield Acl(name, "GROUP", prefix, True, "READ")
        for prefix in access.seen_group_prefixes(principal):
            yield Acl(name, "GROUP", prefix, True, "DESCRIBE")


def grants(keyspaces: Mapping[Zone, str]) -> Iterator[Grant]:
    """Yield what the table allows in Cassandra; the administrator is a superuser."""
    for principal in access.PRINCIPALS:
        if principal == access.ADMIN:
            continue
        for table in access.TABLES:
            for right in sorted(access.table_rights(principal, table)):
                permission = {"read": "SELECT", "write": "MODIFY"}[right]
                yield Grant(access.user(principal), keyspaces[table.zone], table.name, permission)


def close_kafka(admin: KafkaConnection, passwords: Mapping[str, str], *, gateway: bool = False) -> None:
    """Make users and ACLs; `passwords` is by user name, `gateway` as in `acls`.

    Raises
    ------
    SlowDown
        The cluster does not answer, or refuses us.
    """
    client = AdminClient({**client_config(admin), "log_level": 0})
    try:
        _make_users(client, passwords)
        _make_acls(client, gateway)
    except KafkaException as error:
        raise SlowDown(f"Kafka at {admin.servers} refused users or ACLs: {error.args[0].name()}") from None


def _make_users(client: AdminClient, passwords: Mapping[str, str]) -> None:
    how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, SCRAM_ITERATIONS)
    known = client.describe_user_scram_credentials(request_timeout=ADMIN_SECONDS).result()
    changes: list[Any] = [
        UserScramCredentialUpsertion(user, how, password.encode()) for user, password in passwords.items()
    ]
    for user, found in known.items():
        if user not in passwords:
            changes += [
                UserScramCredentialDeletion(user, info.mechanism) for info in found.scram_credential_infos
            ]
    for future in client.alter_user_scram_credentials(changes, request_timeout=ADMIN_SECONDS).values():
        future.result()


def _make_acls(client: AdminClient, gateway: bool) -> None:
    everything = AclBindingFilter(
        *(
            ResourceType.ANY,
            None,
            ResourcePatternType.ANY,
            None,
            None,
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
    )
    found = set(client.describe_acls(everything, request_timeout=ADMIN_SECONDS).result())
    wanted = {_binding(acl) for acl in acls(gateway=gateway)}
    if wanted - found:
        for future in client.create_acls(list(wanted - found), request_timeout=ADMIN_SECONDS).values():
            future.result()
    if found - wanted:
        filters = [
            AclBindingFilter(
                *(
                    b.restype,
                    b.name,
                    b.resource_pattern_type,
                    b.principal,
                    b.host,
                    b.operation,
                    b.permission_type,
                )
            )
            for b in found - wanted
        ]
        for future in client.delete_acls(filters, request_timeout=ADMIN_SECONDS).values():
            future.result()


def _binding(acl: Acl) -> AclBinding:
    pattern = ResourcePatternType.PREFIXED if acl.prefix else ResourcePatternType.LITERAL
    operation = AclOperation[acl.operation]
    return AclBinding(
        *(
            ResourceType[acl.kind],
            acl.name,
            pattern,
            f"User:{acl.user}",
            "*",
            operation,
            AclPermissionType.ALLOW,
        )
    )


def close_cassandra(
    admin: CassandraConnection, keyspaces: Mapping[Zone, str], passwords: Mapping[str, str]
) -> None:
    """Make roles and grants; `passwords` is by user name, the administrator's among them.

    Raises
    ------
    SlowDown
        The cluster does not answer.
    """
    tables = Tables(admin, None, CHANGE_SECONDS)
    try:
        roles = {row.role for row in tables.run("SELECT role FROM system_auth.roles")}
        for role in sorted(roles - set(passwords)):
            tables.define(f'DROP ROLE IF EXISTS "{role}"')
        for role, password in passwords.items():
            if role != admin.username:
                tables.define(f"CREATE ROLE IF NOT EXISTS {role} WITH LOGIN = true AND SUPERUSER = false")
                tables.define(f"ALTER ROLE {role} WITH PASSWORD = '{password}'")
        _make_grants(tables, admin.username, set(grants(keyspaces)))
    finally:
        tables.close()


def _make_grants(tables: Tables, admin: str, wanted: set[Grant]) -> None:
    held: set[tuple[str, str, str]] = set()
    for row in tables.run("SELECT role, resource, permissions FROM system_auth.role_permissions"):
        if row.role != admin:
            held |= {(row.role, row.resource, permission) for permission in row.permissions}
    due = {(g.user, f"data/{g.keyspace}/{g.table}", g.permission): g for g in wanted}
    for key in sorted(due.keys() - held):
        tables.define("GRANT {3} ON {1}.{2} TO {0}".format(*due[key]))
    for role, resource, permission in sorted(held - due.keys()):
        tables.define(f'REVOKE {permission} ON {_resource(resource)} FROM "{role}"')


def _resource(text: str) -> str:
    """Return a resource as CQL names it."""
    kind, *names = text.split("/")
    quoted = ".".join(f'"{name}"' for name in names)
    if kind == "data":
        return {0: "ALL KEYSPACES", 1: f"KEYSPACE {quoted}"}.get(len(names), f"TABLE {quoted}")
    if kind == "roles":
        return f"ROLE {quoted}" if names else "ALL ROLES"
    return {"functions": "ALL FUNCTIONS", "mbean": "ALL MBEANS"}.get(kind, "ALL KEYSPACES")


def as_commands(zone: Zone, keyspaces: Mapping[Zone, str]) -> Iterator[str]:
    """Yield the same for one zone's clusters as lines for `kafka-acls.sh` and `cqlsh`, without passwords."""
    here = {topic.name for topic in TOPICS if topic.zone == zone}
    for acl in acls():
        principal = acl.user.removeprefix("prodrome_")
        if acl.name in here or (acl.kind == "GROUP" and access.uses_kafka(principal, zone)):
            pattern = " --resource-pattern-type prefixed" if acl.prefix else ""
            operation = acl.operation.title().replace("_", "")
            yield (
                f"kafka-acls.sh --add --allow-principal User:{acl.user} --operation {operation}"
                f" --{acl.kind.lower()} {acl.name}{pattern}"
            )
    tables = {table.name for table in access.TABLES if table.zone == zone}
    for principal in access.PRINCIPALS:
        if principal != access.ADMIN and access.uses_cassandra(principal, zone):
            yield f"CREATE ROLE IF NOT EXISTS {access.user(principal)} WITH LOGIN = true;"
    for grant in grants(keyspaces):
        if grant.table in tables and grant.keyspace == keyspaces[zone]:
            yield "GRANT {3} ON {1}.{2} TO {0};".format(*grant)
