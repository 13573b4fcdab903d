"""Encryption at rest for what is trusted: vault rows and quarantined bytes (AES-256-GCM).

Keys are derived from the master secret, one a project, purpose and key id (HKDF-SHA-256). What a sealed
value belongs to is authenticated with it, so that rows cannot be swapped.
"""

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

NONCE_BYTES: Final = 12
FORMAT: Final = b"\x01"


class Sealer:
    """Seals and opens values of one project and purpose.

    Parameters
    ----------
    master : bytes
        The master secret, 32 bytes.
    project, purpose, key_id : str
        Bound into the key.
    """

    def __init__(self, master: bytes, project: str, purpose: str, key_id: str) -> None:
        info = "\x00".join(("prodrome", project, purpose, key_id)).encode()
        self._aead = AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(master))
        self.key_id = key_id

    def seal(self, data: bytes, belongs_to: str) -> bytes:
        """Return format byte, nonce and ciphertext of `data`."""
        nonce = os.urandom(NONCE_BYTES)
        return FORMAT + nonce + self._aead.encrypt(nonce, data, belongs_to.encode())

    def open(self, sealed: bytes, belongs_to: str) -> bytes:
        """Return what was sealed.

        Raises
        ------
        ValueError
            Another key, another owner, or changed bytes.
        """
        if sealed[:1] != FORMAT:
            raise ValueError("expected a sealed value of format 1")
        nonce, body = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        try:
            return self._aead.decrypt(nonce, body, belongs_to.encode())
        except InvalidTag:
            raise ValueError("cannot be opened: another key or owner, or changed bytes") from None
