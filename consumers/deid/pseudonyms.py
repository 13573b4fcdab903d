"""Who the patient is from now on, and what the clean file says was done to it.

1. PatientID with its issuer becomes a keyed pseudonym; PatientName says the same pseudonym.
2. An empty or placeholder PatientID would make one patient of strangers: the Study Instance UID stands in.
3. PatientIdentityRemoved, the method (appended, never a key or its id), the codes of profile and options
   (CID 7050, appended, history kept), and LongitudinalTemporalInformationModified as the options have it.
4. The same identity draws the number of days by which dates are moved, where the profile moves them.
"""

import re
from functools import lru_cache
from typing import Final

from consumers.deid.elements import Dataset, Element
from consumers.deid.jsonmodel import plain_text
from consumers.deid.keys import ProjectKeys
from consumers.deid.options import Option, codes_of, dates_word
from consumers.deid.profile import Profile

PATIENT_NAME: Final = 0x00100010
PATIENT_ID: Final = 0x00100020
IDENTITY_REMOVED: Final = 0x00120062
METHOD: Final = 0x00120063
METHOD_CODES: Final = 0x00120064
LONGITUDINAL: Final = 0x00280303
OWN: Final = (PATIENT_NAME, PATIENT_ID, IDENTITY_REMOVED, METHOD, METHOD_CODES, LONGITUDINAL)  # in order
HISTORY: Final = (METHOD, METHOD_CODES)

#: PatientIDs that stand for "none", compared without case, blanks and punctuation
PLACEHOLDERS: Final = frozenset(
    {
        *("anon", "anonym", "anonymous", "anonymized", "anonymised", "deidentified", "dummy", "empty", "id"),
        *(
            "missing",
            "na",
            "nil",
            "noid",
            "noname",
            "none",
            "notavailable",
            "notapplicable",
            "notset",
            "null",
        ),
        *("patient", "patientid", "phantom", "removed", "tbd", "temp", "test", "testpatient", "unbekannt"),
        *("unidentified", "unknown", "unspecified", "void"),
    }
)
_BLANK: Final = re.compile(r"[\W_]+")
_FILLER: Final = re.compile(r"(.)\1*")  # 0, 0000, XXXX, 999: one character repeated

_SCHEME: Final = "DCM"


def is_placeholder(patient_id: str) -> bool:
    """Tell whether a PatientID stands for none."""
    core = _BLANK.sub("", patient_id).casefold()
    return not core or core in PLACEHOLDERS or _FILLER.fullmatch(core) is not None


def patient_pseudonym(patient_id: str, issuer: str, study_instance_uid: str, keys: ProjectKeys) -> str:
    """Return the pseudonym of a patient within the project."""
    return keys.pseudonymous_patient(*_identity(patient_id, issuer, study_instance_uid))


def date_offset(patient_id: str, issuer: str, study_instance_uid: str, keys: ProjectKeys) -> int:
    """Return by how many days the dates of a patient are moved within the project."""
    return keys.date_offset(*_identity(patient_id, issuer, study_instance_uid))


@lru_cache(maxsize=1024)  # the instances of a study come together
def _identity(patient_id: str, issuer: str, study_instance_uid: str) -> tuple[str, str]:
    if is_placeholder(patient_id):
        return "\x00study", study_instance_uid
    return issuer, patient_id


def method_text(profile: Profile) -> str:
    """Return what (0012,0063) says of this profile: name, edition, eight digits of the digest."""
    return f"prodrome {profile.name} PS3.15 {profile.edition} {profile.digest[:8]}"


def own_elements(
    patient: str, method: str, options: frozenset[str] = frozenset(), before: Dataset = ()
) -> Dataset:
    """Return pseudonym, method, codes and flags, in tag order.

    Parameters
    ----------
    patient : str
        The pseudonym.
    method : str
        From `method_text`.
    options : frozenset of str
        Those that were applied.
    before : tuple of Element
        What the clean dataset says in `HISTORY` already: it stays.
    """
    said = {e.tag: e for e in before}
    return (
        Element(PATIENT_NAME, "PN", patient.encode()),
        Element(PATIENT_ID, "LO", patient.encode()),
        Element(IDENTITY_REMOVED, "CS", b"YES"),
        Element(METHOD, "LO", _appended_text(said.get(METHOD), method)),
        _appended_codes(said.get(METHOD_CODES), codes_of(options)),
        Element(LONGITUDINAL, "CS", dates_word(options).encode()),
    )


def _appended_text(before: Element | None, text: str) -> bytes:
    said = bytes(before.value).rstrip(b"\x00 ") if before and before.items is None else b""
    if text.encode() in said.split(b"\\"):
        return said
    return b"\\".join(filter(None, (said, text.encode())))


def _appended_codes(before: Element | None, applied: tuple[Option, ...]) -> Element:
    items = (before.items or ()) if before else ()
    said = {plain_text(e.value).strip() for item in items for e in item if e.tag == 0x00080100}
    new = (
        (
            Element(0x00080100, "SH", option.code.encode()),
            Element(0x00080102, "SH", _SCHEME.encode()),
            Element(0x00080104, "LO", option.meaning.encode()),
        )
        for option in applied
        if option.code not in said
    )
    return Element(METHOD_CODES, "SQ", items=(*items, *new))
