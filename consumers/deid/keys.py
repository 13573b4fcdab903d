"""The keys of a project, each derived from the master for one purpose (HKDF-SHA-256), and what they make.

The pseudonym key of a project does not rotate: a new key id is a new project or an offline migration.
Nothing here writes or logs a key.
"""

import hmac
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
OFFSET_LEAST = 366  # a year at least: the moved year is never the true one
OFFSET_DAYS = 3653  # ten years of days to draw from
MIN_MASTER_BYTES = 32  # HKDF stretches nothing: a short master stays guessable


def mac(key: bytes, message: bytes) -> bytes:
    """Return HMAC-SHA-256 of a message: 32 bytes."""
    begun = _begun(key).copy()
    begun.update(message)
    return begun.digest()


@lru_cache(maxsize=256)  # five keys a project; to begin anew costs more than the message
def _begun(key: bytes) -> hmac.HMAC:
    return hmac.new(key, digestmod="sha256")


@lru_cache(maxsize=8192)  # study, series and frame of reference are asked for by each of their instances
def _pseudonymous_uid(key: bytes, uid: str) -> str:
    digest = mac(key, uid.encode())
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


@lru_cache(maxsize=1024)
def _pseudonymous_patient(key: bytes, issuer: str, patient_id: str) -> str:
    text = f"{len(issuer)}:{issuer}{patient_id}".encode()
    return mac(key, text).hex()[:24]


def _derive(master: bytes, project: str, purpose: str, key_id: str) -> bytes:
    info = "\x00".join(("prodrome", project, purpose, key_id)).encode()
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(master)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectKeys:
    """Keys of one project; the `repr` shows the key id alone."""

    key_id: str
    uid: bytes = field(repr=False)
    patient: bytes = field(repr=False)
    digest: bytes = field(repr=False)
    order: bytes = field(repr=False)
    dates: bytes = field(repr=False)

    @classmethod
    def derive(cls, master: bytes, project: str, key_id: str) -> "ProjectKeys":
        """Derive the keys of a project.

        Parameters
        ----------
        master : bytes
            At least 32 random bytes.
        project, key_id : str
            Both are bound into every key.
        """
        if len(master) < MIN_MASTER_BYTES:
            raise ValueError(f"expected a master key of at least {MIN_MASTER_BYTES} bytes, got {len(master)}")
        purposes = ("uid", "patient", "digest", "order", "dates")
        return cls(key_id=key_id, **{p: _derive(master, project, p, key_id) for p in purposes})

    def pseudonymous_uid(self, uid: str) -> str:
        """Map a UID into this project's domain: `2.25.` and 128 bits."""
        return _pseudonymous_uid(self.uid, uid)

    def pseudonymous_patient(self, issuer: str, patient_id: str) -> str:
        """Map a PatientID with its issuer to a pseudonym of 24 hexadecimal digits."""
        return _pseudonymous_patient(self.patient, issuer, patient_id)

    def date_offset(self, issuer: str, patient_id: str) -> int:
        """Return by how many days a patient's dates are moved: back, by one to eleven years."""
        text = f"{len(issuer)}:{issuer}{patient_id}".encode()
        drawn = int.from_bytes(mac(self.dates, text)[:8], "big")
        return -(OFFSET_LEAST + drawn % OFFSET_DAYS)

    def keyed_digest(self, *parts: str) -> str:
        """HMAC of a trusted digest: what the clean side may see and compare."""
        return mac(self.digest, "\x00".join(parts).encode()).hex()
