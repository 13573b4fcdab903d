"""Read a dataset into a tree of elements, once, within bounds; every later step works on this tree.

1. `inflate` undoes the deflated syntax with a bound on size and ratio.
2. `read_dataset` walks the bytes: depth, element count and every declared length are checked on the way.
3. UN elements that the dictionary knows as sequences are read as such (implicit little endian, PS3.5 6.2.2).

Values stay views into the received bytes. Nothing is decoded, judged or repaired here: what does not fit
is a `Quarantine`. One reader for bounds, digest, rules and writer leaves no room for two readings of one byte.
"""

import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import msgspec
from pydicom.datadict import dictionary_VR

from consumers.deid.syntaxes import Syntax
from schemas.errors import Quarantine

MAX_DEPTH: Final = 64  # pydicom itself fails near 200; no IOD nests deeper than about 10
MAX_ELEMENTS: Final = 1_000_000  # a 10,000-frame enhanced object has about 600,000
MAX_IN_ITEM: Final = 65_536  # the dictionary has about 5,300, private blocks some thousands
MAX_INFLATED: Final = 512 * 1024 * 1024
MAX_RATIO: Final = 200

ITEM: Final = 0xFFFEE000
ITEM_END: Final = 0xFFFEE00D
SEQUENCE_END: Final = 0xFFFEE0DD
ITEM_START: Final = b"\xfe\xff\x00\xe0"  # in little endian
UNDEFINED: Final = 0xFFFFFFFF
PIXEL_DATA: Final = 0x7FE00010
PIXEL_TAGS: Final = frozenset({0x7FE00008, 0x7FE00009, PIXEL_DATA})
LONG_VRS: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
SHORT_VRS: Final = frozenset(
    {
        "AE",
        "AS",
        "AT",
        "CS",
        "DA",
        "DS",
        "DT",
        "FD",
        "FL",
        "IS",
        "LO",
        "LT",
        "PN",
        "SH",
        "SL",
        "SS",
        "ST",
        "TM",
        "UI",
        "UL",
        "US",
    }
)
TEXT_VRS: Final = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
)
_VRS: Final = {vr.encode(): vr for vr in LONG_VRS | SHORT_VRS}

Bytes = bytes | memoryview


class Element(msgspec.Struct, frozen=True, gc=False):
    """One data element.

    `vr` is the one on the wire, or the dictionary's where the syntax is implicit ("UN" if unknown).
    A sequence has `items` and no value. Encapsulated pixel data have `fragments` (the first is the offset
    table) and keep the received bytes behind the element header, delimiter included, as `value`.
    """

    tag: int
    vr: str
    value: Bytes = b""
    items: tuple[tuple["Element", ...], ...] | None = None
    fragments: tuple[Bytes, ...] | None = None


Dataset = tuple[Element, ...]


@lru_cache(maxsize=8192)
def dictionary_vr(tag: int) -> str:
    """Return the VR of a standard tag ("UN" if unknown or private); the first of "US or SS" and the like."""
    try:
        vr = str(dictionary_VR(tag)) if not (tag >> 16) & 1 else "UN"
    except KeyError:
        return "UN"
    return "OW" if "OW" in vr else vr[:2]


