"""Search the cleaned dataset for what identified the patient: a hit means a rule did not reach it.

1. `identifiers_of` collects from the dataset as received, at every level: person names, patient and visit
   numbers, accession, address, telephone, birth date, and the UIDs that were replaced.
2. Their tokens, at least 4 letters or 5 digits, are looked for on word boundaries in the text of the cleaned
   dataset, in its small binary values and in the comment segments of its codestreams. Shorter identifiers
   count only as a whole value. UIDs count only whole.

3. The bytes that would be written, pixels left out, are searched once more without regard to elements: for the
   UIDs as they were, and for tokens in wide characters and in base64, in lower, upper and title case.

Coded strings (CS) are not searched, and numbers only for letters: they come from the device's closed lists, and a patient
called AXIAL is more likely than a leak in them. For the same reason a patient called Philips is not looked
for by letters in what names the maker. Words that name nobody (`NOBODY`) are no tokens.
"""

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from consumers.deid.codestream import comments
from consumers.deid.elements import Bytes, Element
from consumers.deid.jsonmodel import text_of
from consumers.deid.pseudonyms import PLACEHOLDERS
from consumers.deid.uids import WELL_KNOWN
from schemas.errors import Quarantine

#: attributes that identify by their tokens, beside every PN
IDENTIFYING: Final = frozenset(
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
#: the UIDs of the instance itself
UIDS: Final = frozenset({0x00080018, 0x0020000D, 0x0020000E, 0x00200052})
_TEXT: Final = frozenset({"AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_NUMBERS: Final = frozenset({"AS", "DS", "IS", "TM"})
_DATES: Final = frozenset({"DA", "DT"})
_BINARY: Final = frozenset({"OB", "UN"})
_BINARY_LIMIT: Final = 1 << 20
_LONG_ENOUGH: Final = 5  # letters behind the kind: shorter ones stand in base64 by chance
_HEAD: Final = 4  # bytes; the shortest form, that of five letters in base64, has six
_AT_ONCE: Final = 1 << 18  # places: some megabytes while they are looked at
_LONG_UID: Final = 12
_TOKEN: Final = re.compile(r"[^\W\d_]{4,}|\d{5,}")
_LETTERS: Final = re.compile(r"[^\W\d_]{4,}")
_SEPARATORS: Final = re.compile(r"[\^=\\]")
#: kinds of words: a UID, a whole value, a token of one
_UID, _WHOLE, _WORD = "U", "W", "T"


#: tag and VR of an element
Where = tuple[int, str]


class Searched(Protocol):
    """What is searched: `traces` (the words of an element and where they stand), `text`; `members` of a run."""

    @property
    def element(self) -> Element: ...

    @property
    def traces(self) -> Mapping[str, Where]: ...

    @property
    def text(self) -> str: ...

    @property
    def members(self) -> Mapping[int, "Searched"]: ...


def names_in(element: Element, encodings: tuple[str, ...]) -> frozenset[str]:
    """Return what identifies in an element as received: words that must not be found, each behind its kind."""
    if element.tag in UIDS:
        uids = text_of(element, encodings).split("\\")
        return frozenset(_UID + uid for uid in uids if uid and uid not in WELL_KNOWN)
    if element.vr != "PN" and element.tag not in IDENTIFYING:
        return frozenset()
    text = text_of(element, encodings).casefold()
    whole = {part.strip() for part in text.split("\\")} - NOBODY - {""}
    tokens = set(_TOKEN.findall(text)) - NOBODY
    return frozenset({_WHOLE + part for part in whole} | {_WORD + token for token in tokens})


def traces_of(element: Element, encodings: tuple[str, ...]) -> tuple[Mapping[str, Where], str]:
    """Return the words of a clean element that `names_in` might name, and the text in which UIDs might stand."""
    words, text = _words(element, encodings)
    where = (element.tag, element.vr)
    return dict.fromkeys(words, where), text


def check_residual(clean: Iterable[Searched], names: frozenset[str]) -> None:
    """Raise `Quarantine` if an identifier is still in the cleaned dataset.

    Parameters
    ----------
    clean : iterable of Searched
        The dataset that would be passed on.
    names : frozenset of str
        Of the dataset as received, from `names_in`.
    """
    for one in clean:
        if one.traces and not one.traces.keys().isdisjoint(names):
            raise _found(next(where for word, where in one.traces.items() if word in names))
    uids = [name[1:] for name in names if name[0] == _UID]
    text = "\n".join([one.text for one in clean if one.text])
    if any(map(text.__contains__, uids)):
        each = (member for one in clean for member in (one.members.values() or (one,)))
        hit = next(one.element for one in each if any(uid in one.text for uid in uids))
        raise _found((hit.tag, hit.vr))


def check_output(steady: Iterable[bytes], other: Iterable[Bytes], names: frozenset[str]) -> None:
    """Raise `Quarantine` if an identifier stands in the bytes that would be written, in a form no text would show.

    Parameters
    ----------
    steady : iterable of bytes
        What would be written and is the same in many instances: searched once for each patient's words.
    other : iterable of bytes
        The rest, without pixels.
    names : frozenset of str
        As for `check_residual`.
    """
    parts, data = list(steady), b"".join(other)
    uids = [name[1:].encode() for name in names if name[0] == _UID and len(name) > _LONG_UID]
    if any(any(map(part.__contains__, uids)) for part in (*parts, data)):
        raise Quarantine("residual_identifier", "a UID as it was, in the bytes of the clean dataset")
    words = frozenset([name for name in names if name[0] != _UID])
    disguises = _disguises(words)
    if _is_disguised(data, disguises) or any(_is_disguised_in_steady(part, disguises) for part in parts):
        raise Quarantine(
            "residual_identifier", "in wide characters or base64, in the bytes of the clean dataset"
        )


class _Disguises(msgspec.Struct, frozen=True, eq=False):
    """In which forms words may hide, and how each begins: its first four bytes, and of each first two whether any has
    them. Compared by identity, which is what is cheap."""

    forms: tuple[bytes, ...]
    heads: frozenset[int]
    begins: NDArray[np.bool_]


@lru_cache(maxsize=64)  # the instances of a study have the same
def _disguises(words: frozenset[str]) -> _Disguises:
    tokens = {word[1:] for word in words if len(word) > _LONG_ENOUGH}
    cases = {form for token in tokens for form in (token, token.upper(), token.title())}
    # A token in either byte order, of ASCII at least, holds its letters with zeros between them.
    wide = {case.encode("utf-16-le").rstrip(b"\x00") for case in cases}
    wide |= {case.encode("utf-16-be") for case in cases if not case.isascii()}
    forms = wide | {form for case in cases for form in _base64(case.encode())}
    heads = frozenset(int.from_bytes(form[:_HEAD], "little") for form in forms)
    begins = np.zeros(1 << 16, np.bool_)
    begins[[head & 0xFFFF for head in heads]] = True
    return _Disguises(tuple(forms), heads, begins)


def _is_disguised(data: bytes, disguises: _Disguises) -> bool:
    """Tell whether any form stands in the data: one look at each place instead of hundreds of searches."""
    places = len(data) - _HEAD + 1
    for start in range(0, places, _AT_ONCE):
        count = min(_AT_ONCE, places - start)
        here: NDArray[np.uint32] = np.ndarray(
            (count,), "<u4", data, start, strides=(1,)
        )  # four bytes a place
        begun = here[disguises.begins[here.astype(np.uint16)]].tolist()
        if not disguises.heads.isdisjoint(begun):
            return any(map(data.__contains__, disguises.forms))
    return False


_is_disguised_in_steady = lru_cache(maxsize=512)(_is_disguised)  # some 10 kB each


def _base64(value: bytes) -> Iterator[bytes]:
    # What stands before it moves it by 0 to 2 bytes; the letters at both ends depend on the neighbours.
    for phase in range(3):
        whole = base64.b64encode(bytes(phase) + value)
        yield whole[-(-8 * phase // 6) : 8 * (phase + len(value)) // 6]


def _found(where: Where) -> Quarantine:
    tag, vr = where
    return Quarantine("residual_identifier", f"in ({tag >> 16:04X},{tag & 0xFFFF:04X}), VR {vr}")


def _words(element: Element, encodings: tuple[str, ...]) -> tuple[Iterable[str], str]:
    vr = element.vr
    if vr == "UI":
        return (_UID + uid for uid in text_of(element, encodings).split("\\")), ""
    if vr in _TEXT:
        text = text_of(element, encodings).casefold()
        tokens = _TOKEN.findall(text)
        if element.tag in _MAKER:
            tokens = [token for token in tokens if token.isdecimal()]
        whole = (part.strip() for part in (text, *_SEPARATORS.split(text)))
        return (*(_WORD + token for token in tokens), *(_WHOLE + part for part in whole)), text
    if vr in _NUMBERS:
        return (_WORD + token for token in _LETTERS.findall(text_of(element, encodings).casefold())), ""
    if vr in _DATES:
        return (_WORD + token for token in _TOKEN.findall(text_of(element, encodings))), ""
    if element.fragments is not None:
        return (word for comment in comments(element.fragments[1:]) for word in _words_in(comment)), ""
    if vr in _BINARY and len(element.value) <= _BINARY_LIMIT and element.tag >> 16 != 0x7FE0:
        return _words_in(bytes(element.value)), ""
    return (), ""


def _words_in(data: bytes) -> Iterator[str]:
    # Wide characters are seen by leaving out the zero bytes between them.
    for text in (data.decode("latin-1"), data.replace(b"\x00", b"").decode("latin-1")):
        yield from (_WORD + token for token in _TOKEN.findall(text.casefold()))
