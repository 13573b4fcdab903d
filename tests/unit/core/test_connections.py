"""How a zone is reached: what the settings say is what each client is given."""

from pathlib import Path

import pytest

from infra.connections import KafkaConnection, Tls, cassandra_of, kafka_of
from infra.kafka import client_config
from infra.settings import Zone
from schemas.errors import SettingsError

LOGIN = {"kafka_username": "score", "cassandra_username": "clean"}


def password(folder: Path, mode: int = 0o600) -> Path:
    path = folder / "password"
    path.write_text("not to be seen\n")
    path.chmod(mode)
    return path


def test_without_a_login_nothing_but_the_address_is_given() -> None:
    """A cluster that admits everybody, as tests and small sites have it."""
    found = client_config(kafka_of(Zone(kafka="a:1,b:2")))
    assert found == {"bootstrap.servers": "a:1,b:2", "security.protocol": "PLAINTEXT"}


def test_a_login_and_tls_reach_librdkafka(tmp_path: Path) -> None:
    """The password comes from its file, without the end of line."""
    zone = Zone(**LOGIN, kafka_password_file=str(password(tmp_path)), kafka_tls=True, tls_ca="/ca.pem")  # type: ignore[arg-type]
    found = client_config(kafka_of(zone))
    assert found["security.protocol"] == "SASL_SSL"
    assert (found["sasl.username"], found["sasl.password"]) == ("score", "not to be seen")
    assert found["ssl.ca.location"] == "/ca.pem"


def test_a_certificate_alone_is_a_login_too() -> None:
    """Mutual TLS: who we are is in the certificate."""
    tls = Tls(ca=Path("/ca"), cert=Path("/me"), key=Path("/key"))
    found = client_config(KafkaConnection(servers="a:1", tls=tls))
    assert found["security.protocol"] == "SSL"
    assert (found["ssl.certificate.location"], found["ssl.key.location"]) == ("/me", "/key")


def test_tls_is_said_for_each_part() -> None:
    """A site may have it on one and not yet on the other."""
    zone = Zone(cassandra_tls=True, tls_ca="/ca.pem")
    assert kafka_of(zone).tls is None
    assert cassandra_of(zone).tls == Tls(ca=Path("/ca.pem"))


@pytest.mark.parametrize("mode", [0o620, 0o604])
def test_a_password_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """The message says what mends it, and not the password."""
    zone = Zone(**LOGIN, cassandra_password_file=str(password(tmp_path, mode)))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="chmod 600") as caught:
        cassandra_of(zone).password()
    assert "not to be seen" not in str(caught.value)


def test_a_password_that_is_not_there_is_named(tmp_path: Path) -> None:
    """By its path and its user."""
    zone = Zone(**LOGIN, cassandra_password_file=str(tmp_path / "none"))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"none .*the user clean"):
        cassandra_of(zone).password()
