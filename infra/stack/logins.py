"""Who each principal of `schemas.access` is to this stack: a password a file, and the connections it gives.

The files are made once, each with 256 random bits. Nothing else than the file holds a password in the clear,
but for the broker's configuration, which is as private.
"""

import secrets
from pathlib import Path

from infra.connections import CassandraConnection, KafkaConnection, Tls
from infra.secret_files import write_secret
from infra.stack.layout import Addresses, Layout, StackError
from schemas import access
from schemas.topics import Zone

ZONES: tuple[Zone, ...] = ("trusted", "clean")


def make_passwords(layout: Layout) -> None:
    """Make the password files that are not there yet.

    Raises
    ------
    StackError
        Cassandra's administrator has a password, and its file is gone: a new one would open nothing.
    """
    lost = password_file(layout, access.ADMIN, "cassandra")
    if (layout.home / "cassandra" / "closed").exists() and not lost.exists():
        raise StackError(f"{lost} is gone and Cassandra knows its password alone: restore your backup")
    for principal in access.PRINCIPALS:
        for part in _parts_of(principal):
            if not password_file(layout, principal, part).exists():
                write_secret(password_file(layout, principal, part), secrets.token_urlsafe(32) + "\n")


def password_file(layout: Layout, principal: str, part: str) -> Path:
    """Where a principal's password for `kafka` or `cassandra` lies."""
    return layout.secrets / f"{principal}.{part}"


def passwords(layout: Layout, part: str) -> dict[str, str]:
    """Return the passwords of everybody who has one for the part, by user name."""
    return {
        access.user(principal): password_file(layout, principal, part).read_text().strip()
        for principal in access.PRINCIPALS
        if part in _parts_of(principal)
    }


def kafka_as(layout: Layout, addresses: Addresses, principal: str = access.ADMIN) -> KafkaConnection:
    """Return the stack's Kafka as a principal reaches it.

    The administrator's password stands in the broker's configuration and not in the cluster's metadata: it is
    needed before there are any. So it has the mechanism PLAIN.
    """
    return KafkaConnection(
        servers=addresses.bootstrap,
        username=access.user(principal),
        password_file=password_file(layout, principal, "kafka"),
        mechanism="PLAIN" if principal == access.ADMIN else "SCRAM-SHA-512",
        tls=_tls(layout),
    )


def cassandra_as(layout: Layout, addresses: Addresses, principal: str = access.ADMIN) -> CassandraConnection:
    """Return the stack's Cassandra as a principal reaches it."""
    return CassandraConnection(
        servers=addresses.contact_points,
        username=access.user(principal),
        password_file=password_file(layout, principal, "cassandra"),
        tls=_tls(layout),
    )


def as_settings(layout: Layout, addresses: Addresses, principal: str) -> dict[str, str]:
    """Return the settings by which a principal reaches its zones; nothing of a zone that is not its own."""
    found: dict[str, str] = {}
    for zone in ZONES:
        prefix = f"PRODROME_{zone.upper()}_"
        if access.uses_kafka(principal, zone):
            kafka = kafka_as(layout, addresses, principal)
            found |= {
                f"{prefix}KAFKA": kafka.servers,
                f"{prefix}KAFKA_USERNAME": kafka.username,
                f"{prefix}KAFKA_PASSWORD_FILE": str(kafka.password_file),
                f"{prefix}KAFKA_MECHANISM": kafka.mechanism,
                f"{prefix}KAFKA_TLS": str(layout.tls).lower(),
            }
        if access.uses_cassandra(principal, zone):
            cassandra = cassandra_as(layout, addresses, principal)
            found |= {
                f"{prefix}CASSANDRA": cassandra.servers,
                f"{prefix}CASSANDRA_USERNAME": cassandra.username,
                f"{prefix}CASSANDRA_PASSWORD_FILE": str(cassandra.password_file),
                f"{prefix}CASSANDRA_TLS": str(layout.tls).lower(),
            }
        if layout.nodes > 1 and any(name.startswith(prefix) for name in found):
            found |= {f"{prefix}{what}": str(layout.nodes) for what in ("REPLICATION", "TOPIC_REPLICATION")}
        if layout.tls and any(name.startswith(prefix) for name in found):
            found[f"{prefix}TLS_CA"] = str(layout.certificates / "ca.pem")
    return found


def _tls(layout: Layout) -> Tls | None:
    return Tls(ca=layout.certificates / "ca.pem") if layout.tls else None


def _parts_of(principal: str) -> tuple[str, ...]:
    kafka = any(access.uses_kafka(principal, zone) for zone in ZONES)
    cassandra = any(access.uses_cassandra(principal, zone) for zone in ZONES)
    return (("kafka",) if kafka else ()) + (("cassandra",) if cassandra else ())