class Form(msgspec.Struct, frozen=True, eq=False):
    """How elements are encoded: what both readers, `_Reader` and `walk`, know of headers and fragments."""

    explicit: bool
    big: bool
    tag_length: Callable[..., tuple[int, int, int]]
    short: Callable[..., tuple[int]]
    long: Callable[..., tuple[int]]

    @property
    def marks_unknown(self) -> bool:
        """Whether UN stands for what the sender did not know, its items in implicit little endian (PS3.5 6.2.2)."""
        return self.explicit and not self.big

    def header(self, data: Bytes, tag: int, length: int, pos: int, end: int) -> tuple[str, int, int]:
        """Return VR, length and start of the value of the element at `pos`, whose tag and next 32 bits are read."""
        if not self.explicit:
            return dictionary_vr(tag), length, pos + 8
        code = bytes(data[pos + 4 : pos + 6])
        vr = _VRS.get(code, "")
        if not vr:
            if not (code.isalpha() and code.isupper()):
                raise Quarantine("unreadable_dataset", "two letters of a VR were expected")
            vr = code.decode("ascii")
        if vr in SHORT_VRS:
            return vr, self.short(data, pos + 6)[0], pos + 8
        if end - pos < 12:
            raise Quarantine("truncated", "the header of an element is cut")
        return vr, self.long(data, pos + 8)[0], pos + 12

    def item_header(self, data: Bytes, pos: int, end: int) -> tuple[int, int]:
        """Return the tag and length of the item or delimiter at `pos`."""
        if end - pos < 8:
            raise Quarantine("truncated", "an item or delimiter was expected")
        group, number, length = self.tag_length(data, pos)
        return group << 16 | number, length

    def fragments(self, data: memoryview, tag: int, vr: str, pos: int, end: int) -> tuple[Element, int]:
        """Read encapsulated pixel data: the offset table, then the fragments; return them and where they end."""
        found: list[Bytes] = []
        start = pos
        while True:
            mark, length = self.item_header(data, pos, end)
            pos += 8
            if mark == SEQUENCE_END:
                return Element(tag, vr, data[start:pos], fragments=tuple(found)), pos
            if mark != ITEM or length == UNDEFINED:
                raise Quarantine("unreadable_dataset", "a fragment was expected in encapsulated data")
            if length > end - pos:
                raise Quarantine("truncated", f"a fragment of {length} bytes declared, {end - pos} present")
            found.append(data[pos : pos + length])
            pos += length


def _form(*, explicit: bool, big: bool) -> Form:
    order = ">" if big else "<"
    unpack = (struct.Struct(order + code).unpack_from for code in ("HHL", "H", "L"))
    return Form(explicit, big, *unpack)


#: by (explicit, big)
FORMS: Final = {(e, b): _form(explicit=e, big=b) for e, b in ((True, False), (False, False), (True, True))}
IMPLICIT: Final = FORMS[False, False]


def inflate(data: Bytes) -> bytes:
    """Inflate a deflated dataset within `MAX_INFLATED` bytes and `MAX_RATIO`."""
    limit = min(MAX_INFLATED, MAX_RATIO * max(len(data), 4096))
    worker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        out = worker.decompress(data, limit)
    except zlib.error:
        raise Quarantine("unreadable_dataset", "the deflated dataset does not inflate") from None
    if not worker.eof:
        reason = "over_limit" if len(out) >= limit else "truncated"
        raise Quarantine(reason, f"the deflated dataset did not end within {limit} bytes")
    return out


def read_dataset(data: Bytes, syntax: Syntax) -> Dataset:
    """Read a whole dataset (already inflated) into a tree of elements.

    Raises
    ------
    schemas.errors.Quarantine
        `truncated`, `over_limit` or `unreadable_dataset`.
    """
    reader = _Reader(memoryview(data), FORMS[syntax.explicit, syntax.big])
    elements, _ = reader.elements(0, len(data), 0, closed=False)
    return elements


def items_in(value: Bytes, depth: int = 0) -> tuple[Dataset, ...] | None:
    """Read a value that consists wholly of implicit little endian items; None if it does not."""
    if len(value) < 8 or bytes(value[:4]) != ITEM_START:
        return None
    reader = _Reader(memoryview(value), IMPLICIT)
    try:
        return reader.items(0, len(value), depth + 1, closed=False)[0]
    except Quarantine:
        return None


def read_items(data: Bytes, form: Form, *, closed: bool) -> tuple[Dataset, ...]:
    """Read the items of a sequence; `closed` says that they end with a delimiter."""
    reader = _Reader(memoryview(data), form)
    return reader.items(0, len(data), 1, closed=closed)[0]


