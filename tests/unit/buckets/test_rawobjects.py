"""Raw bytes by pointer: members of archives are what their archive says, or nothing."""

import zlib
from pathlib import Path

import pytest

from consumers.rawobjects import RawObjects
from infra.settings import load
from schemas.errors import BadMessage, SlowDown
from schemas.events import Pointer

URI = "s3://b/k?etag=e-1"


class _Buckets:
    """Gives ranges of one object; `away` so many times."""

    def __init__(self, data: bytes) -> None:
        self.data, self.away, self.asked = data, 0, 0

    def read(self, version, offset: int, length: int) -> bytes:
        self.asked += 1
        if self.away:
            self.away -= 1
            raise SlowDown("away")
        return self.data[offset : offset + length]


@pytest.fixture
def raw(tmp_path: Path) -> RawObjects:
    return RawObjects(load({"PRODROME_HOME": str(tmp_path)}))


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def _member(data: bytes, **changes: object) -> tuple[bytes, Pointer]:
    packed = _deflated(data)
    given = {
        "length": len(packed),
        "inflated": len(data),
        "checksum": f"crc32:{zlib.crc32(data):08x}",
        **changes,
    }
    return b"zip" + packed, Pointer(uri=URI, offset=3, **given)  # type: ignore[arg-type]


def test_a_member_is_inflated_and_checked(raw: RawObjects):
    """Read ahead or not."""
    data, pointer = _member(b"image" * 1000)
    raw.__dict__["_buckets"] = _Buckets(data)
    assert raw.read(pointer) == b"image" * 1000
    raw.expect([pointer, pointer])
    assert raw.read(pointer) == b"image" * 1000


@pytest.mark.parametrize(
    "changes", [{"inflated": 4999}, {"inflated": 5001}, {"checksum": "crc32:00000000"}, {"length": 3}],
    ids=["longer", "shorter", "other bytes", "cut"],
)  # fmt: skip
def test_a_member_that_is_not_what_its_archive_says_is_corrupt(raw: RawObjects, changes: dict):
    """And no more of it is inflated than was promised."""
    data, pointer = _member(b"image" * 1000, **changes)
    raw.__dict__["_buckets"] = _Buckets(data)
    with pytest.raises(BadMessage, match="raw_corrupt"):
        raw.read(pointer)


def test_a_store_that_is_away_is_not_asked_by_every_job(raw: RawObjects):
    """One of a share has waited for it: the others end at once, and the batch comes again."""
    data, pointer = _member(b"image")
    raw.__dict__["_buckets"] = buckets = _Buckets(data)
    buckets.away = 1
    for _ in range(5):
        with pytest.raises(SlowDown):
            raw.read(pointer)
    assert buckets.asked == 1


def test_only_pointers_into_buckets_are_its_own(raw: RawObjects):
    """The spool's are the spool's."""
    assert raw.names(Pointer(uri=URI, offset=0, length=1))
    assert not raw.names(Pointer(uri="spool://s/1", offset=0, length=1))
    with pytest.raises(BadMessage, match="missing_raw"):
        raw.read(Pointer(uri="s3://b/k", offset=0, length=1))
