"""When certificates end: a pure look into a PEM file, for those who watch."""

from datetime import datetime
from pathlib import Path

from cryptography import x509

from infra.settings import Settings
from schemas.errors import SettingsError


def in_use(found: Settings) -> dict[str, Path]:
    """Return the certificate files that these settings use, by a name that is fit for a label."""
    named = {
        f"{zone}_{kind}": path
        for zone, at in (("trusted", found.trusted), ("clean", found.clean))
        for kind, path in (("ca", at.tls_ca), ("cert", at.tls_cert))
    }
    named["receive_cert"], named["receive_ca"] = found.receive.tls_cert, found.receive.tls_ca
    named["reader_cert"] = found.reader.tls_cert
    named["reader_ca"] = found.spool.tls_ca
    if found.stack.tls:
        named["stack"] = str(found.home / "secrets" / "tls" / "server.pem")
    return {name: Path(path) for name, path in named.items() if path}


def expiry(path: Path) -> datetime:
    """Return the earliest end of validity of the certificates in a PEM file.

    Raises
    ------
    SettingsError
        The file is absent or holds no certificate.
    """
    try:
        return min(one.not_valid_after_utc for one in x509.load_pem_x509_certificates(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: expected certificates as PEM ({type(error).__name__})") from None
