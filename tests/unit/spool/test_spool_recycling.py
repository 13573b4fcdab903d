"""Files of freed segments, written again: nothing of the old one comes back, and nothing stays for long."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.spool import (
    InstanceHeader,
    Spool,
    SpoolLimits,
    SpoolReader,
    SpoolStore,
    files,
    pointer_to,
    recycling,
)
from schemas.errors import BadMessage

HeaderMaker = Callable[..., InstanceHeader]
_LIMITS = SpoolLimits(segment_bytes=64 << 10)


def filled(folder: Path, chance: random.Random, header: HeaderMaker) -> Spool:
    """A spool whose first segments are full and freed."""
    spool = Spool(folder, _LIMITS)
    for n in range(40):
        spool.store(header(n), chance.randbytes(chance.randrange(1, 8000)))
    reader = SpoolReader(folder)
    for number in reader.segments():
        reader.free(number)
    return spool


def inodes(folder: Path, suffix: str) -> set[int]:
    return {path.stat().st_ino for path in folder.glob("*" + suffix)}


@pytest.mark.parametrize("seed", range(20))
def test_nothing_of_the_old_segment_comes_back(
    tmp_path: Path, header: HeaderMaker, payloads: Callable[[Path], list[bytes]], seed: int
) -> None:
    """Killed in the middle of a recycled segment, whole old records behind its tail: recovery finds the new ones."""
    chance = random.Random(seed)
    spool = filled(tmp_path, chance, header)
    kept = inodes(tmp_path, recycling.SUFFIX)
    assert 0 < len(kept) <= recycling.KEEP
    spool._seal("full")
    left = payloads(tmp_path)
    new = [chance.randbytes(chance.randrange(1, 8000)) for _ in range(chance.randrange(1, 6))]
    for n, data in enumerate(new):
        spool.store(header(100 + n), data)
    assert inodes(tmp_path, files.SUFFIX) & kept, "the file was written again"
    os.close(spool._folder_lock)  # as a kill leaves it: no seal
    Spool(tmp_path, _LIMITS).close()
    assert payloads(tmp_path) == [*left, *new]


def test_a_pointer_into_a_freed_segment_is_missing(tmp_path: Path, header: HeaderMaker) -> None:
    """Not corrupt: its file may be written again already."""
    spool = Spool(tmp_path, _LIMITS)
    spool.store(header(0), b"x" * 5000)
    reader, store = SpoolReader(tmp_path), SpoolStore.of(tmp_path)
    (record,) = [one for one in reader.records(1) if one.kind == 1]
    spool._seal("full")
    spool.store(header(1), b"y")
    assert reader.free(1)
    with pytest.raises(BadMessage) as raised:
        store.read(pointer_to(reader.id, record))
    assert raised.value.reason == "missing_raw"
    spool.close()


def test_what_was_freed_ends(tmp_path: Path, header: HeaderMaker) -> None:
    """After its time, at the next start, and at once where somebody says so."""
    spool = filled(tmp_path, random.Random(1), header)
    recycling.sweep(tmp_path)
    assert inodes(tmp_path, recycling.SUFFIX)
    for path in tmp_path.glob("*" + recycling.SUFFIX):
        os.utime(path, (0, 0))
    spool.tick()
    assert not inodes(tmp_path, recycling.SUFFIX)
    spool.close()
    spool = filled(tmp_path, random.Random(2), header)
    assert inodes(tmp_path, recycling.SUFFIX)
    spool.close()
    Spool(tmp_path, _LIMITS).close()
    assert not inodes(tmp_path, recycling.SUFFIX)


def test_kept_files_are_space_that_is_free(tmp_path: Path, header: HeaderMaker) -> None:
    """They do not bring the spool nearer to its limit."""
    limits = SpoolLimits(segment_bytes=64 << 10, limit_bytes=1 << 20)
    spool = Spool(tmp_path, limits)
    for n in range(40):
        spool.store(header(n), bytes(8000))
    reader = SpoolReader(tmp_path)
    for number in reader.segments():
        reader.free(number)
    spool._space.forget()
    assert recycling.kept_bytes(tmp_path) > 100_000
    assert spool.ratio() < 0.15
    spool.close()
