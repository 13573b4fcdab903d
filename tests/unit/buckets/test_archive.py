"""Zip archives: members as ranges, harm refused, nothing unpacked."""

import contextlib
import io
import struct
import zipfile
import zlib

import pytest

from producers.bridge import archive
from producers.bridge.contents import is_archive
from schemas.errors import Refused


def _zip(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as file:
        for name, data in members:
            file.writestr(name, data)
    return made.getvalue()


def _reader(data: bytes):
    return lambda offset, length: data[offset : offset + length]


def _opened(data: bytes, limit: int = 1 << 30) -> list[archive.Member]:
    read = _reader(data)
    return [archive.open_member(read, len(data), info, limit) for info in archive.members(read, len(data))]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_is_a_range_of_the_archive(method):
    """Its bytes, inflated where they are deflated, are the member's; its beginning is there already."""
    contents = {"a/1.dcm": bytes(range(256)) * 100, "a/2": b"", "b": b"x" * 5}
    data = _zip(*contents.items(), ("folder/", b""), method=method)
    for member, wanted in zip(_opened(data), contents.values(), strict=True):
        packed = data[member.offset : member.offset + member.length]
        plain = packed if member.inflated is None else zlib.decompress(packed, -15)
        assert plain == wanted
        assert (member.size, member.crc) == (len(wanted), zlib.crc32(wanted))
        assert member.begin == wanted[: archive.BEGIN_BYTES]


def test_the_archive_is_read_by_ranges():
    """Of a large archive its directory and the members' beginnings are read, no more."""
    data, asked = _zip(*((str(i), bytes(1 << 20)) for i in range(8)), method=zipfile.ZIP_STORED), []

    def read(offset: int, length: int) -> bytes:
        asked.append(length)
        return data[offset : offset + length]

    for info in archive.members(read, len(data)):
        archive.open_member(read, len(data), info, 1 << 30)
    assert sum(asked) < len(data) / 40


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/../../b", "..\\up", "C:\\x", "\\x"])
def test_a_name_that_leads_out_of_the_archive_is_refused(name):
    """Nothing is written under a member's name; who uses such a name means no good."""
    data = _zip(("aaaaaaaaaaaa", b"1")).replace(b"aaaaaaaaaaaa", name.encode().ljust(12, b"_"))
    with pytest.raises(Refused, match="bad_member"):
        _opened(data)


def test_a_bomb_is_refused_before_it_is_inflated():
    """A megabyte of zeros a kilobyte is no image."""
    with pytest.raises(Refused, match="bad_member"):
        _opened(_zip(("bomb", bytes(64 << 20))))


def test_members_that_overlap_are_refused():
    """One kernel that every member points at (the bomb of zbsm.zip) is no archive."""
    data = bytearray(_zip(("a", b"1" * 100), ("b", b"2" * 100), method=zipfile.ZIP_STORED))
    second = data.rindex(b"PK\x01\x02")
    data[second + 42 : second + 46] = struct.pack("<I", 10)
    with pytest.raises(Refused, match="bad_archive"):
        _opened(bytes(data))


def test_a_member_over_the_limit_is_refused():
    """The limit is that of objects."""
    with pytest.raises(Refused, match="too_large"):
        _opened(_zip(("a", b"12345678"), method=zipfile.ZIP_STORED), limit=7)


def test_an_encrypted_member_is_refused():
    """Nobody has its key."""
    data = bytearray(_zip(("a", b"1" * 100)))
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(Refused, match="encrypted"):
        _opened(bytes(data))


def test_a_broken_archive_is_refused_wherever_it_is_cut():
    """Whatever is left of it, the answer is a reason or its members, never another error."""
    data = _zip(("a", b"1" * 1000), ("b", bytes(range(256))))
    for end in range(0, len(data), 7):
        with pytest.raises(Refused):
            _opened(data[:end])


def test_a_byte_changed_anywhere_is_a_reason_or_no_change():
    """No byte of an archive can end the bridge."""
    data = _zip(("a", b"1" * 300), ("b", bytes(range(256)) * 2))
    reasons = set()
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 0xFF
        with contextlib.suppress(Refused):
            _opened(bytes(broken))
            continue
        reasons.add(at)
    assert 0 < len(reasons) < len(data)


def test_a_directory_that_claims_too_much_is_refused():
    """The end record names a size; what is asked of the store is bounded."""
    data = bytearray(_zip(("a", b"1")) + bytes(100))
    end = data.rindex(b"PK\x05\x06")
    del data[end + 22 :]
    big = bytes(20 << 20)
    data[end + 12 : end + 16] = struct.pack("<I", len(big))
    with pytest.raises(Refused, match="bad_archive"):
        _opened(big + bytes(data))


def test_a_dicom_file_may_begin_like_an_archive():
    """Its preamble may hold anything; what stands behind it decides."""
    assert is_archive(b"PK\x03\x04" + bytes(200))
    assert not is_archive(b"PK\x03\x04" + bytes(124) + b"DICM")
