"""Clean Part 10 bytes to one image that the model may see: MONOCHROME2 after the modality LUT.

1. Bound the work before it is done: bytes, rows, columns, frames, inflated size.
2. Read the dataset, and compare its pixel data with what its header promises.
3. Decode: native here, compressed through pydicom's handlers where one is installed.
4. Modality LUT, then MONOCHROME1 mirrored in its own range.

It applies no VOI LUT and crops nothing: that is the preparation's business.
"""

import io
import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import apply_modality_lut
from pydicom.uid import DeflatedExplicitVRLittleEndian

from schemas.errors import ProdromeError
from scoring.outcomes import FAILED

Image = NDArray[Any]  # (rows, columns), integer where the modality LUT allows, else float32

#: the file meta group of a clean object ends within this many bytes
META_WITHIN: Final = 2**14

PHOTOMETRIC: Final = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of decoding: a wrong header must not take the memory of the process."""

    max_bytes: int = 512 * 2**20  # bytes of the object, also after inflating
    max_pixels: int = 128 * 2**20  # rows x columns; the largest mammograms have 3e7


class DecodeError(ProdromeError):
    """The bytes are no image that can be scored; carries a word of `FAILED`, and which image it is."""

    def __init__(self, reason: str, detail: str, where: str | None = None) -> None:
        assert reason in FAILED, reason
        self.reason = reason if where is None else f"{reason}:{where}"
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


def decode(data: bytes, limits: Limits = Limits(), where: str | None = None) -> Image:
    """Decode one single-frame greyscale image.

    Parameters
    ----------
    data : bytes
        A DICOM Part 10 file.
    limits : Limits
        Bounds of the work.
    where : str, optional
        What the image is to the model, for the reason of an error.

    Returns
    -------
    Image
        (rows, columns), units of the modality LUT's output; larger is brighter.

    Raises
    ------
    DecodeError
        With what was expected and what came.
    """
    try:
        return _decode(data, limits)
    except DecodeError as error:
        if where is None:
            raise
        raise DecodeError(error.reason, error.detail, where) from error


def _decode(data: bytes, limits: Limits) -> Image:
    dataset = _read(data, limits)
    _check_header(dataset, limits)
    stored = _pixels(dataset)  # (rows, columns) int
    image = _modality_lut(stored, dataset)  # (rows, columns) int or float32
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        image = _inverted(image)
    return image


def _read(data: bytes, limits: Limits) -> pydicom.Dataset:
    if len(data) > limits.max_bytes:
        raise DecodeError("over_limit", f"expected at most {limits.max_bytes} bytes, found {len(data)}")
    try:
        if DeflatedExplicitVRLittleEndian.encode() in data[:META_WITHIN]:
            _check_inflated(data, limits)
        return pydicom.dcmread(io.BytesIO(data))
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(
            "undecodable", f"expected a DICOM file, pydicom says {type(error).__name__}"
        ) from error


def _check_inflated(data: bytes, limits: Limits) -> None:
    # (0002,0000) is the first element, and tells where the dataset begins; a lie ends as a zlib error.
    start = 144 + int.from_bytes(data[140:144], "little")
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflater.decompress(data[start:], limits.max_bytes)
    if inflater.unconsumed_tail:
        raise DecodeError("over_limit", f"expected at most {limits.max_bytes} bytes inflated, found more")


def _check_header(dataset: pydicom.Dataset, limits: Limits) -> None:
    expected: dict[str, tuple[object, ...]] = {
        "SamplesPerPixel": (1,),
        "PhotometricInterpretation": PHOTOMETRIC,
        "BitsAllocated": (8, 16),
        "PixelRepresentation": (0, 1),
        "NumberOfFrames": (None, 1),
    }
    for keyword, allowed in expected.items():
        if dataset.get(keyword) not in allowed:
            raise DecodeError("undecodable", f"{keyword}: expected one of {allowed}, found another value")
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    stored, allocated = int(dataset.get("BitsStored") or 0), int(dataset.BitsAllocated)
    if not (0 < rows * columns <= limits.max_pixels):
        raise DecodeError("over_limit", f"expected 1 to {limits.max_pixels} pixels, found {rows} x {columns}")
    if not (0 < stored <= allocated and dataset.get("HighBit") == stored - 1):
        raise DecodeError(
            "undecodable", f"expected HighBit = BitsStored - 1 within {allocated} bits, found otherwise"
        )
    if "PixelData" not in dataset:
        raise DecodeError("undecodable", "expected PixelData, found none")
    needed, found = rows * columns * allocated // 8, len(dataset.PixelData)
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated and found - needed not in (0, needed % 2):
        raise DecodeError("undecodable", f"PixelData: expected {needed} bytes, found {found}")


def _pixels(dataset: pydicom.Dataset) -> Image:
    shape = (int(dataset.Rows), int(dataset.Columns))
    try:
        stored: Image = dataset.pixel_array
    except (NotImplementedError, RuntimeError) as error:  # pydicom's answers where it has no decoder
        syntax = dataset.file_meta.TransferSyntaxUID
        raise DecodeError("unsupported_transfer_syntax", f"no decoder for {syntax} could be used") from error
    except Exception as error:
        raise DecodeError("undecodable", f"the decoder says {type(error).__name__}") from error
    if stored.shape != shape:
        raise DecodeError("undecodable", f"expected {shape} pixels, the decoder gave {stored.shape}")
    if dataset.PixelRepresentation == 0 and dataset.BitsStored < dataset.BitsAllocated:
        stored = stored & (
            (1 << int(dataset.BitsStored)) - 1
        )  # overlay bits of old objects are no grey value
    return stored


def _modality_lut(stored: Image, dataset: pydicom.Dataset) -> Image:
    slope = float(dataset.get("RescaleSlope") or 1.0)
    intercept = float(dataset.get("RescaleIntercept") or 0.0)
    if "ModalityLUTSequence" in dataset:
        return np.asarray(apply_modality_lut(stored, dataset))
    if (slope, intercept) == (1.0, 0.0):
        return stored
    if slope.is_integer() and intercept.is_integer() and abs(slope) * 2**16 + abs(intercept) < 2**31:
        return stored.astype(np.int32) * int(slope) + int(intercept)
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


def _inverted(image: Image) -> Image:
    if image.dtype.kind == "f":
        return np.asarray(image.max() + image.min() - image)
    # Integers are mirrored in their own range too: a standardised histogram knows no offset.
    low, high = int(image.min()), int(image.max())
    return (low + high - image.astype(np.int32)).astype(image.dtype)
