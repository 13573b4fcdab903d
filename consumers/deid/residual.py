"""Search the cleaned dataset for what identified the patient: a hit means a rule did not reach it.

1. `identifiers_of` collects from the dataset as received, at every level: person names, patient and visit
   numbers, accession, address, telephone, birth date, and the UIDs that were replaced.
2. Their tokens, at least 4 letters or 5 digits, are looked for on word boundaries in the text of the cleaned
   dataset, in its small binary values and in the comment segments of its codestreams. Shorter identifiers
   count only as a whole value. UIDs count only whole.

Coded strings (CS) are not searched, and numbers only for letters: they come from the device's closed lists, and a patient
called AXIAL is more likely than a leak in them. For the same reason a patient called Philips is not looked
for by letters in what names the maker. Words that name nobody (`NOBODY`) are no tokens.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from consumers.deid.codestream import comments
from consumers.deid.elements import Dataset, Element
from consumers.deid.jsonmodel import encodings_of, text_of
from consumers.deid.pseudonyms import PLACEHOLDERS
from consumers.deid.uids import WELL_KNOWN
from schemas.errors import Quarantine

#: attributes that identify by their tokens, beside every PN
_IDENTIFYING: Final = frozenset(
    {
        0x00080050,  # AccessionNumber
        0x00100020,  # PatientID
        0x00100030,  # PatientBirthDate
        0x00101000,  # OtherPatientIDs
        0x00101040,  # PatientAddress
        0x00101081,  # BranchOfService
        0x00101090,  # MedicalRecordLocator
        0x00102154,  # PatientTelephoneNumbers
        0x00321000,  # ScheduledStudyStartDate
        0x00380010,  # AdmissionID
        0x00380060,  # ServiceEpisodeID
    }
)
#: what names the maker of the device or of a code: letters in it are no hit, numbers are
_MAKER: Final = frozenset(
    {
        0x00080070,  # Manufacturer
        0x00080102,  # CodingSchemeDesignator
        0x00081090,  # ManufacturerModelName
        0x00181020,  # SoftwareVersions
    }
)
#: words of test objects and of what is typed for "none"
NOBODY: Final = PLACEHOLDERS | {
    "case",
    "demo",
    "example",
    "first",
    "last",
    "name",
    "sample",
    "study",
    "subject",
}
_UIDS: Final = frozenset({0x00080018, 0x0020000D, 0x0020000E, 0x00200052})
_TEXT: Final = frozenset({"AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_NUMBERS: Final = frozenset({"AS", "DS", "IS", "TM"})
_DATES: Final = frozenset({"DA", "DT"})
_BINARY: Final = frozenset({"OB", "UN"})
_BINARY_LIMIT: Final = 1 << 20
_TOKEN: Final = re.compile(r"[^\W\d_]{4,}|\d{5,}")
_LETTERS: Final = re.compile(r"[^\W\d_]{4,}")
_SEPARATORS: Final = re.compile(r"[\^=\\]")


@dataclass(frozen=True, slots=True)
class Identifiers:
    """What must not be found: tokens anywhere, short values and UIDs only whole."""

    tokens: frozenset[str]
    whole: frozenset[str]
    uids: frozenset[str]


def identifiers_of(dataset: Dataset) -> Identifiers:
    """Collect the identifiers of a dataset as received."""
    tokens: set[str] = set()
    whole: set[str] = set()
    uids: set[str] = set()
    for element, encodings in _leaves(dataset, encodings_of(dataset)):
        if element.tag in _UIDS:
            uids.update(uid for uid in text_of(element, encodings).split("\\") if uid not in WELL_KNOWN)
        elif element.vr == "PN" or element.tag in _IDENTIFYING:
            text = text_of(element, encodings).casefold()
            tokens.update(_TOKEN.findall(text))
            whole.update(part.strip() for part in text.split("\\"))
    return Identifiers(
        frozenset(tokens - NOBODY), frozenset(whole - NOBODY - {""}), frozenset(filter(None, uids))
    )


def check_residual(clean: Dataset, found: Identifiers, own: str) -> None:
    """Raise `Quarantine` if an identifier is still in the cleaned dataset.

    Parameters
    ----------
    clean : tuple of Element
        The dataset that would be passed on.
    found : Identifiers
        Of the dataset as received.
    own : str
        The patient's pseudonym, which is ours and no hit.
    """
    for element, encodings in _leaves(clean, encodings_of(clean)):
        if any(_hits(element, encodings, found, own)):
            tag = element.tag
            raise Quarantine(
                "residual_identifier", f"in ({tag >> 16:04X},{tag & 0xFFFF:04X}), VR {element.vr}"
            )


def _hits(element: Element, encodings: tuple[str, ...], found: Identifiers, own: str) -> Iterator[bool]:
    if element.vr == "UI":
        yield not found.uids.isdisjoint(text_of(element, encodings).split("\\"))
    elif element.vr in _TEXT:
        text = text_of(element, encodings)
        if text != own:
            yield _in_text(text.casefold(), found, letters=element.tag not in _MAKER)
    elif element.vr in _NUMBERS:
        yield not found.tokens.isdisjoint(_LETTERS.findall(text_of(element, encodings).casefold()))
    elif element.vr in _DATES:
        yield not found.tokens.isdisjoint(_TOKEN.findall(text_of(element, encodings)))
    elif element.fragments is not None:
        yield any(_in_bytes(comment, found) for comment in comments(element.fragments[1:]))
    elif element.vr in _BINARY and len(element.value) <= _BINARY_LIMIT and element.tag >> 16 != 0x7FE0:
        yield _in_bytes(bytes(element.value), found)


def _in_text(text: str, found: Identifiers, *, letters: bool) -> bool:
    if any(token in found.tokens and (letters or token.isdecimal()) for token in _TOKEN.findall(text)):
        return True
    if not found.whole.isdisjoint(part.strip() for part in (text, *_SEPARATORS.split(text))):
        return True
    return any(uid in text for uid in found.uids)


def _in_bytes(data: bytes, found: Identifiers) -> bool:
    # Wide characters are seen by leaving out the zero bytes between them.
    texts = (data.decode("latin-1"), data.replace(b"\x00", b"").decode("latin-1"))
    return any(not found.tokens.isdisjoint(_TOKEN.findall(text.casefold())) for text in texts)


def _leaves(
    dataset: Iterable[Element], encodings: tuple[str, ...]
) -> Iterator[tuple[Element, tuple[str, ...]]]:
    for element in dataset:
        if element.items is None:
            yield element, encodings
            continue
        for item in element.items:
            yield from _leaves(item, encodings_of(item, encodings))