class _Reader:
    """A cursor-free reader: every method takes a position and returns the next one."""

    def __init__(self, data: memoryview, form: Form) -> None:
        self.data = data
        self.form = form
        self.count = 0

    def elements(self, pos: int, end: int, depth: int, *, closed: bool) -> tuple[Dataset, int]:
        """Read elements up to `end`, or up to an item delimiter where the item is `closed` by one."""
        if depth > MAX_DEPTH:
            raise Quarantine("over_limit", f"nested deeper than {MAX_DEPTH}")
        found: list[Element] = []
        while pos < end:
            if end - pos < 8:
                raise Quarantine(
                    "truncated", f"{end - pos} bytes where an element of at least 8 was expected"
                )
            group, number, length = self.form.tag_length(self.data, pos)
            tag = group << 16 | number
            if tag == ITEM_END and closed:
                return tuple(found), pos + 8
            element, pos = self.element(tag, length, pos, end, depth)
            found.append(element)
        if closed:
            raise Quarantine("truncated", "an item without its delimiter")
        return tuple(found), pos

    def element(self, tag: int, length: int, pos: int, end: int, depth: int) -> tuple[Element, int]:
        """Read one element whose tag (and 32 bits behind it) have been read."""
        self.count += 1
        if self.count > MAX_ELEMENTS:
            raise Quarantine("over_limit", f"more than {MAX_ELEMENTS} elements")
        if tag >> 16 in (0, 0xFFFE):
            raise Quarantine("unreadable_dataset", "a command or delimiter tag where an element was expected")
        vr, length, start = self.form.header(self.data, tag, length, pos, end)
        if length == UNDEFINED:
            return self.undefined(tag, vr, start, end, depth)
        if length > end - start:
            raise Quarantine("truncated", f"{length} bytes declared, {end - start} present")
        stop = start + length
        if vr == "SQ":
            return Element(tag, vr, items=self.items(start, stop, depth + 1, closed=False)[0]), stop
        value = self.data[start:stop]
        # In big endian the values inside UN stay little endian (PS3.5 6.2.2): left opaque, and later removed.
        if vr == "UN" and self.form.marks_unknown and dictionary_vr(tag) == "SQ":
            items = items_in(value, depth)
            return Element(tag, vr, b"" if items is not None else value, items=items), stop
        return Element(tag, vr, value), stop

    def undefined(self, tag: int, vr: str, pos: int, end: int, depth: int) -> tuple[Element, int]:
        """Read an element of undefined length: fragments, a sequence, or UN as an implicit sequence."""
        if tag in PIXEL_TAGS or vr in ("OB", "OW"):
            return self.form.fragments(self.data, tag, vr, pos, end)
        if vr == "UN" and self.form.marks_unknown:
            reader = _Reader(self.data, IMPLICIT)
            reader.count = self.count
            items, stop = reader.items(pos, end, depth + 1, closed=True)
            self.count = reader.count
            return Element(tag, vr, items=items), stop
        if vr not in ("SQ", "UN"):
            raise Quarantine("unreadable_dataset", f"undefined length with VR {vr}")
        items, stop = self.items(pos, end, depth + 1, closed=True)
        return Element(tag, "SQ", items=items), stop

    def items(self, pos: int, end: int, depth: int, *, closed: bool) -> tuple[tuple[Dataset, ...], int]:
        """Read items up to `end`, or up to the sequence delimiter where the sequence is `closed` by one."""
        found: list[Dataset] = []
        while pos < end:
            tag, length = self.form.item_header(self.data, pos, end)
            pos += 8
            if tag == SEQUENCE_END and closed:
                return tuple(found), pos
            if tag != ITEM:
                raise Quarantine("unreadable_dataset", "an item was expected in a sequence")
            stop = end if length == UNDEFINED else pos + length
            if stop > end:
                raise Quarantine("truncated", f"an item of {length} bytes declared, {end - pos} present")
            item, pos = self.elements(pos, stop, depth, closed=length == UNDEFINED)
            found.append(item)
        if closed:
            raise Quarantine("truncated", "a sequence without its delimiter")
        return tuple(found), pos
