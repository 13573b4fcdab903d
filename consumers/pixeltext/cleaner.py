"""Blank the text of a picture: by rule, by detection on every frame, and look again.

1. Blank what the rules of the device name.
2. Find text: in the first frame turned too, in the others upright alone; what may not stay
   (`verdict`) is blanked, with a margin, in the stored words, their unused high bits included.
3. On an ultrasound's screen, what the first frame has outside of the images' regions is blanked in every frame: there
   a device writes who was examined, and it stays where it is.
4. Look again at the frames that were blanked. What is still there is blanked once more; a frame where text
   remains after `ROUNDS`, or that is text to a third, waits for a person.

Frames without text are not touched. A compressed picture without text stays as it was received; with text, all
its frames leave decoded. Pure, but slow and, where it decodes, not to be trusted: see `child`.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from consumers.deid.picture import CleanedPixels, Picture
from consumers.pixeltext.detector import Detector
from consumers.pixeltext.devices import device_boxes
from consumers.pixeltext.picture import Box, Frame, check_picture, stored_frames
from consumers.pixeltext.render import renderings
from consumers.pixeltext.verdict import may_stay
from schemas.errors import Quarantine

ROUNDS: Final = 3
#: more of a frame than this in boxes: a report or a screen, not an image with text on it
MOST: Final = 1 / 3
_MARGIN: Final = 2  # pixels, and a fifth of the height


def clean(picture: Picture, detector: Detector) -> CleanedPixels:
    """Find and blank text.

    Parameters
    ----------
    picture : Picture
        As received.
    detector : Detector
        Of this process.

    Raises
    ------
    schemas.errors.Quarantine
        `burned_in_risk`: too much text, text that cannot be blanked, pixels that are not read here.
    """
    check_picture(picture)
    fixed = device_boxes(picture)
    boxes, touched, out = 0, 0, bytearray()
    for number, frame in enumerate(stored_frames(picture)):
        clean_frame, found = _clean_frame(frame, picture, detector, fixed, thorough=number == 0)
        boxes += len(found)
        touched += bool(found)
        if number == 0 and picture.regions:
            more = found[len(fixed) :]
            fixed = [*fixed, *(box for box in more if not any(_meet(box, one) for one in picture.regions))]
        out += _as_stored(clean_frame, picture)
    return CleanedPixels(boxes, touched, bytes(out) + b"\x00" * (len(out) % 2) if touched else None)


def _clean_frame(
    frame: Frame, picture: Picture, detector: Detector, fixed: list[Box], *, thorough: bool
) -> tuple[Frame, list[Box]]:
    found = [*fixed, *_text(frame, picture, detector, thorough=thorough)]
    if not found:
        return frame, []
    clean_frame, blanked = frame.copy(), list(found)
    for _ in range(ROUNDS):
        _check_share(found, picture)
        for box in found:
            _blank(clean_frame, box, picture)
        found = list(_text(clean_frame, picture, detector, thorough=True))
        if not found:
            return clean_frame, blanked
        blanked += found
    raise Quarantine("burned_in_risk", f"text is left after {ROUNDS} rounds of blanking")


def _text(frame: Frame, picture: Picture, detector: Detector, *, thorough: bool) -> Iterator[Box]:
    for number, image in enumerate(renderings(frame, picture)):
        for found in detector.find(image, turned=thorough, doubled=number == 0):
            if not may_stay(found, picture.names):
                yield found.box


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _check_share(boxes: list[Box], picture: Picture) -> None:
    covered = np.zeros((picture.rows, picture.columns), bool)
    for left, top, right, bottom in boxes:
        covered[top:bottom, left:right] = True
    if covered.mean() > MOST:
        raise Quarantine("burned_in_risk", f"{covered.mean():.0%} of a frame is text")


def _blank(frame: Frame, box: Box, picture: Picture) -> None:
    left, top, right, bottom = box
    margin = _MARGIN + (min(bottom - top, right - left) // 5)
    rows = slice(max(top - margin, 0), bottom + margin)
    columns = slice(max(left - margin, 0), right + margin)
    frame[rows, columns] = blank_word(picture)


def blank_word(picture: Picture) -> int:
    """Return what is stored where text was: black, or 0 where that is not the least."""
    return (1 << picture.bits_stored) - 1 if picture.photometric == "MONOCHROME1" else 0


def _as_stored(frame: Frame, picture: Picture) -> bytes:
    """Return the bytes of a frame: native as they were laid out, decoded by pixel."""
    if picture.native and picture.samples == 3 and picture.planar == 1:
        return frame.transpose(2, 0, 1).tobytes()
    return frame.astype(frame.dtype.newbyteorder("<"), copy=False).tobytes()
