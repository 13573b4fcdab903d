"""How one zone's Kafka and Cassandra are reached, as values: addresses, login, TLS.

`kafka_of` and `cassandra_of` make them from a zone's settings, and nothing else does outside tests. The
password is read from its file each time a connection is made, so that a new one needs no restart of ours.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

from infra.secret_files import read_secret
from infra.settings import Zone


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Files of a TLS client, PEM: whom it trusts (None: the system's list) and who it is."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return the context of a client that checks the server's certificate and its name."""
        made = ssl.create_default_context(cafile=self.ca)
        if self.cert:
            made.load_cert_chain(self.cert, self.key)
        return made


@dataclass(frozen=True, kw_only=True)
class Connection:
    """What is common to both: where, as whom, and how sealed.

    Parameters
    ----------
    servers : str
        ``host:port,host:port``.
    username : str
        Empty: no login.
    password_file : Path or None
        File of mode 600.
    tls : Tls or None
        None: in plain text.
    """

    servers: str
    username: str = ""
    password_file: Path | None = None
    tls: Tls | None = None

    def password(self) -> str:
        """Return the password; raises `SettingsError` if the file is not there or others can read it."""
        if self.password_file is None:
            return ""
        return read_secret(self.password_file, "expected the password of the user " + self.username)


@dataclass(frozen=True, kw_only=True)
class KafkaConnection(Connection):
    """A Kafka cluster and who we are to it."""

    mechanism: str = "SCRAM-SHA-512"


@dataclass(frozen=True, kw_only=True)
class CassandraConnection(Connection):
    """A Cassandra cluster and who we are to it; one port for all contact points."""


def kafka_of(zone: Zone) -> KafkaConnection:
    """Return how the zone's Kafka is reached."""
    return KafkaConnection(
        servers=zone.kafka,
        username=zone.kafka_username,
        password_file=_path(zone.kafka_password_file),
        tls=_tls(zone) if zone.kafka_tls else None,
        mechanism=zone.kafka_mechanism,
    )


def cassandra_of(zone: Zone) -> CassandraConnection:
    """Return how the zone's Cassandra is reached."""
    return CassandraConnection(
        servers=zone.cassandra,
        username=zone.cassandra_username,
        password_file=_path(zone.cassandra_password_file),
        tls=_tls(zone) if zone.cassandra_tls else None,
    )


def _tls(zone: Zone) -> Tls:
    return Tls(ca=_path(zone.tls_ca), cert=_path(zone.tls_cert), key=_path(zone.tls_key))


def _path(text: str) -> Path | None:
    return Path(text) if text else None
