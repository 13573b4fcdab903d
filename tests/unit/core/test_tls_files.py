"""Certificates of the stack: who signed them, and when they end."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.connections import Tls
from infra.settings import load
from infra.stack import certificates
from infra.tls import expiry, in_use
from schemas.errors import SettingsError


def test_the_first_end_of_a_chain_counts(tmp_path: Path) -> None:
    """A file with our certificate and its CA ends with ours."""
    certificates.make(tmp_path)
    left = expiry(tmp_path / "server.pem") - datetime.now(UTC)
    assert timedelta(days=396) < left < timedelta(days=398)
    assert expiry(tmp_path / "ca.pem") > expiry(tmp_path / "server.pem")


def test_the_files_in_use_are_named(tmp_path: Path) -> None:
    """Those of the settings, and the stack's own where it has one."""
    environ = {"PRODROME_HOME": str(tmp_path), "PRODROME_CLEAN_TLS_CA": "/ca.pem"}
    assert in_use(load(environ)) == {"clean_ca": Path("/ca.pem")}
    assert set(in_use(load(environ | {"PRODROME_STACK_TLS": "true"}))) == {"clean_ca", "stack"}


@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"])
def test_a_file_without_a_certificate_is_named(tmp_path: Path, text: str) -> None:
    """An alert that cannot look must not look well."""
    path = tmp_path / "odd.pem"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"odd\.pem"):
        expiry(path)


def test_certificates_are_made_once_and_renewed_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`up` leaves them alone until their last two months; clients that trust the CA notice nothing."""
    certificates.make(tmp_path)
    first, ca = (tmp_path / "server.pem").read_text(), (tmp_path / "ca.pem").read_text()
    certificates.make(tmp_path)
    assert (tmp_path / "server.pem").read_text() == first
    monkeypatch.setattr(certificates, "RENEW_DAYS", certificates.SERVER_DAYS + 1)
    certificates.make(tmp_path)
    assert (tmp_path / "server.pem").read_text() != first
    assert (tmp_path / "ca.pem").read_text() == ca


def test_a_client_checks_name_and_signer(tmp_path: Path) -> None:
    """TLS that accepts anybody would be worth nothing."""
    certificates.make(tmp_path)
    found = Tls(ca=tmp_path / "ca.pem").context()
    assert found.verify_mode == ssl.CERT_REQUIRED
    assert found.check_hostname


def test_keys_are_their_owners_alone(tmp_path: Path) -> None:
    """All files are of mode 600."""
    certificates.make(tmp_path / "tls")
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "tls").iterdir()} == {0o600}
