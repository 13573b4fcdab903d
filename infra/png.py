"""Reads 8-bit greyscale PNG with zlib and numpy: the example exam's images, with no imaging library.

1. Walk the chunks with their checksums; take IHDR and IDAT.
2. Inflate, bounded by the size that IHDR promises.
3. Undo the row filters. Paeth and Average look at the left, upper and upper left neighbours, so pixels
   of one anti-diagonal do not depend on each other: one numpy step a diagonal.

Other colour types, bit depths and interlacing are refused.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
GREY_8_BIT: Final = (8, 0, 0, 0, 0)  # depth, colour type, compression, filter, interlace
NONE, SUB, UP, AVERAGE, PAETH = range(5)


def read_png(data: bytes) -> NDArray[np.uint8]:
    """Return the pixels of an 8-bit greyscale PNG, (rows, columns) uint8.

    Raises
    ------
    ValueError
        With what was expected and what came.
    """
    if not data.startswith(SIGNATURE):
        raise ValueError("expected a PNG signature, found other bytes")
    header, compressed = b"", b""
    for kind, body in _chunks(data):
        header = body if kind == b"IHDR" else header
        compressed += body if kind == b"IDAT" else b""
    columns, rows, *form = struct.unpack(">IIBBBBB", header)
    if tuple(form) != GREY_8_BIT:
        raise ValueError(f"expected 8-bit greyscale without interlace {GREY_8_BIT}, found {tuple(form)}")
    size = rows * (columns + 1)
    lines = zlib.decompressobj().decompress(compressed, size)
    if len(lines) != size:
        raise ValueError(f"expected {size} bytes of pixels, found {len(lines)}")
    filtered = np.frombuffer(lines, np.uint8).reshape(rows, columns + 1)
    return _unfilter(filtered[:, 0], np.ascontiguousarray(filtered[:, 1:]))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = len(SIGNATURE)
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind, body = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        checksum = data[position + 8 + length : position + 12 + length]
        if checksum != struct.pack(">I", zlib.crc32(kind + body)):
            raise ValueError(f"expected an intact chunk {kind!r}, found another checksum")
        yield kind, body
        position += 12 + length


def _unfilter(kinds: NDArray[np.uint8], filtered: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Undo the filters; `kinds` (rows,), `filtered` (rows, columns)."""
    if kinds.max(initial=0) > PAETH:
        raise ValueError(f"expected row filters 0 to 4, found {kinds.max()}")
    rows, columns = filtered.shape
    source, out = filtered.ravel(), np.empty(rows * columns, np.uint8)
    # The last two diagonals by row, shifted by one: index 0 is the row above the image, always 0.
    last, before = np.zeros(rows + 1, np.int16), np.zeros(rows + 1, np.int16)
    for diagonal in range(rows + columns - 1):
        top, bottom = max(0, diagonal - columns + 1), min(rows, diagonal + 1)
        cells = slice(
            diagonal + top * (columns - 1), diagonal + (bottom - 1) * (columns - 1) + 1, columns - 1 or 1
        )
        left, up, corner = last[top + 1 : bottom + 1], last[top:bottom], before[top:bottom]
        values = (source[cells] + _predicted(kinds[top:bottom], left, up, corner)) & 0xFF
        out[cells] = values
        before, last = last, last.copy()
        last[top + 1 : bottom + 1] = values
    return out.reshape(rows, columns)


def _predicted(
    kinds: NDArray[np.uint8], left: NDArray[Any], up: NDArray[Any], corner: NDArray[Any]
) -> NDArray[Any]:
    to_left, to_up = np.abs(up - corner), np.abs(left - corner)
    to_corner = np.abs(left + up - 2 * corner)
    paeth = np.where(
        (to_left <= to_up) & (to_left <= to_corner), left, np.where(to_up <= to_corner, up, corner)
    )
    choices = [left, up, (left + up) >> 1, paeth]
    return np.select([kinds == SUB, kinds == UP, kinds == AVERAGE, kinds == PAETH], choices, 0)
