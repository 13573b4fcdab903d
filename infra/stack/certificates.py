"""The stack's own certificates: a CA of this home and what it signs, for TLS on loopback.

`make` writes the CA and the servers' certificate, and makes the latter anew when it is about to end. A hospital's
own certificates are given to existing clusters instead; these only ever mean "the stack of this home".
"""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.secret_files import write_secret
from infra.stack.layout import HOSTS
from infra.tls import expiry

CA_DAYS: Final = 3650
#: Below what clients begin to refuse (825 days); made anew by `prodrome up` in its last two months.
SERVER_DAYS: Final = 397
RENEW_DAYS: Final = 60


def make(folder: Path) -> None:
    """Write `ca.pem`, `ca.key` and `server.pem` (certificate, CA and key) unless they are there and good."""
    now = datetime.now(UTC)
    if not (folder / "ca.key").exists():
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("prodrome stack CA")
        made = _builder(name, name, key, now, CA_DAYS).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        write_secret(folder / "ca.pem", _pem(made.sign(key, hashes.SHA256())))
        write_secret(folder / "ca.key", _key_pem(key))
    server = folder / "server.pem"
    if not server.exists() or expiry(server) - now < timedelta(days=RENEW_DAYS):
        sign(folder, "server.pem", ExtendedKeyUsageOID.SERVER_AUTH)


def sign(folder: Path, name: str, usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH) -> Path:
    """Write a key and its certificate of the folder's CA into one file and return its path."""
    ca = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    ca_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise TypeError("expected the key that `make` wrote")
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        _builder(_name("prodrome stack"), ca.subject, key, datetime.now(UTC), SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName("localhost"), *(x509.IPAddress(ipaddress.ip_address(host)) for host in HOSTS)]
            ),
            critical=False,
        )
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    write_secret(folder / name, _key_pem(key) + _pem(made) + _pem(ca))
    return folder / name


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # a clock that was set back a little
        .not_valid_after(now + timedelta(days=days))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
