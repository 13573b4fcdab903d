"""The audit trail's words: which actions are recorded, and how each is said as a DICOM audit message. Pure.

`ACTIONS` maps what an operator does to the event of PS3.15 A.5.3 that it is, with its action code. `message`
renders one entry as the XML of PS3.15 A.5.1. An entry names studies, instances and patients by pseudonym or
intake; never by name, birth date or a value of a header.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

import msgspec

Outcome = Literal["begun", "success", "failure"]


class Event(NamedTuple):
    """An event of PS3.15 A.5.3: EventID, EventTypeCode (both DCM, CID 400 and 401) and EventActionCode."""

    code: str
    meaning: str
    action: Literal["C", "R", "U", "D", "E"]
    type_code: str = ""
    type_meaning: str = ""


_SOFTWARE: Final = Event("110113", "Security Alert", "E", "110131", "Software Configuration")
_ACCESSED: Final = ("110103", "DICOM Instances Accessed")

#: what is done -> the event that it is
ACTIONS: Final[dict[str, Event]] = {
    "up": Event("110100", "Application Activity", "E", "110120", "Application Start"),
    "down": Event("110100", "Application Activity", "E", "110121", "Application Stop"),
    "restart": Event("110100", "Application Activity", "E", "110120", "Application Start"),
    "pause": _SOFTWARE,
    "resume": _SOFTWARE,
    "drain": _SOFTWARE,
    "backfill": Event("110107", "Import", "C"),
    "audit": Event("110101", "Audit Log Used", "R"),
    "trace": Event("110112", "Query", "E"),
    "reidentify": Event("110106", "Export", "R"),
    "deadletters-show": Event(*_ACCESSED, "R"),
    "quarantine-show": Event(*_ACCESSED, "R"),
    "quarantine-release": Event(*_ACCESSED, "U"),
    "quarantine-purge": Event(*_ACCESSED, "D"),
    "replay": Event(*_ACCESSED, "U"),
    "rescore": Event(*_ACCESSED, "U"),
    "models": _SOFTWARE,
    "lineage": Event(*_ACCESSED, "R"),
    "discard": Event(*_ACCESSED, "D"),
    "resolve": Event(*_ACCESSED, "U"),
    "reconcile": Event(*_ACCESSED, "U"),
    "forget": Event("110105", "DICOM Study Deleted", "D"),
    "keys": Event("110113", "Security Alert", "E", "110129", "Security Configuration"),
    "backup": Event("110106", "Export", "R"),
    "restore": Event("110107", "Import", "C"),
    # the chain's own: a line that a kill cut short
    "torn": Event("110113", "Security Alert", "E", "110133", "Audit Recording Stopped"),
}

#: Objects that may be several, with a space between: each is a participant of its own.
_MANY: Final = frozenset({"intakes", "letters", "studies"})


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the trail.

    Attributes
    ----------
    chain : str
        Random name of this trail, from its first entry on.
    sequence : int
        Counts from 0 without a gap.
    at : str
        ISO 8601, UTC. For people; order is `sequence`.
    actor : str
        Who: the account that ran the command, and ``PRODROME_AUDIT_ACTOR`` where it is set.
    action : str
        A word of `ACTIONS`.
    outcome : str
        ``begun`` before work that cannot be undone, then ``success`` or ``failure``.
    objects : dict
        What it was done to, by pseudonym, intake or number.
    previous, hash : str
        SHA-256 in hex of the entry before, and of this one without its hash.
    """

    chain: str
    sequence: int
    at: str
    actor: str
    action: str
    outcome: Outcome
    objects: dict[str, str]
    previous: str
    hash: str = ""


def message(entry: Entry) -> str:
    """Return the entry as a DICOM audit message (PS3.15 A.5.1)."""
    event = ACTIONS[entry.action]
    root = Element("AuditMessage")
    identification = SubElement(
        root,
        "EventIdentification",
        EventActionCode=event.action,
        EventDateTime=entry.at,
        # PS3.15 A.5.2: 0 success, 8 serious failure; of what has begun and not ended, neither is known
        EventOutcomeIndicator="8" if entry.outcome == "failure" else "0",
    )
    _coded(identification, "EventID", event.code, event.meaning)
    if event.type_code:
        _coded(identification, "EventTypeCode", event.type_code, event.type_meaning)
    SubElement(root, "ActiveParticipant", UserID=entry.actor, UserIsRequestor="true")
    SubElement(root, "AuditSourceIdentification", AuditSourceID=f"prodrome-{entry.chain}")
    for name, value in _objects(entry).items():
        for each in value.split(" ") if name in _MANY else [value]:
            # type 2 system object; role 3 report, or 1 patient, by RFC 3881 5.5
            participant = SubElement(
                root,
                "ParticipantObjectIdentification",
                ParticipantObjectID=each,
                ParticipantObjectTypeCode="1" if name == "patient" else "2",
                ParticipantObjectTypeCodeRole="1" if name == "patient" else "3",
            )
            _coded(participant, "ParticipantObjectIDTypeCode", name, name, system="prodrome")
    return tostring(root, encoding="unicode")


def _objects(entry: Entry) -> Mapping[str, str]:
    return {**entry.objects, "entry": str(entry.sequence), "stage-of-action": entry.outcome}


def _coded(parent: Element, name: str, code: str, meaning: str, system: str = "DCM") -> None:
    SubElement(parent, name, {"csd-code": code, "codeSystemName": system, "originalText": meaning})
