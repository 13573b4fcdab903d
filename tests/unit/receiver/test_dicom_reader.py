"""The byte reader: finds the UIDs in every encoding, and never stumbles."""

import contextlib
import struct
import warnings
import zlib
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dicom_reader import (
    DEFLATED_LE,
    EXPLICIT_BE,
    EXPLICIT_LE,
    IMPLICIT_LE,
    META_BYTES,
    DicomReadError,
    Found,
    read_file_header,
    scan,
)

DATA = Path(__file__).parents[4] / "shared" / "data"
_UIDS = Found("1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2.4", "1.2.5")
#: One has text that looks like a preamble, the other file meta alone.
_NO_HEADER = ("no_preamble_dicm_in_data", "meta_missing_tsyntax.dcm")
_TAGS = (0x00080016, 0x00080018, 0x0020000D, 0x0020000E)


def _element(tag: int, vr: bytes, value: bytes, syntax: str, length: int | None = None) -> bytes:
    order = ">" if syntax == EXPLICIT_BE else "<"
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    count = len(value) if length is None else length
    if syntax == IMPLICIT_LE:
        return head + struct.pack("<I", count) + value
    if vr in (b"SQ", b"UN", b"OB"):
        return head + vr + b"\0\0" + struct.pack(order + "I", count) + value
    return head + vr + struct.pack(order + "H", count) + value


def _delimiter(tag: int, syntax: str, length: int = 0) -> bytes:
    order = ">" if syntax == EXPLICIT_BE else "<"
    return struct.pack(order + "HHI", tag >> 16, tag & 0xFFFF, length)


def _dataset(syntax: str, between: bytes = b"") -> bytes:
    parts = [
        _element(tag, b"UI", str(uid).encode() + b"\0", syntax)
        for tag, uid in zip(_TAGS, _UIDS[:4], strict=True)
    ]
    return parts[0] + parts[1] + between + parts[2] + parts[3]


def _nested(syntax: str, depth: int) -> bytes:
    inner = _element(0x0020000D, b"UI", b"9.9.9\0", syntax)
    for _ in range(depth):
        item = _delimiter(0xFFFEE000, syntax, 0xFFFFFFFF) + inner + _delimiter(0xFFFEE00D, syntax)
        inner = _element(0x00081140, b"SQ", item + _delimiter(0xFFFEE0DD, syntax), syntax, 0xFFFFFFFF)
    return inner


@pytest.mark.parametrize("syntax", [IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, "1.2.840.10008.1.2.4.90"])
@pytest.mark.parametrize("depth", [0, 1, 1000])
def test_uids_are_found_behind_sequences(syntax: str, depth: int) -> None:
    """The top level's UIDs are found in each byte order, behind sequences of any depth, not inside them."""
    encoding = EXPLICIT_LE if syntax.endswith(".90") else syntax
    assert scan(_dataset(encoding, _nested(encoding, depth)), syntax) == _UIDS


def test_an_unknown_sequence_of_undefined_length_is_implicit() -> None:
    """UN of undefined length holds implicit little endian, whatever is around it (PS3.5 6.2.2)."""
    inner = _delimiter(0xFFFEE000, IMPLICIT_LE, 0xFFFFFFFF) + _element(0x00091001, b"", b"abcd", IMPLICIT_LE)
    inner += _delimiter(0xFFFEE00D, IMPLICIT_LE) + _delimiter(0xFFFEE0DD, IMPLICIT_LE)
    between = _element(0x00091000, b"UN", inner, EXPLICIT_LE, 0xFFFFFFFF)
    assert scan(_dataset(EXPLICIT_LE, between), EXPLICIT_LE) == _UIDS


def test_deflated_data_is_inflated_to_a_bound() -> None:
    """A deflated dataset is read; a bomb costs no more than the limit."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = _dataset(EXPLICIT_LE) + bytes(50_000_000)
    data = packer.compress(bomb) + packer.flush()
    assert scan(data, DEFLATED_LE) == _UIDS
    assert scan(b"garbage", DEFLATED_LE) == Found()


def test_what_is_no_uid_is_named_and_not_returned() -> None:
    """A hostile or overlong UID is never returned; its field is named as invalid."""
    hostile = _element(0x00080016, b"UI", b"1.2\0", EXPLICIT_LE)
    hostile += _element(0x00080018, b"UI", b"../../../tmp/evil\0", EXPLICIT_LE)
    hostile += _element(0x0020000D, b"UI", b"1" * 66, EXPLICIT_LE)
    assert scan(hostile, EXPLICIT_LE) == Found(
        sop_class_uid="1.2", invalid=("sop_instance_uid", "study_instance_uid")
    )


@given(
    st.binary(max_size=400), st.sampled_from([IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, DEFLATED_LE, "1.2.3"])
)
def test_garbage_finds_nothing_and_raises_nothing(data: bytes, syntax: str) -> None:
    """No bytes make a scan raise, and no file header raises anything but its declared error."""
    scan(data, syntax)
    scan(_dataset(EXPLICIT_LE)[:60] + data, syntax)
    with contextlib.suppress(DicomReadError):
        read_file_header(data)


def test_a_file_without_preamble_or_meta_is_read() -> None:
    """Preamble and file meta may be absent; text that only looks like a preamble is none."""
    assert read_file_header(_dataset(EXPLICIT_LE)).transfer_syntax_uid == EXPLICIT_LE
    assert read_file_header(_dataset(IMPLICIT_LE)).transfer_syntax_uid == IMPLICIT_LE
    assert read_file_header(_dataset(EXPLICIT_BE)).transfer_syntax_uid == EXPLICIT_BE
    trap = _element(0x00080008, b"CS", b"x" * 120 + b"DICM\x41\x31", EXPLICIT_LE) + _dataset(EXPLICIT_LE)
    assert trap[128:132] == b"DICM"
    assert read_file_header(trap).dataset_offset == 0
    with pytest.raises(DicomReadError):
        read_file_header(b"PNG image, surely")


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")
def test_shared_files_agree_with_pydicom() -> None:
    """In every shared file pydicom reads the same UIDs, or none where ours are no UIDs."""
    compared = 0
    for path in sorted(DATA.rglob("*")):
        data = path.read_bytes() if path.is_file() and path.suffix in ("", ".dcm") else b""
        if data[128:132] != b"DICM" or path.name in _NO_HEADER:
            continue
        header = read_file_header(data[:META_BYTES])
        found = scan(data[header.dataset_offset :], header.transfer_syntax_uid)
        expected = _by_pydicom(path)
        if expected is not None and not found.invalid:
            compared += 1
            assert found[:4] == expected, path
    assert compared > 600


def _by_pydicom(path: Path) -> tuple[str | None, ...] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=list(_TAGS))
        except Exception:  # some are broken on purpose
            return None
        return tuple(str(dataset[tag].value) if dataset.get(tag) else None for tag in _TAGS)
