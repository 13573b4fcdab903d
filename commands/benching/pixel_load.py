"""Text drawn into real images, to measure whether it is found: several fonts, sizes, polarities and windows.

What is drawn are names, numbers and dates as devices write them; where it stands, how large and how bright it is,
comes from a seed. Lines that nobody could read are not drawn. Each goes through the cleaner twice: as an image, and as
the second frame behind the image as it came, in which nothing should be found (images that have text of their own are
not for this). It is found where all of its letters are blanked, to a twentieth of their pixels.
"""

import itertools
import os
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pydicom
from rich.progress import Progress

from commands.benching.pages import Figures, console
from consumers.deid.picture import Picture
from consumers.pixeltext.cleaner import blank_word, clean
from consumers.pixeltext.detector import Detector
from consumers.pixeltext.picture import check_picture, stored_dtype, stored_frames
from consumers.pixeltext.render import luminance
from schemas.errors import ProdromeError, Quarantine

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
#: letters that a person could read: nearly all of them this far from what is behind, in shares of the window
_LEGIBLE: Final = 0.2
_LEGIBLE_SHARE: Final = 0.95
_BLANKED: Final = 0.95  # of the pixels of all letters: found
_PLAIN: Final = frozenset({"MONOCHROME1", "MONOCHROME2", "RGB", "YBR_ICT", "YBR_RCT"})
_SEED: Final = 2026
_SMALLEST: Final = 96  # pixels of a side
_LARGEST: Final = 512  # of what is measured: of larger images a part, elsewhere each time
#: polarity -> percentiles between which the tone lies, share of that range at which letters are drawn
POLARITIES: Final = {
    "white": (0, 100, 1.0),
    "grey": (0, 100, 0.75),
    "black on white": (0, 100, 0.0),
    "black": (0, 100, 0.0),
    "white in a window": (1, 99, 1.0),
    "grey in a window": (1, 99, 0.75),
}


class Planted(NamedTuple):
    """A picture with one line of text in it; `ink` (rows, columns) says where."""

    picture: Picture
    ink: npt.NDArray[np.bool_]
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
    """Yield modality and picture, native and of the first frame, of those files whose pixels can be read."""
    for path in files:
        try:
            dataset = pydicom.dcmread(path)
            picture = picture_of(dataset)
        except Exception:  # noqa: S112  test data is broken in every way, and what fails is its reader
            continue
        if picture is not None:
            yield str(dataset.Modality), picture


