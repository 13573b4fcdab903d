"""Text drawn into real images, to measure whether it is found: several fonts, sizes, polarities and windows.

What is drawn are names, numbers and dates as devices write them; where it stands, how large and how bright it is,
comes from a seed. Lines that nobody could read are not drawn. `measured` looks for them, and for text in the images as
they came, where it should find none (images that have text of their own are not for this).
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.errors import InvalidDicomError
from rich.progress import Progress

from commands.benching.pages import Figures, console
from consumers.deid.picture import Picture
from consumers.pixeltext.detector import Detector
from consumers.pixeltext.picture import Box, Frame, stored_frames
from consumers.pixeltext.render import renderings
from schemas.errors import ProdromeError

SIZES: Final = (8, 10, 12, 14, 18, 24, 32, 40)  # pixels of a capital letter and its descender, about
FONTS: Final = ("outline", "bitmap", "hershey_simplex", "hershey_complex", "hershey_plain")
_NAMES: Final = (
    "MUELLER",
    "Garcia",
    "OKAFOR",
    "Nguyen",
    "Kowalska",
    "SMITH",
    "Petrov",
    "TANAKA",
    "Haddad",
    "Silva",
)
_FIRST: Final = ("ANNA", "Jose", "CHIDI", "Linh", "Maria", "JOHN", "Ivan", "YUKI", "Omar", "Ana")
#: letters that a person could read: nearly all of them this far from what is behind, in shares of the range
_LEGIBLE: Final = 0.2
_LEGIBLE_SHARE: Final = 0.95
_ENOUGH: Final = 0.8  # of a line's area within the boxes: found
#: polarity -> share of the range at which letters are drawn
POLARITIES: Final = {"white": 1.0, "grey": 0.75, "black on white": 0.0, "black": 0.0}


class Planted(NamedTuple):
    """A picture with one line of text in it."""

    picture: Picture
    box: Box
    text: str
    font: str
    size: int
    polarity: str


def words(random: Random) -> str:
    """Return what a device would draw: a name, an identifier, or a date."""
    kind = random.randrange(3)
    if kind == 0:
        return f"{random.choice(_NAMES)}, {random.choice(_FIRST)}"
    if kind == 1:
        return f"ID: {random.randrange(10**6, 10**8)}"
    return f"DOB {random.randint(1, 28):02d}.{random.randint(1, 12):02d}.{random.randint(1930, 2010)}"


def pictures(files: list[Path]) -> Iterator[tuple[str, Picture]]:
    """Yield modality and picture of those files whose pixels are native, grey and of one frame."""
    for path in files:
        try:
            dataset = pydicom.dcmread(path)
        except InvalidDicomError:
            continue
        picture = picture_of(dataset)
        if picture is not None:
            yield str(dataset.Modality), picture


def picture_of(dataset: pydicom.Dataset) -> Picture | None:
    """Return the picture of a dataset; None for one that is compressed, in colour, or large."""
    wanted = ("Rows", "Columns", "BitsStored", "PixelData", "Modality")
    if any(keyword not in dataset for keyword in wanted) or dataset.file_meta.TransferSyntaxUID.is_compressed:
        return None
    picture = Picture(
        transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
        native=True,
        rows=dataset.Rows,
        columns=dataset.Columns,
        samples=dataset.SamplesPerPixel,
        frames=int(dataset.get("NumberOfFrames") or 1),
        bits_allocated=dataset.BitsAllocated,
        bits_stored=dataset.BitsStored,
        high_bit=dataset.HighBit,
        signed=bool(dataset.PixelRepresentation),
        photometric=dataset.PhotometricInterpretation,
        planar=int(dataset.get("PlanarConfiguration") or 0),
        value=dataset.PixelData,
    )
    usable = picture.samples == 1 and picture.frames == 1 and picture.bits_allocated in (8, 16)
    return picture if usable and min(picture.rows, picture.columns) >= 96 else None


def planted(picture: Picture, random: Random, font: str, size: int, polarity: str) -> Planted | None:
    """Draw a line of text into a picture; None where it has no room."""
    text = words(random)
    ink = _drawn(text, font, size)  # (rows, columns) bool
    rows, columns = ink.shape
    if rows + 8 > picture.rows or columns + 8 > picture.columns:
        return None
    top, left = random.randint(2, picture.rows - rows - 4), random.randint(2, picture.columns - columns - 4)
    (frame,) = (frame.copy() for frame in stored_frames(picture))
    low, high = _range(frame)
    patch = frame[top : top + rows, left : left + columns, 0]
    tone = int(low + (high - low) * POLARITIES[polarity])
    behind = np.abs(patch[ink].astype(np.int64) - tone)
    if polarity != "black on white" and np.mean(behind > _LEGIBLE * (high - low)) < _LEGIBLE_SHARE:
        return None  # nobody could read it
    if polarity == "black on white":
        frame[max(top - 2, 0) : top + rows + 2, max(left - 2, 0) : left + columns + 2, 0] = high
    patch[ink] = tone
    box = (left, top, left + columns, top + rows)
    return Planted(replace(picture, value=frame.tobytes()), box, text, font, size, polarity)


def _range(frame: Frame) -> tuple[int, int]:
    return int(frame.min()), int(max(frame.max(), frame.min() + 1))


def _drawn(text: str, font: str, size: int) -> npt.NDArray[Any]:
    """Return where the letters are, cut to what is inked."""
    import cv2
    from PIL import Image, ImageDraw, ImageFont

    if font.startswith("hershey"):
        canvas = np.zeros((4 * size, 40 * size), np.uint8)
        face = {
            "hershey_simplex": cv2.FONT_HERSHEY_SIMPLEX,
            "hershey_complex": cv2.FONT_HERSHEY_COMPLEX,
            "hershey_plain": cv2.FONT_HERSHEY_PLAIN,
        }[font]
        scale = size / (10.0 if font == "hershey_plain" else 22.0)
        cv2.putText(canvas, text, (size, 2 * size), face, scale, 255, max(size // 14, 1), cv2.LINE_8)
    else:
        image = Image.new("L", (40 * size, 4 * size))
        drawing = ImageDraw.Draw(image)
        if font == "bitmap":
            drawing.text((2, 2), text, 255, ImageFont.load_default_imagefont())
        else:
            drawing.fontmode = "1"
            drawing.text((size, size), text, 255, ImageFont.load_default(size))
        canvas = np.asarray(image)
        if font == "bitmap" and size >= 20:  # of one size: doubled
            canvas = canvas.repeat(2, axis=0).repeat(2, axis=1)
    inked = canvas > 127
    where = np.argwhere(inked)
    (top, left), (bottom, right) = where.min(0), where.max(0) + 1
    return inked[top:bottom, left:right]


def measured(folder: Path, seconds: float) -> list[Figures]:
    """Look for drawn text for so long, and in as many images as they came, and return what was found."""
    random, detector = Random(0), Detector()  # noqa: S311
    by_modality: dict[str, list[Picture]] = {}
    for modality, picture in pictures(sorted(path for path in folder.rglob("*") if path.is_file())):
        by_modality.setdefault(modality, []).append(picture)
    if not by_modality:
        raise ProdromeError(f"expected grey DICOM images of one frame, not compressed, in {folder}")
    found: dict[tuple[str, str], list[bool]] = {}
    touched: list[bool] = []
    until = time.monotonic() + seconds
    with Progress(console=console) as progress:
        task = progress.add_task("drawn text", total=None)
        while time.monotonic() < until:
            modality = random.choice(sorted(by_modality))
            base = random.choice(by_modality[modality])
            made = planted(
                base, random, random.choice(FONTS), random.choice(SIZES), random.choice(list(POLARITIES))
            )
            if made is None:
                continue
            hit = _covered(made, detector) >= _ENOUGH
            for kind, value in (("modality", modality), ("font", made.font), ("pixels high", f"{made.size:02d}"),
                                ("polarity", made.polarity), ("all", "")):  # fmt: skip
                found.setdefault((kind, value), []).append(hit)
            touched.append(bool(_boxes(base, detector)))
            progress.advance(task)
    lines = [[kind, value, f"{sum(hits)} of {len(hits)}"] for (kind, value), hits in sorted(found.items())]
    lines.append(["images as they came in which text was found", "", f"{sum(touched)} of {len(touched)}"])
    return [Figures("Text drawn into real images: found", ["by", "", "found"], lines)]


def _covered(made: Planted, detector: Detector) -> float:
    """Return how much of the line is within the boxes that would be blanked."""
    left, top, right, bottom = made.box
    mask = np.zeros((bottom - top, right - left), bool)
    for x0, y0, x1, y1 in _boxes(made.picture, detector):
        mask[max(y0 - top - 2, 0) : max(y1 - top + 2, 0), max(x0 - left - 2, 0) : max(x1 - left + 2, 0)] = (
            True
        )
    return float(mask.mean())


def _boxes(picture: Picture, detector: Detector) -> list[Box]:
    (frame,) = stored_frames(picture)
    return [found.box for image in renderings(frame, picture) for found in detector.find(image)]
