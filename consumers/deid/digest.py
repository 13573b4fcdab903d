"""Identity by content: `content_id` and `pixel_id`, the same however a sender re-encodes the dataset.

`content_id` is the SHA-256 over the elements in order: tag path, then the value in little endian without
trailing pad. Left out: VRs and lengths (encodings differ in them), group lengths, delimiters,
(FFFC,FFFC) and the root pixel data. `pixel_id` is the SHA-256 over the pixel value: native in little endian;
encapsulated the fragments without offset table.

What a peer may know better than we do must not count. So a private (or unknown) value that parses wholly as
implicit little endian items counts as that sequence, and whether a value is text, hence padded, is decided
by the dictionary and, where it is silent, by the bytes: never by the VR on the wire.
"""

import hashlib
import struct
from typing import TYPE_CHECKING, Final

import numpy as np

from consumers.deid.elements import (
    PIXEL_TAGS,
    TEXT_VRS,
    Bytes,
    Dataset,
    Element,
    dictionary_vr,
    items_in,
)

if TYPE_CHECKING:
    from hashlib import _Hash

_PADDING_TAG: Final = 0xFFFCFFFC
_PAD: Final = b"\x00 "
_SWAPPED_WIDTH: Final = {
    vr: width
    for width, vrs in ((2, "AT OW SS US"), (4, "FL OF OL SL UL"), (8, "FD OD OV SV UV"))
    for vr in vrs.split()
}
_TEXT_BYTES: Final = bytes(range(0x20, 0x100)) + b"\t\n\f\r\x1b"
_PACK_PATH = struct.Struct("<LL").pack
_PACK_LENGTH = struct.Struct("<Q").pack


def little_endian(element: Element, *, big: bool) -> Bytes:
    """Return the value of an element in little endian."""
    width = _SWAPPED_WIDTH.get(element.vr) if big else None
    if width is None or len(element.value) % width:
        return element.value
    return np.frombuffer(element.value, dtype=f">u{width}").astype(f"<u{width}").tobytes()


def content_id(dataset: Dataset, *, big: bool) -> str:
    """Return the digest of everything but the root pixel data, as hexadecimal digits."""
    digest = hashlib.sha256()
    _add(digest, (e for e in dataset if e.tag not in PIXEL_TAGS), b"", big=big)  # type: ignore[arg-type]
    return digest.hexdigest()


def pixel_id(dataset: Dataset, *, big: bool) -> str:
    """Return the digest of the root pixel data, as hexadecimal digits; of nothing where there is none."""
    digest = hashlib.sha256()
    for element in dataset:
        if element.tag in PIXEL_TAGS:
            for part in _pixel_parts(element, big=big):
                digest.update(part)
    return digest.hexdigest()


def _pixel_parts(element: Element, *, big: bool) -> tuple[Bytes, ...]:
    if element.fragments is not None:
        return element.fragments[1:]
    return (little_endian(element, big=big),)


def _add(digest: "_Hash", dataset: Dataset, path: bytes, *, big: bool) -> None:
    for element in dataset:
        tag = element.tag
        if tag & 0xFFFF == 0 or tag == _PADDING_TAG:
            continue
        here = path + _PACK_PATH(tag, 0)
        items, swapped = element.items, big
        if items is None and dictionary_vr(tag) in ("UN", "SQ"):
            # Bytes inside UN are little endian whatever the syntax.
            items, swapped = items_in(element.value), False
        if items is None:
            value = element.value if element.fragments is None else b"".join(element.fragments[1:])
            if big and element.fragments is None:
                value = little_endian(element, big=True)
            value = _without_pad(tag, value)
            digest.update(here + _PACK_LENGTH(len(value)))
            digest.update(value)
            continue
        digest.update(here + _PACK_LENGTH(len(items)))
        for number, item in enumerate(items, 1):
            inner = path + _PACK_PATH(tag, number)
            digest.update(inner)
            _add(digest, item, inner, big=swapped)


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
