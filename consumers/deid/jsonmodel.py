"""Elements as the DICOM JSON model (PS3.18 F.2): Unicode text, numbers, no bulk data.

What cannot be said validly (a DS that is no number, text in an undeclared character set) is given as text
or with replacement characters: this is a reading, never what is written back.
"""

import logging
import struct
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import isfinite
from typing import Any, Final

import msgspec
from pydicom.charset import convert_encodings, decode_bytes

from consumers.deid.elements import TEXT_VRS, Bytes, Dataset, Element, dictionary_vr
from consumers.deid.model import DicomJson

MAX_VALUE: Final = 1024  # bytes; longer values are not what anybody queries by

_encode = msgspec.json.Encoder().encode
DEFAULT_ENCODINGS: Final = ("iso8859",)
_FORMATS: Final = {
    (vr, big): struct.Struct((">" if big else "<") + form)
    for vr, form in zip(
        ["AT", "US", "SS", "UL", "SL", "UV", "SV", "FL", "FD"],
        ["HH", "H", "h", "L", "l", "Q", "q", "f", "d"],
        strict=True,
    )
    for big in (False, True)
}
_DECODED: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_SINGLE: Final = frozenset({"LT", "ST", "UT", "UR"})
_DELIMITERS: Final = {ord(c) for c in "\r\n\t\f\\^="}
_PN_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")


def encodings_of(dataset: Dataset, inherited: tuple[str, ...] = DEFAULT_ENCODINGS) -> tuple[str, ...]:
    """Return the Python codecs for (0008,0005) of this dataset, or the inherited ones."""
    for element in dataset:
        if element.tag == 0x00080005:
            terms = [t.strip() for t in plain_text(element.value).split("\\")]
            try:
                with _quiet():
                    return tuple(convert_encodings(terms))
            except (LookupError, ValueError):  # unknown; or not even a name
                return inherited
    return inherited


def plain_text(value: Bytes) -> str:
    """Return bytes as text of the default repertoire, without pad."""
    return bytes(value).decode("latin-1").rstrip("\x00 ")


def text_of(element: Element, encodings: tuple[str, ...], vr: str = "") -> str:
    """Return the value of a text element, decoded, without pad; `vr` where its own is not to be believed."""
    value = bytes(element.value)
    decoded = _decoded_lately if len(value) <= MAX_VALUE else _decoded
    return decoded(value, encodings if (vr or element.vr) in _DECODED else None)


def _decoded(value: bytes, encodings: tuple[str, ...] | None) -> str:
    if encodings is None:
        return plain_text(value)
    raw = value.rstrip(b"\x00 ")
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode()
    with _quiet():
        text: str = decode_bytes(raw, list(encodings), _DELIMITERS)
        return text


_decoded_lately = lru_cache(maxsize=16)(_decoded)  # who judges an element asks for its text several times


@contextmanager
def _quiet() -> Iterator[None]:
    # pydicom's warnings and log lines quote values of the dataset: none may reach a log.
    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def json_of(
    dataset: Dataset,
    *,
    big: bool,
    signed: bool = False,
    limit: int = MAX_VALUE,
    encodings: tuple[str, ...] = DEFAULT_ENCODINGS,
) -> DicomJson:
    """Return a dataset as DICOM JSON, without bulk data and without values over `limit` bytes."""
    encodings = encodings_of(dataset, encodings)
    out: DicomJson = {}
    for element in dataset:
        entry = entry_of(element, big=big, signed=signed, limit=limit, encodings=encodings)
        if entry is not None:
            out[f"{element.tag:08X}"] = entry
    return out


def entry_of(
    element: Element, *, big: bool, signed: bool = False, limit: int = MAX_VALUE, encodings: tuple[str, ...]
) -> dict[str, Any] | None:
    """Return the member of one element; None for bulk data and values over `limit` bytes."""
    vr = element.vr
    if element.items is not None:
        items = [
            json_of(item, big=big, signed=signed, limit=limit, encodings=encodings) for item in element.items
        ]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    if len(element.value) > limit or element.fragments is not None:
        return None
    if signed and vr == "US" and dictionary_vr(element.tag) == "US" and element.tag in _US_OR_SS:
        vr = "SS"
    values = _values(element, vr, big=big, encodings=encodings)
    if values is None:
        return None
    return {"vr": vr, "Value": values} if values else {"vr": vr}


#: attributes whose VR depends on PixelRepresentation, as far as an implicit dataset leaves it open
_US_OR_SS: Final = frozenset(
    {0x00280106, 0x00280107, 0x00280108, 0x00280109, 0x00280110, 0x00280111, 0x00280120, 0x00280121}
)


def _values(element: Element, vr: str, *, big: bool, encodings: tuple[str, ...]) -> list[Any] | None:
    if vr in TEXT_VRS:
        text = text_of(element, encodings, vr)
        if not text:
            return []
        parts = [text] if vr in _SINGLE else [part.strip(" ") for part in text.split("\\")]
        if vr == "PN":
            return [dict(zip(_PN_GROUPS, part.split("="), strict=False)) for part in parts]
        convert = {"IS": _integer, "DS": _decimal}.get(vr)
        return [convert(part) for part in parts] if convert else [part or None for part in parts]
    form = _FORMATS.get((vr, big))
    if form is None:
        return None  # OB, OW, UN and their like: bulk
    whole = len(element.value) // form.size * form.size
    numbers = form.iter_unpack(element.value[:whole])
    return [f"{n[0]:04X}{n[1]:04X}" for n in numbers] if vr == "AT" else [n for (n,) in numbers]


def member_of(tag: int, entry: dict[str, Any]) -> bytes:
    """Return an entry as a member of a JSON object, encoded."""
    return b'"%08X":%b' % (tag, _encode(entry))


def values_of(member: bytes) -> list[Any]:
    """Return the values of an encoded member; none of an empty one."""
    if not member:
        return []
    (entry,) = msgspec.json.decode(b"{%b}" % member).values()
    return entry.get("Value", [])  # type: ignore[no-any-return]


def object_of(members: Iterable[bytes]) -> bytes:
    """Return a JSON object of encoded members; empty ones are none."""
    return b"{" + b",".join(filter(None, members)) + b"}"


def _integer(text: str) -> int | str | None:
    try:
        return int(text)
    except ValueError:
        return text or None


def _decimal(text: str) -> float | str | None:
    try:
        number = float(text)
    except ValueError:
        return text or None
    return number if isfinite(number) else text  # JSON has no NaN
