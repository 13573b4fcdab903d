"""Identity by content: `content_id` and `pixel_id`, the same however a sender re-encodes the dataset.

`content_id` is the BLAKE3 digest over the elements in order: tag path, then the value in little endian without
trailing pad. Left out: VRs and lengths (encodings differ in them), group lengths, delimiters,
(FFFC,FFFC) and the root pixel data. `pixel_id` is that over the pixel value: native in little endian;
encapsulated the fragments without offset table.

What a peer may know better than we do must not count. So a private (or unknown) value that parses wholly as
implicit little endian items counts as that sequence, and whether a value is text, hence padded, is decided
by the dictionary and, where it is silent, by the bytes: never by the VR on the wire.

Release 0.1.0 took SHA-256 for both; what it knew is recognised by it (`is_of_first_release`).
"""

import hashlib
import struct
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from blake3 import blake3

from consumers.deid.elements import (
    PIXEL_TAGS,
    TEXT_VRS,
    Bytes,
    Element,
    dictionary_vr,
    items_in,
)

#: before each digest: the code of BLAKE3 among multihashes (https://github.com/multiformats/multicodec)
BLAKE3: Final = "1e"
_PADDING_TAG: Final = 0xFFFCFFFC
_PAD: Final = b"\x00 "
_SWAPPED_WIDTH: Final = {
    vr: width
    for width, vrs in ((2, "AT OW SS US"), (4, "FL OF OL SL UL"), (8, "FD OD OV SV UV"))
    for vr in vrs.split()
}
_TEXT_BYTES: Final = bytes(range(0x20, 0x100)) + b"\t\n\f\r\x1b"
_LONG: Final = 1 << 16  # bytes; longer values are not copied
pack_path = struct.Struct("<LL").pack
_PACK_LENGTH = struct.Struct("<Q").pack


def little_endian(element: Element, *, big: bool) -> Bytes:
    """Return the value of an element in little endian."""
    width = _SWAPPED_WIDTH.get(element.vr) if big else None
    if width is None or len(element.value) % width:
        return element.value
    return np.frombuffer(element.value, dtype=f">u{width}").astype(f"<u{width}").tobytes()


class _Hash(Protocol):
    def update(self, data: Bytes, /) -> object: ...

    def hexdigest(self) -> str: ...


class Content(Protocol):
    """What an element adds to the content digest behind the path of its item.

    `content`, then `content_bulk` where its value is long. What a sequence adds names the path again before each
    item and each element: it is left out, and put in between the parts of `behind`, so that the same sequence is the
    same wherever it stands.
    """

    @property
    def content(self) -> bytes: ...

    @property
    def content_bulk(self) -> Bytes: ...

    @property
    def behind(self) -> Sequence[bytes]: ...


class Part(Content, Protocol):
    """An element of the root, or a run of them that holds no pixel data."""

    @property
    def tag(self) -> int: ...

    @property
    def element(self) -> Element: ...


class Parts(NamedTuple):
    """A `Content` and nothing else."""

    content: bytes = b""
    content_bulk: Bytes = b""
    behind: tuple[bytes, ...] = ()


def content_parts(element: Element, *, big: bool, root: bool) -> Parts:
    """Return what an element adds to the digest.

    Parameters
    ----------
    element : Element
        As received.
    big : bool
        Its value is in big endian.
    root : bool
        It stands in the root, where pixel data are left out.
    """
    tag = element.tag
    if tag & 0xFFFF == 0 or tag == _PADDING_TAG or (root and tag in PIXEL_TAGS):
        return Parts()
    items = element.items
    if items is None and dictionary_vr(tag) in ("UN", "SQ"):
        items = items_in(element.value)
    if items is not None:
        # Bytes inside UN are little endian whatever the syntax.
        inner = [[content_parts(each, big=False, root=False) for each in item] for item in items]
        return sequence_content(tag, inner)
    if element.fragments is not None:
        value: Bytes = b"".join(element.fragments[1:])
    else:
        value = _without_pad(tag, little_endian(element, big=big) if big else element.value)
    head = pack_path(tag, 0) + _PACK_LENGTH(len(value))
    return Parts(head, value) if len(value) > _LONG else Parts(head + value)


def sequence_content(tag: int, items: Sequence[Iterable[Content]]) -> Parts:
    """Return what a sequence adds: its number of items, and each item's elements behind their path."""
    if tag & 0xFFFF == 0 or tag == _PADDING_TAG:
        return Parts()
    parts: list[bytes] = []
    for number, item in enumerate(items, 1):
        here = pack_path(tag, number)
        parts.append(here)
        for one in item:
            if one.content:
                parts.append(here + one.content + one.content_bulk)
                if one.behind:
                    parts += [here + part for part in one.behind]
    return Parts(pack_path(tag, 0) + _PACK_LENGTH(len(items)), behind=tuple(parts))


def content_id(found: Iterable[Content], *, first_release: bool = False) -> str:
    """Return the digest of everything but the root pixel data, as hexadecimal digits."""
    digest, parts = _new(first_release), []
    for one in found:
        parts.append(one.content)
        if one.content_bulk:
            digest.update(b"".join(parts))
            digest.update(one.content_bulk)
            parts = []
        parts += one.behind
    digest.update(b"".join(parts))
    return _named(digest.hexdigest(), first_release)


def pixel_id(found: Iterable[Part], *, big: bool, first_release: bool = False) -> str:
    """Return the digest of the root pixel data, as hexadecimal digits; of nothing where there is none."""
    digest = _new(first_release)
    for one in found:
        if one.tag in PIXEL_TAGS:
            for part in _pixel_parts(one.element, big=big):
                digest.update(part)
    return _named(digest.hexdigest(), first_release)


def is_of_first_release(digest: str) -> bool:
    """Tell whether a digest is one of release 0.1.0: SHA-256, with nothing before it."""
    return len(digest) == 2 * hashlib.sha256().digest_size


def _new(first_release: bool) -> "_Hash":
    return hashlib.sha256() if first_release else blake3()


def _named(digest: str, first_release: bool) -> str:
    return digest if first_release else BLAKE3 + digest


def _pixel_parts(element: Element, *, big: bool) -> tuple[Bytes, ...]:
    if element.fragments is not None:
        return element.fragments[1:]
    return (little_endian(element, big=big),)


def _without_pad(tag: int, value: Bytes) -> Bytes:
    vr = dictionary_vr(tag)
    if vr in TEXT_VRS:
        return bytes(value).rstrip(_PAD)
    if vr == "UN":
        text = bytes(value).rstrip(_PAD)
        if not text.translate(None, _TEXT_BYTES):
            return text
    # An odd number of bytes is wrong, and every sender repairs it with one zero.
    return bytes(value) + b"\x00" if len(value) % 2 else value
