"""TLS of a server that keeps running while its certificates change (PS3.15 B.12: TLS 1.2 at least, 1.3 preferred).

The files are looked at for each new connection; a pair that is not whole yet leaves the one before in force.
"""

import hashlib
import logging
import socket
import ssl
from pathlib import Path
from typing import Any, Final

from schemas.errors import SettingsError

_log = logging.getLogger(__name__)

#: RFC 9325 4.2: forward secrecy and authenticated encryption, for TLS 1.2; those of 1.3 are all of that kind.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"


class ServerTls:
    """A server's certificate and key, and the CAs of those who may come.

    Parameters
    ----------
    cert, key : str
        PEM files; `key` may be empty where the first holds both.
    ca : str
        PEM file of the CAs that sign clients' certificates; empty asks clients for none.

    Raises
    ------
    SettingsError
        A file is absent or holds something else.
    """

    def __init__(self, cert: str, key: str, ca: str) -> None:
        self._cert, self._key, self._ca = cert, key, ca
        self._stamps = self._stamp()
        self._context = self._load()

    def wrap(self, sock: socket.socket) -> ssl.SSLSocket:
        """Return the server's side of a connection; its handshake is the caller's, who sets a time-out first."""
        return self._current().wrap_socket(sock, server_side=True, do_handshake_on_connect=False)

    def _current(self) -> ssl.SSLContext:
        try:
            stamps = self._stamp()
            if stamps != self._stamps:
                self._context, self._stamps = self._load(), stamps
                _log.info("certificates read again")
        except (SettingsError, OSError) as error:
            _log.error("certificates: %s", error)
        return self._context

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CIPHERS)
        try:
            context.load_cert_chain(self._cert, self._key or None)
            if self._ca:
                context.load_verify_locations(self._ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"{self._cert}: expected certificate and key, PEM ({type(error).__name__})"
            ) from None
        return context

    def _stamp(self) -> list[tuple[int, int]]:
        try:
            found = [Path(name).stat() for name in (self._cert, self._key, self._ca) if name]
        except OSError as error:
            raise SettingsError(f"{error.filename}: expected a certificate or key, PEM") from None
        return [(stat.st_ino, stat.st_mtime_ns) for stat in found]


def peer_names(sock: socket.socket) -> frozenset[str]:
    """Return what a verified client certificate says: its alternative names, and ``sha256:`` of the whole."""
    if not isinstance(sock, ssl.SSLSocket):
        return frozenset()
    said, whole = sock.getpeercert(), sock.getpeercert(binary_form=True)
    if not said or not whole:
        return frozenset()
    alternatives: Any = said.get("subjectAltName", ())
    names = {str(name).lower() for _, name in alternatives}
    return frozenset(names | {f"sha256:{hashlib.sha256(whole).hexdigest()}"})
