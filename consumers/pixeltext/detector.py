"""Text in an image, by RapidOCR (PP-OCR models as ONNX, which come with the library).

One detector a process. An image is looked at in tiles of at most 320 pixels: upright; if asked, in twice its size, for
small letters on what is not smooth; and turned by a quarter, for text along the side. The network judges what is small
by what is large beside it: of lines of 8 to 14 pixels in images of 1024 it missed one in ten, in tiles none; a head
that it takes for a letter hides less; and a pixel costs less. What was found in a tile is remembered: much of a
screen is the same in every frame.

The network also finds letters where there are none. What counts as text is decided by size and by how well it reads
(`_is_text`). A text that a tile cuts was not read whole: `Found.whole` says so.
"""

import logging
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from consumers.pixeltext.picture import Box
from consumers.pixeltext.render import Grey
from schemas.errors import ProdromeError

MISSING: Final = "the option clean_pixel_data needs RapidOCR: pip install 'prodrome[text]'"
_SIDE: Final = 320  # of a tile, at most
_OVERLAP: Final = 64  # a line is whole in one of two tiles, or longer than this in both
_LARGEST: Final = 96  # pixels of the shorter side of a box: letters of 64, about; devices do not write larger
_REMEMBERED: Final = 4096  # tiles, some 200 bytes each
_EDGE: Final = 3  # pixels from the edge of a tile: cut
_MIN_SCORE: Final = 0.4  # of a box: a miss is worse than a patch too many
#: (letters and digits at least, how sure they must be read)
_READABLE: Final = ((1, 0.95), (2, 0.8), (4, 0.7), (7, 0.5))


class Found(NamedTuple):
    """A piece of text: where it stands, what it says, how sure that is, and whether it was seen whole."""

    box: Box
    text: str
    score: float
    whole: bool = True


class Detector:
    """See the module."""

    def __init__(self) -> None:
        try:
            import schemas.quiet_runtime  # noqa: F401  before the runtime

            from rapidocr import RapidOCR  # isort: skip
        except ImportError:
            raise ProdromeError(MISSING) from None
        logging.getLogger("RapidOCR").setLevel(logging.ERROR)
        self._known: dict[tuple[int, tuple[int, ...], bytes], tuple[Found, ...]] = {}
        self._engine = RapidOCR(
            params={
                "Global.log_level": "error",
                "Global.use_cls": False,
                "Global.text_score": 0.0,
                "Global.max_side_len": _SIDE,
                "Det.limit_type": "max",
                "Det.limit_side_len": _SIDE,
                "Det.box_thresh": _MIN_SCORE,
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            }
        )

    def find(self, image: Grey, *, turned: bool = True, doubled: bool = True) -> list[Found]:
        """Return the text of an image, (rows, columns) uint8.

        Parameters
        ----------
        image : ndarray
            As a person would look at it.
        turned : bool
            Look at it turned by a quarter too.
        doubled : bool
            Look at it in twice its size too, for small letters on what is not smooth.
        """
        found = self._upright(image, 1)
        if doubled:
            found += self._upright(image, 2)
        if turned:
            rows = image.shape[0]
            for one in self._upright(np.ascontiguousarray(np.rot90(image, -1)), 1):
                left, top, right, bottom = one.box  # of the image turned clockwise
                if bottom - top < right - left:  # lies along the side: what stood upright was seen before
                    found.append(one._replace(box=(top, rows - right, bottom, rows - left)))
        return found

    def _upright(self, image: Grey, scale: int) -> list[Found]:
        found: list[Found] = []
        for top, bottom in _spans(image.shape[0], scale):
            for left, right in _spans(image.shape[1], scale):
                found += self._in_tile(image, (left, top, right, bottom), scale)
        whole = [one for one in found if one.whole]
        return whole + [
            one for one in found if not (one.whole or any(_within(one, other) for other in whole))
        ]

    def _in_tile(self, image: Grey, tile: Box, scale: int) -> Iterator[Found]:
        left, top, right, bottom = tile
        rows, columns = image.shape
        for one in self._seen(image[top:bottom, left:right], scale):
            box = (one.box[0] + left, one.box[1] + top, one.box[2] + left, one.box[3] + top)
            cut = (  # near an edge of the tile that is none of the image
                (left > 0 and box[0] < left + _EDGE)
                or (top > 0 and box[1] < top + _EDGE)
                or (right < columns and box[2] > right - _EDGE)
                or (bottom < rows and box[3] > bottom - _EDGE)
            )
            yield one._replace(box=box, whole=not cut)

    def _seen(self, tile: Grey, scale: int) -> tuple[Found, ...]:
        """Return what is found in a tile; of a tile that was seen before, what was found then."""
        name = (scale, tile.shape, blake3(tile.tobytes()).digest())
        if name not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[name] = tuple(self._read(tile.repeat(scale, axis=0).repeat(scale, axis=1), scale))
        return self._known[name]

    def _read(self, tile: Grey, scale: int) -> Iterator[Found]:
        shown = np.repeat(tile[:, :, None], 3, axis=2)
        boxes = self._engine(shown, use_det=True, use_cls=False, use_rec=False).boxes
        for corners in () if boxes is None else boxes:
            left, top, right, bottom = box = _outline(corners, tile.shape)
            if not 0 < min(right - left, bottom - top) <= _LARGEST:
                continue  # to read these would take most of the time
            line = _lying(shown[top:bottom, left:right])
            read: Any = self._engine(line, use_det=False, use_cls=False, use_rec=True)
            text, score = (read.txts or ("",))[0], float(read.scores[0])
            if _is_text(text, score):
                left, top, right, bottom = box
                yield Found(
                    (left // scale, top // scale, -(-right // scale), -(-bottom // scale)), text, score
                )


def _lying(crop: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the image of a line so that it can be read, a column of letters turned."""
    return np.ascontiguousarray(np.rot90(crop)) if 2 * crop.shape[0] >= 3 * crop.shape[1] else crop


def _is_text(text: str, score: float) -> bool:
    letters = sum(letter.isalnum() for letter in text)
    return any(letters >= least and score >= sure for least, sure in _READABLE)


def _within(one: Found, other: Found) -> bool:
    a, b = one.box, other.box
    return a[0] >= b[0] - _EDGE and a[1] >= b[1] - _EDGE and a[2] <= b[2] + _EDGE and a[3] <= b[3] + _EDGE


def _outline(corners: Any, shape: tuple[int, ...]) -> Box:
    xs, ys = [float(x) for x, _ in corners], [float(y) for _, y in corners]
    right, bottom = min(int(max(xs)) + 1, shape[1]), min(int(max(ys)) + 1, shape[0])
    return max(int(min(xs)), 0), max(int(min(ys)), 0), right, bottom


def _spans(length: int, scale: int) -> list[tuple[int, int]]:
    """Return from where to where tiles reach: as few as may be, of one size, which overlap."""
    side, overlap = _SIDE // scale, _OVERLAP // scale
    count = max(-(-(length - overlap) // (side - overlap)), 1)
    size = -(-(length + (count - 1) * overlap) // count)
    starts = (round(n * (length - size) / max(count - 1, 1)) for n in range(count))
    return [(start, start + size) for start in starts]
