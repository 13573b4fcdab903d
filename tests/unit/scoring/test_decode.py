"""Decoding gives what the model may see, within bounds, or says why not."""

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGLSLossless

from infra.demo import to_bytes
from scoring.decode import DecodeError, Limits, decode

RAMP = np.arange(12, dtype=np.uint16).reshape(3, 4) * 300


def dataset_of(pixels: np.ndarray, **changes: object) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.2", "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return dataset


def decoded(pixels: np.ndarray, **changes: object) -> np.ndarray:
    return decode(to_bytes(dataset_of(pixels, **changes)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_native_pixels_come_out_as_they_are(dtype):
    """8 and 16 bits, signed and unsigned, without a modality LUT."""
    pixels = (RAMP // 20).astype(dtype)
    assert np.array_equal(decoded(pixels), pixels)


def test_rescale_is_applied():
    """Integral rescale stays integral; a broken slope gives float32."""
    assert np.array_equal(decoded(RAMP, RescaleSlope="2", RescaleIntercept="-10"), RAMP.astype(int) * 2 - 10)
    half = decoded(RAMP, RescaleSlope="0.5", RescaleIntercept="1")
    assert half.dtype == np.float32
    assert np.array_equal(half, RAMP * 0.5 + 1)


def test_a_modality_lut_is_applied():
    """A LUT is applied where the header has one, before anything looks at grey levels."""
    item = Dataset()
    item.LUTDescriptor, item.LUTData, item.ModalityLUTType = [4, 0, 16], [3, 2, 1, 0], "US"
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    pixels = np.array([[0, 1, 2, 3]], np.uint8)
    assert decoded(pixels, ModalityLUTSequence=Sequence([item])).tolist() == [[3, 2, 1, 0]]


@pytest.mark.parametrize("slope", ["1", "-3", "0.5"])
def test_monochrome1_is_mirrored_after_the_modality_lut(slope):
    """The model sees MONOCHROME2: the brightest becomes the darkest, after the rescale."""
    values = decoded(RAMP, RescaleSlope=slope)
    mirrored = decoded(RAMP, RescaleSlope=slope, PhotometricInterpretation="MONOCHROME1")
    assert np.allclose(mirrored, values.max() + values.min() - values)


def test_bits_above_the_stored_ones_are_no_grey_value():
    """Overlay bits of old objects are masked."""
    pixels = RAMP | 0xF000
    assert np.array_equal(decoded(pixels, BitsStored=12, HighBit=11), pixels & 0x0FFF)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Rows": 4}, "undecodable"),
        ({"PixelData": b"\0" * 8}, "undecodable"),
        ({"SamplesPerPixel": 3}, "undecodable"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "undecodable"),
        ({"NumberOfFrames": "2"}, "undecodable"),
        ({"BitsStored": 17}, "undecodable"),
        ({"HighBit": 3}, "undecodable"),
        ({"BitsAllocated": 32}, "undecodable"),
        ({"Rows": 0}, "over_limit"),
        ({"Rows": 65535, "Columns": 65535}, "over_limit"),
    ],
)
def test_a_header_that_promises_something_else_is_refused(changes, reason):
    """Nothing is allocated for a header that its pixels do not keep."""
    with pytest.raises(DecodeError, match="expected") as caught:
        decoded(RAMP, **changes)
    assert caught.value.reason == reason


@pytest.mark.parametrize("data", [b"", b"\0" * 200, b"\0" * 128 + b"DICM" + b"\xff" * 64])
def test_bytes_that_are_no_dicom_file_are_refused(data):
    """Anything else is undecodable, and no other error leaves the function."""
    with pytest.raises(DecodeError, match="undecodable"):
        decode(data)


def test_a_dataset_without_pixels_is_refused():
    """A header alone is no image."""
    dataset = dataset_of(RAMP)
    del dataset.PixelData
    with pytest.raises(DecodeError, match="expected PixelData"):
        decode(to_bytes(dataset))


def test_an_unreadable_compressed_image_says_so():
    """A compressed image without a decoder, or with broken fragments, ends in a word and not in a crash."""
    dataset = dataset_of(RAMP)
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset.PixelData = (
        b"\xfe\xff\x00\xe0\0\0\0\0" + b"\xfe\xff\x00\xe0\x04\0\0\0abcd" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    )
    dataset["PixelData"].is_undefined_length = True
    with pytest.raises(DecodeError) as caught:
        decode(to_bytes(dataset))
    assert caught.value.reason in ("unsupported_transfer_syntax", "undecodable")


def test_a_deflated_image_is_read_and_bounded():
    """Deflated is read; what inflates past the limit is refused before it is inflated whole."""
    dataset = dataset_of(np.zeros((1000, 1000), np.uint8))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data = to_bytes(dataset)
    assert decode(data).shape == (1000, 1000)
    with pytest.raises(DecodeError, match="over_limit"):
        decode(data, Limits(max_bytes=100_000))
