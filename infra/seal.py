"""Encryption at rest for what is trusted: vault rows and quarantined bytes (AES-256-GCM).

Keys are derived from secrets, one a project, purpose and key id (HKDF-SHA-256). The first byte of a sealed value
is the number of its secret: 1 is the master, later ones were made by `prodrome keys rotate`, and the latest seals.
So every value says what opens it, and is as long under one as under another. What a value belongs to is
authenticated with it, so that rows cannot be swapped.
"""

import os
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

NONCE_BYTES: Final = 12
MOST_SECRETS: Final = 255


class Sealer:
    """Seals and opens values of one project and purpose.

    Parameters
    ----------
    secrets : mapping of int to bytes
        The secrets, 32 bytes each, by number; the latest seals.
    project, purpose, key_id : str
        Bound into the key.
    """

    def __init__(self, secrets: Mapping[int, bytes], project: str, purpose: str, key_id: str) -> None:
        info = "\x00".join(("prodrome", project, purpose, key_id)).encode()
        self._aeads = {
            number: AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret))
            for number, secret in secrets.items()
        }
        self.newest = max(secrets)

    def seal(self, data: bytes, belongs_to: str) -> bytes:
        """Return number of the secret, nonce and ciphertext of `data`."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._aeads[self.newest].encrypt(nonce, data, belongs_to.encode())
        return bytes([self.newest]) + nonce + sealed

    def open(self, sealed: bytes, belongs_to: str) -> bytes:
        """Return what was sealed.

        Raises
        ------
        ValueError
            Another key, another owner, or changed bytes.
        """
        aead = self._aeads.get(number_of(sealed))
        if aead is None:
            known = ", ".join(map(str, self._aeads))
            raise ValueError(
                f"cannot be opened: sealed under secret {number_of(sealed)}, known are {known};"
                " was the key file changed since this process began?"
            )
        nonce, body = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        try:
            return aead.decrypt(nonce, body, belongs_to.encode())
        except InvalidTag:
            raise ValueError("cannot be opened: another key or owner, or changed bytes") from None


def number_of(sealed: bytes) -> int:
    """Return the number of the secret under which a value is sealed; 0 where it is none."""
    return sealed[0] if sealed else 0
