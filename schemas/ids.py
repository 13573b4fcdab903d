"""Identities: keys of messages, UUIDv5 ids of events, digests of sets. Pure functions of their arguments.

The same key and input give the same id on every machine, so that a repeat is recognised as one.
"""

import hashlib
import re
import uuid
from collections.abc import Iterable
from typing import Final

#: Namespace of every UUIDv5 that prodrome makes; a random UUID, fixed for ever.
NAMESPACE: Final = uuid.UUID("6f1d3b0e-6f0c-4f0a-9d55-0c8f5a4b7e21")

#: What a UID may hold (PS3.5 9.1), as a regular expression.
UID: Final = r"[0-9.]{1,64}"
_UID: Final = re.compile(UID)
_PROJECT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def valid_uid(text: str) -> bool:
    """Whether `text` holds only what a UID may hold (PS3.5 9.1): digits and dots, at most 64."""
    return _UID.fullmatch(text) is not None


def valid_project(text: str) -> bool:
    """Whether `text` may name a project: lower case letters, digits and dashes, at most 63."""
    return _PROJECT.fullmatch(text) is not None


def event_id(*parts: str | int) -> str:
    """Return the UUIDv5 of an event from what identifies it."""
    return str(uuid.uuid5(NAMESPACE, "\x1f".join(str(part) for part in parts)))


def study_key(project: str, study_instance_uid: str) -> bytes:
    """Return the message key that keeps a study in one partition and in order."""
    return f"{project}/{study_instance_uid}".encode()


def set_id(members: Iterable[tuple[str, ...]]) -> str:
    """Return the SHA-256, in hex, over the sorted members of a set of instances.

    Parameters
    ----------
    members : iterable of tuple of str
        For a revision (SOP Instance UID, content key, pixel key); for the inputs of a model the view first.
    """
    text = "\n".join("\x1f".join(member) for member in sorted(members))
    return hashlib.sha256(text.encode()).hexdigest()
