"""Text in an image, by RapidOCR (PP-OCR models as ONNX, which come with the library).

One detector a process. Small images are doubled; larger ones were seen to gain nothing from it, at four times the
cost. Each is looked at upright and, if asked, turned by a quarter, for text along the side.

The network also finds letters where there are none: a head is an O. What counts as text is decided by size and by
how well it reads (`_is_text`). Such a large letter hides the text inside it, so where one is found the image is
looked at again in overlapping parts, too small for it.
"""

import logging
from typing import Any, Final, NamedTuple

import numpy as np

from consumers.pixeltext.picture import Box
from consumers.pixeltext.render import Grey
from schemas.errors import ProdromeError

MISSING: Final = "the option clean_pixel_data needs RapidOCR: pip install 'prodrome[text]'"
_DOUBLED_BELOW: Final = 400  # pixels of the longer side
_SIDE: Final = 2048  # of what the network sees; larger images are cut into tiles
_OVERLAP: Final = 160
_LARGEST: Final = 64  # pixels of the shorter side of a box: devices do not write larger
_PART: Final = 192  # pixels of a side of a part, before it is doubled
_MIN_SCORE: Final = 0.3  # of a box: a miss is worse than a patch too many
#: (letters and digits at least, how sure they must be read)
_READABLE: Final = ((1, 0.9), (2, 0.6), (5, 0.35))


class Found(NamedTuple):
    """A piece of text: where it stands, what it says, how sure that is."""

    box: Box
    text: str
    score: float


class Detector:
    """See the module."""

    def __init__(self) -> None:
        try:
            import schemas.quiet_runtime  # noqa: F401  before the runtime

            from rapidocr import RapidOCR  # isort: skip
        except ImportError:
            raise ProdromeError(MISSING) from None
        logging.getLogger("RapidOCR").setLevel(logging.ERROR)
        self._engine = RapidOCR(
            params={
                "Global.log_level": "error",
                "Global.use_cls": False,
                "Global.text_score": 0.0,
                "Global.max_side_len": 2 * _SIDE,
                "Det.limit_type": "max",
                "Det.limit_side_len": 2 * _SIDE,
                "Det.box_thresh": _MIN_SCORE,
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            }
        )

    def find(self, image: Grey, *, turned: bool = True) -> list[Found]:
        """Return the text of an image, (rows, columns) uint8.

        Parameters
        ----------
        image : ndarray
            As a person would look at it.
        turned : bool
            Look at it turned by a quarter too.
        """
        found = self._upright(image)
        if turned:
            rows = image.shape[0]
            for one in self._upright(np.ascontiguousarray(np.rot90(image, -1))):
                left, top, right, bottom = one.box  # of the image turned clockwise
                if bottom - top < right - left:  # lies along the side: what stood upright was seen before
                    found.append(one._replace(box=(top, rows - right, bottom, rows - left)))
        return found

    def _upright(self, image: Grey) -> list[Found]:
        found = self._in_tiles(image, _SIDE, _OVERLAP)
        if any(_is_giant(one.box) for one in found) and max(image.shape) > _PART:
            found += self._in_tiles(image, _PART, _PART // 2)
        return [one for one in found if _is_text(one)]

    def _in_tiles(self, image: Grey, side: int, overlap: int) -> list[Found]:
        found = []
        for top in _steps(image.shape[0], side, overlap):
            for left in _steps(image.shape[1], side, overlap):
                for one in self._seen(image[top : top + side, left : left + side]):
                    x0, y0, x1, y1 = one.box
                    found.append(one._replace(box=(x0 + left, y0 + top, x1 + left, y1 + top)))
        return found

    def _seen(self, tile: Grey) -> list[Found]:
        scale = 2 if max(tile.shape) < _DOUBLED_BELOW else 1
        shown = tile.repeat(scale, axis=0).repeat(scale, axis=1)
        result: Any = self._engine(
            np.repeat(shown[:, :, None], 3, axis=2), use_det=True, use_cls=False, use_rec=True
        )
        if result.boxes is None:
            return []
        read = zip(result.boxes, result.txts or (), result.scores or (), strict=False)
        return [Found(_outline(box, shown.shape, scale), text, float(score)) for box, text, score in read]


def _is_giant(box: Box) -> bool:
    left, top, right, bottom = box
    return min(right - left, bottom - top) > _LARGEST


def _is_text(found: Found) -> bool:
    letters = sum(letter.isalnum() for letter in found.text)
    readable = any(letters >= least and found.score >= sure for least, sure in _READABLE)
    return readable and not _is_giant(found.box)


def _outline(corners: Any, shape: tuple[int, ...], scale: int) -> Box:
    xs, ys = [float(x) for x, _ in corners], [float(y) for _, y in corners]
    left, top = max(int(min(xs)), 0), max(int(min(ys)), 0)
    right, bottom = min(int(max(xs)) + 1, shape[1]), min(int(max(ys)) + 1, shape[0])
    return left // scale, top // scale, -(-right // scale), -(-bottom // scale)


def _steps(length: int, side: int, overlap: int) -> range | list[int]:
    if length <= side:
        return [0]
    return [*range(0, length - side, side - overlap), length - side]
