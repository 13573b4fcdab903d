"""Comment and application segments of JPEG and JPEG 2000 codestreams: text that hides beside the pixels.

Only the headers are walked (up to SOS or SOT); a fragment of another codec has none. Pixels are not decoded.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from consumers.deid.elements import Bytes

_START: Final = (b"\xff\xd8", b"\xff\x4f")  # SOI of JPEG and JPEG-LS, SOC of JPEG 2000
_SCAN: Final = frozenset({0xDA, 0x90, 0xD9, 0x93})  # SOS, SOT, EOI, SOD: the coded data begin
_COMMENTS: Final = frozenset({0xFE, 0x64, *range(0xE0, 0xF0)})  # COM (JPEG), COM (JPEG 2000), APPn


def comments(fragments: Iterable[Bytes]) -> Iterator[bytes]:
    """Yield the comment and application segments in the headers of all fragments."""
    for fragment in fragments:
        if bytes(fragment[:2]) in _START:
            yield from _segments(fragment)


def _segments(data: Bytes) -> Iterator[bytes]:
    pos = 2
    while pos + 4 <= len(data) and data[pos] == 0xFF and data[pos + 1] not in _SCAN:
        length = int.from_bytes(bytes(data[pos + 2 : pos + 4]), "big")
        if data[pos + 1] in _COMMENTS:
            yield bytes(data[pos + 4 : pos + 2 + length])
        pos += 2 + max(length, 2)