def picture_of(dataset: pydicom.Dataset) -> Picture | None:
    """Return the first frame of a dataset as a native picture; None where it is small, or not grey or RGB."""
    wanted = ("Rows", "Columns", "BitsStored", "PixelData", "Modality")
    syntax = dataset.file_meta.TransferSyntaxUID
    if any(keyword not in dataset for keyword in wanted) or not syntax.is_little_endian:
        return None
    if dataset.PhotometricInterpretation not in _PLAIN:
        return None
    received = Picture(
        transfer_syntax_uid=str(syntax),
        native=not syntax.is_compressed,
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
    check_picture(received)
    if min(received.rows, received.columns) < _SMALLEST:
        return None
    frame = next(stored_frames(received))
    words = frame.astype(stored_dtype(received), casting="unsafe")
    photometric = received.photometric if received.samples == 1 else "RGB"
    return replace(received, native=True, frames=1, planar=0, photometric=photometric, value=words.tobytes())


def planted(picture: Picture, random: Random, font: str, size: int, polarity: str) -> Planted | None:
    """Draw a line of text into a picture; None where it has no room, or nobody could read it."""
    text = words(random)
    ink = _drawn(text, font, size)  # (rows, columns) bool
    rows, columns = ink.shape
    if rows + 8 > picture.rows or columns + 8 > picture.columns:
        return None
    top, left = random.randint(2, picture.rows - rows - 4), random.randint(2, picture.columns - columns - 4)
    (frame,) = (frame.copy() for frame in stored_frames(picture))
    values = luminance(frame, picture)
    least, most, share = POLARITIES[polarity]
    low, high = (int(value) for value in np.percentile(values, (least, most)))
    tone = int(low + (high - low) * share)
    shown = np.clip(values[top : top + rows, left : left + columns][ink], low, high)
    behind = np.abs(shown.astype(np.int64) - tone)
    if high == low or (most < 100 and picture.bits_allocated == 8):  # nothing to see; no window but one
        return None
    if polarity != "black on white" and np.mean(behind > _LEGIBLE * (high - low)) < _LEGIBLE_SHARE:
        return None
    if polarity == "black on white":
        frame[max(top - 2, 0) : top + rows + 2, max(left - 2, 0) : left + columns + 2] = _word(high, picture)
    frame[top : top + rows, left : left + columns][ink] = _word(tone, picture)
    written = np.zeros(values.shape, bool)
    written[top : top + rows, left : left + columns] = ink
    return Planted(replace(picture, value=frame.tobytes()), written, text, font, size, polarity)


def _word(value: int, picture: Picture) -> int:
    """Return a value as it is stored, in two's complement."""
    return value % (1 << picture.bits_allocated)


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
    """Draw and look for so long, on every core, and return what was found."""
    by_modality: dict[str, list[Picture]] = {}
    for modality, picture in pictures(sorted(path for path in folder.rglob("*") if path.is_file())):
        by_modality.setdefault(modality, []).append(picture)
    if not by_modality:
        raise ProdromeError(f"expected DICOM images, grey or in colour, in {folder}")
    until = time.monotonic() + seconds
    outcomes: dict[tuple[str, str], list[Outcome]] = {}
    cores = os.cpu_count() or 1
    with (
        ProcessPoolExecutor(cores, get_context("spawn"), _begin) as pool,
        Progress(console=console) as progress,
    ):
        task = progress.add_task("drawn text", total=None)
        drawn = _drawings(by_modality, Random(_SEED))  # noqa: S311
        waiting = {pool.submit(_tried, *next(drawn)) for _ in range(2 * cores)}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for kinds, outcome in (each.result() for each in done):
                for kind in kinds:
                    outcomes.setdefault(kind, []).append(outcome)
                progress.advance(task)
                if time.monotonic() < until:
                    waiting.add(pool.submit(_tried, *next(drawn)))
    lines = [[*kind, *_counted(each)] for kind, each in sorted(outcomes.items())]
    return [Figures("Text drawn into real images", ["by", "", *_COUNTS], lines)]


class Outcome(NamedTuple):
    """What became of one drawn line: as an image, as a later frame; and of the image without it."""

    image: str
    frame: str
    touched: bool


_COUNTS: Final = (
    "drawn",
    "blanked as an image",
    "blanked as a later frame",
    "to a person",
    "without text, touched",
)


def _counted(outcomes: list[Outcome]) -> list[str]:
    count = len(outcomes)
    shares = (
        sum(each.image == "blanked" for each in outcomes),
        sum(each.frame == "blanked" for each in outcomes),
        sum("waits" in (each.image, each.frame) for each in outcomes),
        sum(each.touched for each in outcomes),
    )
    return [str(count), *(f"{share} ({share / count:.1%})" for share in shares)]


def _drawings(
    by_modality: dict[str, list[Picture]], random: Random
) -> Iterator[tuple[str, Picture, Planted]]:
    """Yield modality, image and image with text, without end."""
    while True:
        modality = random.choice(sorted(by_modality))
        base = _part(random.choice(by_modality[modality]), random)
        font, size, polarity = random.choice(FONTS), random.choice(SIZES), random.choice(list(POLARITIES))
        made = planted(base, random, font, size, polarity)
        if made is not None:
            yield modality, base, made


def _part(picture: Picture, random: Random) -> Picture:
    """Return an image that is not too large: a part of it, or itself."""
    if max(picture.rows, picture.columns) <= _LARGEST:
        return picture
    top, left = (random.randint(0, max(side - _LARGEST, 0)) for side in (picture.rows, picture.columns))
    (frame,) = stored_frames(picture)
    part = np.ascontiguousarray(frame[top : top + _LARGEST, left : left + _LARGEST])
    return replace(picture, rows=part.shape[0], columns=part.shape[1], value=part.tobytes())


_detector: Detector


def _begin() -> None:
    global _detector
    _detector = Detector()


def _tried(modality: str, base: Picture, made: Planted) -> tuple[list[tuple[str, str]], Outcome]:
    image = _blanked([made.picture], made.ink)
    frame = _blanked([base, made.picture], made.ink)
    kinds = [("modality", modality), ("font", made.font), ("pixels high", f"{made.size:02d}"),
             ("polarity", made.polarity), ("all", "")]  # fmt: skip
    return kinds, Outcome(image[0], frame[0], frame[1])


def _blanked(frames: list[Picture], ink: npt.NDArray[np.bool_]) -> tuple[str, bool]:
    """Clean an object of these frames; return what became of the text in the last, and whether others changed."""
    last = frames[-1]
    value = b"".join(frame.value for frame in frames)
    try:
        cleaned = clean(replace(last, frames=len(frames), value=value), _detector)
    except Quarantine:
        return "waits", False
    if cleaned.value is None:
        return "left", False
    before, end = len(value) - len(last.value), len(value)
    (after,) = stored_frames(replace(last, value=cleaned.value[before:end]))
    around = ink.copy()  # black letters differ from what is blank by what is around them
    for shift in itertools.product(range(-2, 3), repeat=2):
        around |= np.roll(ink, shift, (0, 1))
    gone = (after == blank_word(last)).all(axis=2)[around].mean()
    return "blanked" if gone >= _BLANKED else "left", cleaned.value[:before] != value[:before]
