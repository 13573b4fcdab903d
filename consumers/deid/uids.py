"""UIDs: which are nobody's, and the project's pseudonym of every other."""

from typing import Final

from pydicom.uid import UID_dictionary

from consumers.deid.elements import Bytes
from consumers.deid.keys import ProjectKeys

WELL_KNOWN: Final = frozenset(UID_dictionary)


def map_uids(value: Bytes, keys: ProjectKeys) -> bytes:
    """Map every UID of a (multi-)value into the project's domain; those of the standard stay."""
    parts = bytes(value).rstrip(b"\x00 ").decode("latin-1").split("\\")
    return "\\".join(_mapped(part.strip("\x00 "), keys) for part in parts).encode()


def _mapped(uid: str, keys: ProjectKeys) -> str:
    return uid if not uid or uid in WELL_KNOWN else keys.pseudonymous_uid(uid)
