"""How one zone's Kafka and Cassandra are reached, as values: addresses, login, TLS.

`kafka_of` and `cassandra_of` make them from a zone's settings, and nothing else does outside tests. The
password is read from its file each time a connection is made, so that a new one needs no restart of ours.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from infra.plaintext import refuse_plaintext
from infra.secret_files import read_secret
from infra.settings import Buckets, Zone
from schemas.errors import SettingsError


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


@dataclass(frozen=True, kw_only=True)
class S3Connection:
    """A store of objects and who we are to it.

    Parameters
    ----------
    endpoint : str
        URL; empty: Amazon's own of the region.
    region : str
        Part of every signature; empty: what the environment has.
    credentials_file : Path or None
        File of mode 600 with the access key's id and its secret, a line each. None: what the environment has.
    ca : Path or None
        CAs that signed the store's certificate, PEM; None: the system's list.
    """

    endpoint: str = ""
    region: str = ""
    credentials_file: Path | None = None
    ca: Path | None = None

    def credentials(self) -> tuple[str, str] | None:
        """Return id and secret from the file; raises `SettingsError` if it does not hold them."""
        if self.credentials_file is None:
            return None
        lines = read_secret(
            self.credentials_file, "expected an access key's id and its secret, a line each"
        ).split()
        if len(lines) != 2:
            raise SettingsError(f"{self.credentials_file}: expected two lines, came {len(lines)}")
        return lines[0], lines[1]

    def client_arguments(self) -> dict[str, Any]:
        """Return what a client of botocore is made with."""
        found: dict[str, Any] = {"region_name": self.region or None}
        if self.endpoint:
            found["endpoint_url"] = self.endpoint
        if self.ca:
            found["verify"] = str(self.ca)
        if credentials := self.credentials():
            found |= dict(zip(("aws_access_key_id", "aws_secret_access_key"), credentials, strict=True))
        return found


def buckets_of(buckets: Buckets) -> S3Connection:
    """Return how the buckets of others are reached; raises `SettingsError` for plain text beyond loopback."""
    _refuse_plain(buckets.endpoint, buckets.allow_plaintext, "PRODROME_BUCKETS")
    return S3Connection(
        endpoint=buckets.endpoint,
        region=buckets.region,
        credentials_file=_path(buckets.credentials_file),
        ca=_path(buckets.tls_ca),
    )


def store_of(zone: Zone, name: str) -> S3Connection:
    """Return how a zone's own store is reached where it is a bucket; raises as `buckets_of`."""
    _refuse_plain(zone.store_endpoint, zone.store_allow_plaintext, f"PRODROME_{name.upper()}_STORE")
    return S3Connection(
        endpoint=zone.store_endpoint,
        region=zone.store_region,
        credentials_file=_path(zone.store_credentials_file),
        ca=_path(zone.tls_ca),
    )


def _refuse_plain(endpoint: str, allowed: bool, name: str) -> None:
    parts = urlsplit(endpoint)
    if endpoint and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise SettingsError(f"{name}_ENDPOINT: expected a URL like https://host:port")
    if parts.scheme == "http":
        refuse_plaintext(
            str(parts.hostname), allowed, f"{name}_ENDPOINT", f"https://, or {name}_ALLOW_PLAINTEXT=true"
        )


def _tls(zone: Zone) -> Tls:
    return Tls(ca=_path(zone.tls_ca), cert=_path(zone.tls_cert), key=_path(zone.tls_key))


def _path(text: str) -> Path | None:
    return Path(text) if text else None
