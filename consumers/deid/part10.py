"""The file around the dataset: split a received one, build our own.

The preamble is always zero (polyglots, CVE-2019-11687) and the file meta is written anew: nothing of a
received one is kept but the transfer syntax and the SOP class.
"""

import struct
from functools import lru_cache
from typing import Final

from consumers.deid.elements import FORMS, Bytes, Element, read_dataset
from consumers.deid.syntaxes import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, SYNTAXES
from consumers.deid.writer import element_bytes
from schemas.errors import Quarantine

IMPLEMENTATION_CLASS_UID: Final = "2.25.142306933291872938492127483847238174650"
IMPLEMENTATION_VERSION_NAME: Final = "PRODROME_1"
_META_SYNTAX: Final = SYNTAXES[EXPLICIT_LITTLE]
_META: Final = FORMS[True, False]
_GROUP_LENGTH = struct.Struct("<HH2sHL").pack
_PREFIX: Final = b"\x00" * 128 + b"DICM"


def split_part10(file_bytes: bytes) -> tuple[str, str, str, bytes]:
    """Split a file into (transfer syntax UID, SOP class UID, SOP instance UID, dataset bytes); see `read_part10`."""
    syntax, sop_class, instance, start = read_part10(file_bytes)
    return syntax, sop_class, instance, file_bytes[start:]


def read_part10(file_bytes: bytes) -> tuple[str, str, str, int]:
    """Return (transfer syntax UID, SOP class UID, SOP instance UID, where the dataset begins) of a file.

    A file without preamble is read with the meta group in front; one without any file meta has its syntax
    guessed from the first element, and its UIDs read from the dataset.
    """
    start = 132 if file_bytes[128:132] == b"DICM" else 0
    meta, end = _file_meta(file_bytes, start)
    if end == start:
        return *_without_meta(file_bytes[start:]), start
    syntax, sop_class, instance = (_uid(meta.get(number, b"")) for number in (0x0010, 0x0002, 0x0003))
    return syntax, sop_class, instance, end


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Return preamble, prefix and the file meta group of our own."""
    before, behind = _around_instance(sop_class_uid, transfer_syntax_uid)
    instance = _encoded(Element(0x00020003, "UI", sop_instance_uid.encode()))
    length = len(before) + len(instance) + len(behind)
    return b"".join((_PREFIX, _GROUP_LENGTH(2, 0, b"UL", 4, length), before, instance, behind))


@lru_cache(maxsize=256)
def _around_instance(sop_class_uid: str, transfer_syntax_uid: str) -> tuple[bytes, bytes]:
    before = (Element(0x00020001, "OB", b"\x00\x01"), Element(0x00020002, "UI", sop_class_uid.encode()))
    behind = (
        Element(0x00020010, "UI", transfer_syntax_uid.encode()),
        Element(0x00020012, "UI", IMPLEMENTATION_CLASS_UID.encode()),
        Element(0x00020013, "SH", IMPLEMENTATION_VERSION_NAME.encode()),
    )
    return b"".join(map(_encoded, before)), b"".join(map(_encoded, behind))


def _encoded(element: Element) -> bytes:
    return b"".join(element_bytes(element, _META_SYNTAX))


def _file_meta(data: bytes, pos: int) -> tuple[dict[int, bytes], int]:
    """Return the values of group 0002 by element number, and where the dataset begins."""
    values: dict[int, bytes] = {}
    # The declared group length is often wrong in the field; the group number never is.
    while data.startswith(b"\x02\x00", pos) and len(data) - pos >= 12:
        group, number, length = _META.tag_length(data, pos)
        _, length, start = _META.header(data, group << 16 | number, length, pos, len(data))
        pos = start + length
        if pos > len(data):
            raise Quarantine("truncated", f"{length} bytes declared, {len(data) - start} present")
        values[number] = data[start:pos]
    return values, pos


def _without_meta(data: bytes) -> tuple[str, str, str]:
    explicit = data[4:6].isalpha() and data[4:6].isupper()
    big = explicit and data[0] == 0
    syntax = EXPLICIT_BIG if big else EXPLICIT_LITTLE if explicit else IMPLICIT_LITTLE
    found = {e.tag: e.value for e in read_dataset(data, SYNTAXES[syntax])}
    if not found:
        raise Quarantine("unreadable_dataset", "no element found")
    return syntax, _uid(found.get(0x00080016, b"")), _uid(found.get(0x00080018, b""))


def _uid(value: Bytes) -> str:
    return bytes(value).rstrip(b"\x00 ").decode("ascii", "replace")
