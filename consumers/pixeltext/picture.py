"""The frames of a picture as arrays, decoded where they are compressed.

It is called where a crash or a hang does no harm (`child`), never in the process that reads from Kafka.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from consumers.deid.picture import Picture
from schemas.errors import Quarantine

#: Stored values of one frame: (rows, columns, samples).
Frame = npt.NDArray[Any]
#: left, top, right, bottom in pixels; right and bottom are outside
Box = tuple[int, int, int, int]

_SUBSAMPLED: Final = frozenset({"YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420"})
MAX_PIXELS: Final = 512 << 20  # of all frames; a larger object goes to a person


def stored_dtype(picture: Picture) -> np.dtype[Any]:
    """Return the type of the stored words of native pixels, high bits included."""
    return np.dtype(f"<u{picture.bits_allocated // 8}")


def check_picture(picture: Picture) -> None:
    """Raise `Quarantine` for pixels that are not read here: they wait for a person."""
    if picture.bits_allocated not in (8, 16) or picture.samples not in (1, 3):
        found = f"{picture.bits_allocated} bits, {picture.samples} samples"
        raise Quarantine("burned_in_risk", f"expected 8 or 16 bits and 1 or 3 samples, came {found}")
    if picture.native and picture.photometric in _SUBSAMPLED:
        raise Quarantine("burned_in_risk", f"native {picture.photometric} is not read")
    if picture.rows * picture.columns * picture.samples * picture.frames > MAX_PIXELS:
        raise Quarantine("burned_in_risk", f"expected at most {MAX_PIXELS} samples of pixels")


def stored_frames(picture: Picture) -> Iterator[Frame]:
    """Yield each frame: native words as they are (all bits), compressed ones decoded, YBR as RGB."""
    if picture.native:
        yield from _native(picture)
    else:
        yield from _decoded(picture)


def _native(picture: Picture) -> Iterator[Frame]:
    shape = (picture.rows, picture.columns, picture.samples)
    count = shape[0] * shape[1] * shape[2]
    words = np.frombuffer(picture.value, stored_dtype(picture), count * picture.frames)
    for frame in words.reshape(picture.frames, count):
        if picture.samples == 3 and picture.planar == 1:
            yield frame.reshape(picture.samples, picture.rows, picture.columns).transpose(1, 2, 0)
        else:
            yield frame.reshape(shape)


def _decoded(picture: Picture) -> Iterator[Frame]:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(picture.transfer_syntax_uid)
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = picture.rows, picture.columns, picture.samples
    dataset.NumberOfFrames, dataset.BitsAllocated = picture.frames, picture.bits_allocated
    dataset.BitsStored, dataset.HighBit = picture.bits_stored, picture.high_bit
    dataset.PixelRepresentation, dataset.PhotometricInterpretation = int(picture.signed), picture.photometric
    if picture.samples > 1:
        dataset.PlanarConfiguration = picture.planar
    dataset.PixelData = picture.value
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    for frame, _ in get_decoder(dataset.file_meta.TransferSyntaxUID).iter_array(dataset):
        yield frame.reshape(picture.rows, picture.columns, picture.samples)
