"""Planted identifiers, and a search of bytes for them in every form in which a leak would show.

1. `identifiers` reads what identifies out of a dataset as sent; it knows no rule of the de-identification.
2. A value counts by its tokens, at least 4 letters or 5 digits, on boundaries; a shorter one only as a whole
   value of an element, a JSON string or a table's cell.
3. `Search` looks for all of them at once: plain, as UTF-16, as base64 in each of its three phases, dates also
   reversed and in other orders. Case counts in base64 alone.

4. Digits inside a digest (16 or more hexadecimal letters in a row, with a letter among them, dashes of a UUID
   allowed) do not count: eight of them occur there by chance, once in some hundred million digests.

In opaque bytes (pixels, what is encrypted) forms under 7 bytes are left out: 4 letters occur there by chance,
once in some hundred megabytes for each of them.
"""

import base64
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID_dictionary

#: attributes that identify, beside every person's name, date, UID and private value
IDENTIFYING: Final = (
    "AccessionNumber", "AdmissionID", "DetectorID", "DeviceSerialNumber", "InstitutionAddress", "InstitutionName",
    "InstitutionalDepartmentName", "IssuerOfPatientID", "MedicalRecordLocator", "OtherPatientIDs", "PatientAddress",
    "PatientAge", "PatientID", "PatientTelephoneNumbers", "PerformedProcedureStepID", "PersonTelephoneNumbers",
    "ReferringPhysicianAddress", "ReferringPhysicianTelephoneNumbers", "RequestedProcedureID",
    "ScheduledProcedureStepID", "StationName", "StudyID",
)  # fmt: skip
#: attributes whose whole text was planted, and whose words are ordinary ones
DESCRIPTIONS: Final = (
    "AdditionalPatientHistory", "AdmittingDiagnosesDescription", "ImageComments", "PatientComments", "ProtocolName",
    "ReasonForStudy", "ScheduledProcedureStepDescription", "SeriesDescription", "StudyDescription",
)  # fmt: skip
_TIMES: Final = ("TM", "DT")
_TEXT: Final = ("AE", "AS", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UN", "UR", "UT")
_TOKEN: Final = re.compile(r"[^\W\d_]{4,}|\d{5,}")
_SEPARATORS: Final = re.compile(r"[\^=\\]")
_PRINTABLE: Final = re.compile(rb"[ -~]{5,}")
#: shortest form that is looked for in opaque bytes, and shortest text as base64: less occurs by chance
OPAQUE_BYTES: Final = 7
_BASE64_LETTERS: Final = 6
_HEX: Final = re.compile(rb"[0-9a-fA-F-]+")
_DIGEST: Final = 128
_DIGEST_LETTERS: Final = 16
_CHUNK: Final = 1 << 20
#: A table of a megabyte stays in a core's cache; three places in a thousand are looked at twice.
_HASH_BITS: Final = 20


def identifiers(dataset: Dataset) -> set[str]:
    """Collect the values that identify, as they stand in a dataset as sent, at every level."""
    found: set[str] = set()
    for element in dataset.iterall():
        if element.VR == "SQ" or element.keyword == "PixelData" or element.value in (None, "", b""):
            continue
        texts = [text.strip() for value in _values(element) for text in _SEPARATORS.split(value)]
        if element.tag.is_private:
            found.update(texts if element.tag.is_private_creator else _private(element))
        elif element.VR == "UI":
            found.update(uid for uid in texts if uid not in UID_dictionary)
        elif element.VR in ("PN", "DA") or element.keyword in IDENTIFYING:
            found.update(texts)
            found.update(token for text in texts for token in _TOKEN.findall(text))
        elif element.VR in _TIMES or element.keyword in DESCRIPTIONS:
            found.update(texts)
    return found - {""}


def _values(element: Any) -> Iterator[str]:
    many = element.value if element.VM > 1 else [element.value]
    yield from (str(value) for value in many)


def _private(element: Any) -> Iterator[str]:
    """The whole texts of a private value, and their tokens where it is text by its VR."""
    data = element.value if isinstance(element.value, bytes) else str(element.value).encode()
    for run in _PRINTABLE.findall(data) if element.VR in _TEXT else ():
        text = run.decode().strip()
        yield text
        yield from _TOKEN.findall(text) if element.VR != "UN" else ()


class Form(NamedTuple):
    """One way a needle may look: `edge` is the class of bytes that may not stand beside it."""

    data: bytes
    exact: bool
    edge: bytes
    needle: str
    name: str


class Hit(NamedTuple):
    """A needle that was found, in which form."""

    needle: str
    form: str


class Search:
    """All needles at once: four bytes of each form in a table, the rest compared where they occur."""

    def __init__(self, needles: Iterable[str]) -> None:
        self.needles = frozenset(needles)
        long = [needle for needle in self.needles if _is_long(needle)]
        self.whole = frozenset(n.casefold() for n in self.needles if not _is_long(n))
        self._forms = [form for needle in long for form in forms(needle)]
        self._longest = max((len(form.data) for form in self._forms), default=0)
        self._all = _table(self._forms)
        self._opaque = _table([form for form in self._forms if len(form.data) >= OPAQUE_BYTES])

    def __call__(self, data: bytes, *, opaque: bool = False) -> set[Hit]:
        """Return what is found in these bytes."""
        present, by_start = self._opaque if opaque else self._all
        found: set[Hit] = set()
        for begin in range(0, len(data), _CHUNK):
            part = data[max(0, begin - 1) : begin + _CHUNK + self._longest]
            lower = part.lower()
            for at in _candidates(lower, present):
                for form in by_start.get(lower[at : at + 4], ()):
                    if _is_at(form, part if form.exact else lower, at):
                        found.add(Hit(form.needle, form.name))
        return found

    def in_values(self, values: Iterable[str]) -> set[Hit]:
        """Return which short needles are among these whole values."""
        parts = {part.strip() for value in values for part in (value, *_SEPARATORS.split(value))}
        return {Hit(part, "whole") for part in parts if part.casefold() in self.whole}


def forms(needle: str) -> Iterator[Form]:
    """Yield the forms of one needle."""
    edge = b"0123456789" if needle.isdigit() else b"abcdefghijklmnopqrstuvwxyz" if needle.isalpha() else b""
    low = "".join(
        letter.lower() if letter.isascii() else letter for letter in needle
    )  # as bytes.lower() does
    yield Form(low.encode(), False, edge, needle, "plain")
    if not needle.isascii():
        yield Form(low.encode("latin-1", "replace"), False, edge, needle, "latin-1")
    yield Form(low.encode("utf-16-le"), False, b"", needle, "utf-16-le")
    yield Form(low.encode("utf-16-be"), False, b"", needle, "utf-16-be")
    if re.fullmatch(r"(19|20)\d{6}", needle):
        year, month, day = needle[:4], needle[4:6], needle[6:]
        for text in (needle[::-1], f"{year}-{month}-{day}", f"{day}.{month}.{year}", f"{month}/{day}/{year}",
                     day + month + year):  # fmt: skip
            yield Form(text.encode(), False, b"0123456789", needle, f"date as {text}")
    if len(needle) >= _BASE64_LETTERS:
        for text in {needle, needle.lower(), needle.upper()}:
            for phase in range(3):
                yield Form(_base64(text.encode(), phase), True, b"", needle, f"base64, phase {phase}")


def _base64(data: bytes, phase: int) -> bytes:
    """The characters of base64 that do not depend on what stands before and behind."""
    first = -(-8 * phase // 6)
    return base64.b64encode(bytes(phase) + data)[first : 8 * (phase + len(data)) // 6]


def _is_long(needle: str) -> bool:
    return len(needle) >= OPAQUE_BYTES or _TOKEN.fullmatch(needle) is not None


_Table = tuple[Any, dict[bytes, list[Form]]]


def _table(some: Iterable[Form]) -> _Table:
    by_start: dict[bytes, list[Form]] = defaultdict(list)
    present = np.zeros(1 << _HASH_BITS, bool)
    for form in some:
        start = form.data[:4].lower()
        by_start[start].append(form)
        present[_hash(np.frombuffer(start, "<u4"))] = True
    return present, by_start


def _hash(words: Any) -> Any:
    """A number below 2 ** _HASH_BITS for every four bytes."""
    return words * np.uint32(2654435761) >> np.uint32(32 - _HASH_BITS)


def _candidates(data: bytes, present: Any) -> Iterator[int]:
    for phase in range(max(0, min(4, len(data) - 3))):  # four bytes at a time, from each of four beginnings
        words = np.frombuffer(data, "<u4", (len(data) - phase) // 4, phase)
        for at in np.flatnonzero(present[_hash(words)]).tolist():
            yield 4 * at + phase


def _is_at(form: Form, data: bytes, at: int) -> bool:
    end = at + len(form.data)
    if data[at:end] != form.data:
        return False
    beside = data[max(0, at - 1) : at] + data[end : end + 1]
    return not any(byte in form.edge for byte in beside) and not (
        form.data.isdigit() and _is_in_digest(data, at, end)
    )


def _is_in_digest(data: bytes, begin: int, end: int) -> bool:
    """Whether these bytes stand in a long word of hexadecimal letters; nothing longer than a digest is looked at."""
    before = _HEX.match(data[max(0, begin - _DIGEST) : begin][::-1])
    behind = _HEX.match(data[end : end + _DIGEST])
    around = (before[0] if before else b"") + (behind[0] if behind else b"")
    return len(around) + end - begin >= _DIGEST_LETTERS and not around.replace(b"-", b"").isdigit()
