"""Frames as a person would look at them: 8-bit grey, in the windows in which text could be read.

Text is drawn at the ends of the range, over it, or a little above the tissue around it. So a frame of more than
8 bits is shown without its extremes, whole, and its dark part stretched.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from consumers.deid.picture import Picture
from consumers.pixeltext.picture import Frame

Grey = npt.NDArray[np.uint8]
_MUCH: Final = 0.8  # of the range


def renderings(frame: Frame, picture: Picture) -> Iterator[Grey]:
    """Yield one or more renderings of a frame, (rows, columns) uint8; the usual one first."""
    values = luminance(frame, picture)
    least, most = float(values.min()), float(values.max())
    if picture.bits_allocated > 8:
        low, middle, high = (float(value) for value in np.percentile(values[::2, ::2], (1.0, 50.0, 99.0)))
        if 0 < high - low < _MUCH * (most - least):  # else it looks as the whole range does
            yield _stretched(values, low, high)
        yield _stretched(values, least, most)
        yield _stretched(values, least, max(middle, least + 1))
    else:
        yield _stretched(values, least, most)


def luminance(frame: Frame, picture: Picture) -> npt.NDArray[Any]:
    """Return the stored values of a frame as one number a pixel, the unused high bits left out."""
    mask = (1 << picture.bits_stored) - 1
    shift = picture.high_bit + 1 - picture.bits_stored
    values = (frame.astype(np.int32) >> shift) & mask if picture.native else frame.astype(np.int32)
    if picture.native and picture.signed:
        sign = 1 << (picture.bits_stored - 1)
        values = (values ^ sign) - sign
    return values.max(axis=2) if values.shape[2] > 1 else values[:, :, 0]


def _stretched(values: npt.NDArray[Any], low: float, high: float) -> Grey:
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    scaled = (np.clip(values, low, high) - low) * (255.0 / (high - low))
    grey: Grey = scaled.astype(np.uint8)
    return grey
