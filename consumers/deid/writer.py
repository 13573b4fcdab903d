"""Write a tree of elements in its transfer syntax: values as they are, sequences of defined length.

Values are in the byte order of the syntax already. Group lengths are never written.
"""

import struct
import zlib
from collections.abc import Iterable
from typing import Final

from consumers.deid.elements import LONG_VRS, SHORT_VRS, TEXT_VRS, UNDEFINED, Bytes, Dataset, Element
from consumers.deid.syntaxes import Syntax
from schemas.errors import Quarantine

MAX_SHORT: Final = 0xFFFF
_SPACE_PADDED: Final = TEXT_VRS - {"UI"}


def dataset_bytes(dataset: Dataset, syntax: Syntax) -> bytes:
    """Return the encoded dataset, deflated where the syntax says so."""
    body = b"".join(_parts(dataset, syntax))
    return deflated(body) if syntax.deflated else body


def deflated(body: bytes) -> bytes:
    """Return an encoded dataset in the deflated syntax: raw, padded to an even number of bytes."""
    worker = zlib.compressobj(level=6, wbits=-zlib.MAX_WBITS)
    packed = worker.compress(body) + worker.flush()
    return packed + b"\x00" * (len(packed) % 2)


def element_bytes(element: Element, syntax: Syntax) -> tuple[bytes, Bytes]:
    """Return header and value of one element."""
    if element.items is not None:
        body = b"".join(_item(item, syntax) for item in element.items)
        return (sequence_header(element.tag, len(body), syntax), body)
    if element.fragments is not None:
        return (_header(element.tag, element.vr, UNDEFINED, syntax), element.value)
    value = element.value
    if len(value) % 2:
        value = bytes(value) + (b" " if element.vr in _SPACE_PADDED else b"\x00")
    return (_header(element.tag, element.vr, len(value), syntax), value)


def sequence_header(tag: int, length: int, syntax: Syntax) -> bytes:
    """Return the header of a sequence whose items have so many bytes."""
    return _header(tag, "SQ", length, syntax)


def item_header(length: int, syntax: Syntax) -> bytes:
    """Return the header of an item of so many bytes."""
    return struct.pack(">HHL" if syntax.big else "<HHL", 0xFFFE, 0xE000, length)


def _parts(dataset: Dataset, syntax: Syntax) -> Iterable[Bytes]:
    for element in dataset:
        yield from element_bytes(element, syntax)


def _item(item: Dataset, syntax: Syntax) -> bytes:
    body = b"".join(_parts(item, syntax))
    return item_header(len(body), syntax) + body


def _header(tag: int, vr: str, length: int, syntax: Syntax) -> bytes:
    order = ">" if syntax.big else "<"
    if not syntax.explicit:
        return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, length)
    if vr in SHORT_VRS:
        if length > MAX_SHORT:
            raise Quarantine("deid_failed", f"{length} bytes do not fit VR {vr}")
        return struct.pack(order + "HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), length)
    code = vr if vr in LONG_VRS else "UN"
    return struct.pack(order + "HH2sHL", tag >> 16, tag & 0xFFFF, code.encode(), 0, length)
