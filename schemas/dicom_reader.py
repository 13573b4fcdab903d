"""Read the few UIDs that decide where an instance goes, from its first kilobytes, without a DICOM library.

1. `scan` walks the top level of a dataset, in any transfer syntax, up to Series Instance UID and no further.
2. `read_file_header` finds where the dataset of a file begins and how it is encoded, with or without
   preamble and file meta.

Sequences are stepped over without recursion, deflated data is inflated to a bound. Nothing raises on
garbage but `DicomReadError`, and only `read_file_header` does: a scan returns what it found before the limit.
It does not judge the rest of the dataset: that is de-identification's work.
"""

import re
import struct
import zlib
from typing import Final, NamedTuple

from schemas.errors import ProdromeError
from schemas.ids import UID, valid_uid

IMPLICIT_LE: Final = "1.2.840.10008.1.2"
EXPLICIT_LE: Final = "1.2.840.10008.1.2.1"
EXPLICIT_BE: Final = "1.2.840.10008.1.2.2"
DEFLATED_LE: Final = "1.2.840.10008.1.2.1.99"
#: Transfer syntaxes whose whole dataset is one raw deflate stream: deflated, and the two JPIP deflates.
DEFLATED: Final = frozenset({DEFLATED_LE, "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})

#: Enough for the groups before 0020 of every file in the shared data, private ones included.
SCAN_BYTES: Final = 256 << 10
#: Enough for nearly every image: a scan of so few costs a tenth, and says by `Found.whole` whether it was.
FIRST_BYTES: Final = 8 << 10
#: A dataset of zeros or of empty elements ends the scan here: about 5 ms.
SCAN_ELEMENTS: Final = 8192
#: A file meta group is a few hundred bytes; private information in it may be longer.
META_BYTES: Final = 64 << 10

_WANTED: Final = {
    (0x0008, 0x0016): "sop_class_uid",
    (0x0008, 0x0018): "sop_instance_uid",
    (0x0020, 0x000D): "study_instance_uid",
    (0x0020, 0x000E): "series_instance_uid",
}
_NUMBERS: Final = frozenset(number for _, number in _WANTED)
_LAST: Final = max(_WANTED)
_LONG_VR: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_SHORT_VR: Final = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL"}
    | {b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}
)
#: Bytes of an element before its value.
_HEAD_BYTES: Final = dict.fromkeys(_SHORT_VR, 8) | dict.fromkeys(_LONG_VR, 12)
_VR: Final = re.compile(rb"[A-Z]{2}")
_UID: Final = re.compile(b"(" + UID.encode() + rb")[\0 ]*")
#: By byte order: group, element, VR, 16-bit and 32-bit length of an explicit head; the length of an implicit one.
_HEADS: Final = {
    big: (struct.Struct(order + "HH2sHI").unpack_from, struct.Struct(order + "I").unpack_from)
    for big, order in ((False, "<"), (True, ">"))
}
_PADDING: Final = bytes(12)
_UNDEFINED: Final = 0xFFFFFFFF
_DELIMITERS: Final = frozenset({0xE00D, 0xE0DD})
#: Groups that a dataset without file meta may begin with.
_FIRST_GROUPS: Final = frozenset({0x0002, 0x0004, 0x0008, 0x0010, 0x0018, 0x0020, 0x0028})


class DicomReadError(ProdromeError):
    """These bytes do not begin like DICOM."""


class Found(NamedTuple):
    """What a scan found; None where absent, out of reach or not a UID.

    `invalid` names the fields that were present but hold what a UID may not hold; `whole` says that the end of
    what is looked for was reached, so that more bytes would change nothing.
    """

    sop_class_uid: str | None = None
    sop_instance_uid: str | None = None
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    invalid: tuple[str, ...] = ()
    whole: bool = False


class FileHeader(NamedTuple):
    """Where a file's dataset begins and what its file meta says; None where it says nothing."""

    dataset_offset: int
    transfer_syntax_uid: str
    sop_class_uid: str | None = None
    sop_instance_uid: str | None = None


class Element(NamedTuple):
    """The head of an element: its value begins at `value`; `length` may be undefined (0xFFFFFFFF)."""

    tag: int
    vr: bytes
    value: int
    length: int


def scan(data: bytes | memoryview, transfer_syntax_uid: str, limit: int = SCAN_BYTES) -> Found:
    """Return the UIDs of a dataset from its first bytes.

    Parameters
    ----------
    data : bytes-like
        The dataset from its first byte; the end may be missing.
    transfer_syntax_uid : str
        Its encoding; every encapsulated syntax is explicit little endian.
    limit : int
        Bytes to look at (after inflating).
    """
    head = data[:limit] if isinstance(data, bytes) else bytes(data[:limit])
    if transfer_syntax_uid in DEFLATED:
        head = _inflate(head, limit)
    # Some datasets are explicit where implicit was declared, or the reverse: the first element tells.
    implicit = not _VR.fullmatch(head[4:6]) if len(head) >= 8 else transfer_syntax_uid == IMPLICIT_LE
    return _collect(head, implicit, transfer_syntax_uid == EXPLICIT_BE)


def read_file_header(data: bytes) -> FileHeader:
    """Return where the dataset of a DICOM file begins, from the file's first `META_BYTES`.

    Raises
    ------
    DicomReadError
        The bytes begin neither with a preamble, nor with file meta, nor with a dataset.
    """
    meta, offset = _read_meta(data, _after_prefix(data))
    syntax = meta.get(0x00020010) or _guess_syntax(data, offset)
    return FileHeader(offset, syntax, meta.get(0x00020002), meta.get(0x00020003))


def _after_prefix(data: bytes) -> int:
    # "DICM" may be text inside a dataset that has no preamble: a group must follow it.
    for start in (132, 4):
        if data[start - 4 : start] == b"DICM" and int.from_bytes(data[start : start + 2], "little") <= 0x0008:
            return start
    return 0


def _inflate(data: bytes, limit: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, limit)
    except zlib.error:
        return b""


def _collect(data: bytes, implicit: bool, big: bool) -> Found:
    # One loop without an object an element, what is common first: this runs before each answer of the receiver.
    found: dict[str, str] = {}
    invalid: list[str] = []
    whole = False
    size, at = len(data), 0
    data += _PADDING  # every head can be read as the longest one
    head, length_of = _HEADS[big]
    above: list[bool] = []  # of each level above: was its encoding implicit?
    for _ in range(SCAN_ELEMENTS):
        if at + 8 > size:
            break
        group, number, vr, length, long = head(data, at)
        value = at + 8
        if implicit or group == 0xFFFE:
            (length,) = length_of(data, at + 4)
            vr = b""
        elif (width := _HEAD_BYTES.get(vr, 0)) == 12:
            value, length = at + 12, long
            if value > size:
                break
        elif not width and not _VR.fullmatch(vr):
            break
        if not above:
            if group >= 0x0020 and (group, number) > _LAST:
                whole = group != 0xFFFE
                break
            if number in _NUMBERS and (group, number) in _WANTED and length <= size - value:
                _keep(_WANTED[group, number], data[value : value + length], found, invalid)
        if group == 0xFFFE and number in _DELIMITERS:
            if not above:
                break
            implicit = above.pop()
            at = value
        elif length == _UNDEFINED:
            # The content of a UN element of undefined length is implicit little endian (PS3.5 6.2.2 note 2).
            above.append(implicit)
            implicit = implicit or vr == b"UN"
            at = value
        else:
            at = value + length
    return Found(**found, invalid=tuple(invalid), whole=whole)


def _keep(name: str, value: bytes, found: dict[str, str], invalid: list[str]) -> None:
    if uid := _UID.fullmatch(value):
        found[name] = uid[1].decode("ascii")
    elif value.rstrip(b"\0 "):
        invalid.append(name)


def _read_element(data: bytes, at: int, implicit: bool, big: bool) -> Element | None:
    order = ">" if big else "<"
    if at + 8 > len(data):
        return None
    group, number = struct.unpack_from(order + "HH", data, at)
    tag, vr = group << 16 | number, data[at + 4 : at + 6]
    if implicit or group == 0xFFFE:
        return Element(tag, b"", at + 8, struct.unpack_from(order + "I", data, at + 4)[0])
    if vr in _LONG_VR:
        if at + 12 > len(data):
            return None
        return Element(tag, vr, at + 12, struct.unpack_from(order + "I", data, at + 8)[0])
    if not _VR.fullmatch(vr):
        return None
    return Element(tag, vr, at + 8, struct.unpack_from(order + "H", data, at + 6)[0])


def _read_meta(data: bytes, start: int) -> tuple[dict[int, str], int]:
    # The group ends where another begins: (0002,0000) is wrong in enough files not to be trusted.
    meta: dict[int, str] = {}
    at = start
    while True:
        implicit = not _VR.fullmatch(data[at + 4 : at + 6])
        element = _read_element(data, at, implicit, big=False)
        if element is None or element.tag >> 16 != 0x0002 or element.length > META_BYTES:
            return meta, at
        text = data[element.value : element.value + element.length].rstrip(b"\0 ").decode("latin-1")
        if valid_uid(text):
            meta[element.tag] = text
        at = element.value + element.length


def _guess_syntax(data: bytes, at: int) -> str:
    # Without file meta the first element says it: a small group number in one byte order, a VR or none.
    if len(data) < at + 8:
        raise DicomReadError("expected a DICOM file; came neither preamble, file meta nor a dataset")
    little, big = (struct.unpack_from(order + "H", data, at)[0] for order in "<>")
    explicit = _VR.fullmatch(data[at + 4 : at + 6])
    if little in _FIRST_GROUPS:
        return EXPLICIT_LE if explicit else IMPLICIT_LE
    if big in _FIRST_GROUPS and explicit:
        return EXPLICIT_BE
    raise DicomReadError("expected a DICOM file; came neither preamble, file meta nor a dataset")
