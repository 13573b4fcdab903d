"""Do the pixel data hold what the header says, and nothing beside it? They are never decoded or changed.

1. Native: as long as rows, columns, samples, frames and bits ask for; behind the last frame only zeros.
2. Native: the bits above HighBit are unused (or repeat the sign): old devices kept overlays there.
3. Encapsulated: at least one fragment a frame; a video is one stream.
"""

from typing import Final

import numpy as np

from consumers.deid.digest import little_endian
from consumers.deid.elements import PIXEL_DATA, PIXEL_TAGS, Element
from consumers.deid.header import Header
from schemas.errors import Quarantine

_SUBSAMPLED: Final = {"YBR_FULL_422": 2, "YBR_PARTIAL_422": 2}  # samples a pixel, as stored
_VIDEO: Final = "1.2.840.10008.1.2.4.10"  # .100 to .108: MPEG-2, MPEG-4, HEVC
_PADDING_VALUE: Final = 0x00280120


def check_pixels(header: Header, transfer_syntax_uid: str, admitted: frozenset[str] = frozenset()) -> None:
    """Raise `Quarantine` if the pixel data are not what the header says; see `triage` for `admitted`."""
    for element in filter(None, map(header.element, PIXEL_TAGS)):
        if element.fragments is not None:
            _check_fragments(header, element, video=transfer_syntax_uid.startswith(_VIDEO))
        else:
            _check_length(header, element)
            if element.tag == PIXEL_DATA and "burned_in_risk" not in admitted:
                _check_unused_bits(header, element)


def _check_fragments(header: Header, element: Element, *, video: bool) -> None:
    expected = 1 if video else max(header.number(0x00280008), 1)
    present = len(element.fragments or ()) - 1  # the first is the offset table
    if present < expected:
        raise Quarantine("truncated", f"{expected} fragments expected, {present} present")


def _check_length(header: Header, element: Element) -> None:
    frames = max(header.number(0x00280008), 1)
    rows, columns, bits = (header.number(tag) for tag in (0x00280010, 0x00280011, 0x00280100))
    samples = _SUBSAMPLED.get(header.text(0x00280004), max(header.number(0x00280002), 1))
    expected = (rows * columns * samples * frames * bits + 7) // 8
    if len(element.value) < expected:
        raise Quarantine("truncated", f"{expected} bytes of pixels expected, {len(element.value)} present")
    behind = bytes(
        little_endian(element, big=header.big)[expected + expected % 2 :]
    )  # one pad byte may be anything
    if any(behind):
        raise Quarantine("unreadable_dataset", f"bytes behind the {expected} bytes of pixels")


def _check_unused_bits(header: Header, element: Element) -> None:
    allocated, high = header.number(0x00280100), header.number(0x00280102)
    if allocated not in (8, 16, 32) or not 0 < high < allocated - 1:
        return
    words = np.frombuffer(little_endian(element, big=header.big), dtype=f"<u{allocated // 8}")  # (pixels,)
    if not words.size or int(words.max()) >> (high + 1) == 0:
        return  # by far the most: no array but the pixels is touched
    above = words >> (high + 1)
    used = above != 0
    if used.any() and header.number(0x00280103):
        ones = (1 << (allocated - high - 1)) - 1
        used &= ~((above == ones) & (words >> high & 1 == 1))  # a repeated sign is no overlay
    if used.any() and _PADDING_VALUE in header.by_tag:
        used &= words != header.number(_PADDING_VALUE)
    if used.any():
        raise Quarantine("burned_in_risk", f"bits above HighBit {high} are in use")
