"""The writer: durable before it returns, one sync for many, segments in order, space watched."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.clock import ManualClock
from infra.spool import Kind, Record, Spool, SpoolLimits, SpoolReader, files
from infra.spool.format import payload_hash
from infra.spool.segment import Segment
from schemas.errors import Refused, SettingsError

Headers = Callable[..., object]


def test_what_is_stored_is_read_back(
    tmp_path: Path, limits: SpoolLimits, header: Headers, payloads: Headers
) -> None:
    """Payloads of any length come back byte for byte, over many segments."""
    sent = [os.urandom(length) for length in (0, 1, 7, 8, 9, 1000, 70_000, 200_000)]
    spool = Spool(tmp_path, limits)
    for ordinal, payload in enumerate(sent):
        spool.store(header(ordinal), payload)
    spool.close()
    assert payloads(tmp_path) == sent


def test_records_are_visible_once_durable(tmp_path: Path, header: Headers, payloads: Headers) -> None:
    """Another process sees a record as soon as `store` has returned, and none that is not synced."""
    spool = Spool(tmp_path)
    spool.store(header(), b"first")
    assert payloads(tmp_path) == [b"first"]
    assert spool._active is not None
    spool._active.append(Kind.INSTANCE, header(1), [b"second"], payload_hash(b"second"))  # type: ignore[arg-type]
    assert payloads(tmp_path) == [b"first"]
    spool.close()
    assert payloads(tmp_path) == [b"first", b"second"]


def test_one_sync_covers_many(tmp_path: Path, header: Headers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight associations share syncs: fewer syncs than instances, every instance there."""
    syncs, slow = [], threading.Event()
    real = Segment.sync

    def sync(segment: Segment) -> None:
        syncs.append(segment.tail)
        slow.wait(0.005)
        real(segment)

    monkeypatch.setattr(Segment, "sync", sync)
    spool = Spool(tmp_path)
    threads = [threading.Thread(target=_store_many, args=(spool, header, name)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spool.close()
    assert len(_instances(tmp_path)) == 80
    assert len(syncs) < 60


def test_a_large_instance_keeps_the_order(
    tmp_path: Path, limits: SpoolLimits, header: Headers, payloads: Headers
) -> None:
    """An instance streamed as a segment of its own stands between the ones before and after it."""
    spool = Spool(tmp_path, limits)
    spool.store(header(0), b"before")
    large = spool.begin_large()
    for _ in range(5):
        large.write(b"x" * 100_000)
    stored = large.finish(header(1))
    spool.store(header(2), b"after")
    spool.close()
    assert stored.place.payload_length == 500_000
    assert payloads(tmp_path) == [b"before", b"x" * 500_000, b"after"]


def test_a_discarded_large_instance_leaves_nothing(tmp_path: Path, header: Headers) -> None:
    """Half an instance, given up, leaves neither file nor record."""
    spool = Spool(tmp_path)
    large = spool.begin_large()
    large.write(b"x" * 1000)
    large.discard()
    spool.close()
    assert not list(tmp_path.glob("*.part"))
    assert _instances(tmp_path) == []


def test_a_sync_error_is_final_for_the_segment(
    tmp_path: Path, header: Headers, payloads: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed sync refuses its instance, keeps what was durable, and the next goes to a new segment."""
    spool = Spool(tmp_path)
    spool.store(header(0), b"durable")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", _io_error)
        with pytest.raises(Refused, match="sync_error"):
            spool.store(header(1), b"lost")
    spool.store(header(1), b"again")
    assert payloads(tmp_path) == [b"durable", b"again"]
    assert [record.segment for record in _instances(tmp_path)] == [1, 2]
    spool.close()


def test_everyone_who_waits_on_a_failed_sync_is_refused(
    tmp_path: Path, header: Headers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a hundred stores by four threads whose syncs all fail, none is said to be durable."""
    spool = Spool(tmp_path, SpoolLimits(segment_bytes=64 << 10, limit_bytes=1 << 30))
    monkeypatch.setattr(os, "fdatasync", _io_error)
    before = len(os.listdir("/proc/self/fd"))
    refused: list[str] = []
    threads = [threading.Thread(target=_expect_refusals, args=(spool, header, refused)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == ["sync_error"] * 100
    assert _instances(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_full_spool_refuses_and_recovers(tmp_path: Path, header: Headers) -> None:
    """At 95 % an instance is refused with `no_space`; freeing segments heals it without a restart."""
    clock = ManualClock()
    spool = Spool(tmp_path, SpoolLimits(segment_bytes=100_000, limit_bytes=1_000_000), clock)
    assert _stored_until_refused(spool, header) == "no_space"
    assert spool.ratio() > 0.8
    reader = SpoolReader(tmp_path)
    for number in reader.segments():
        reader.free(number)
    clock.advance(2.0)
    spool.store(header(100), bytes(50_000))
    spool.close()


def test_an_old_segment_is_sealed(tmp_path: Path, header: Headers) -> None:
    """A segment with records is sealed when it is old, one without is left open."""
    clock = ManualClock()
    spool = Spool(tmp_path, SpoolLimits(segment_seconds=300.0), clock)
    spool.store(header(), b"x")
    clock.advance(301.0)
    spool.tick()
    assert SpoolReader(tmp_path).segment(1).sealed
    spool.close()


def test_one_process_a_spool(tmp_path: Path) -> None:
    """A second writer is told that there is one; the folder is free again after `close`."""
    spool = Spool(tmp_path)
    with pytest.raises(SettingsError, match="has a writer already"):
        Spool(tmp_path)
    spool.close()
    Spool(tmp_path).close()


def test_numbers_are_never_used_twice(tmp_path: Path, header: Headers) -> None:
    """The newest segment is not freed, so that a pointer never comes to mean something else."""
    for _ in range(3):
        spool = Spool(tmp_path)
        spool.store(header(), b"x")
        spool.close()
        reader = SpoolReader(tmp_path)
        assert [reader.free(number) for number in files.segments(tmp_path)][-1] is False
    assert files.segments(tmp_path) == [3]


def test_closed_associations_are_counted_by_study(tmp_path: Path, header: Headers, records: Headers) -> None:
    """The closing record says how many instances of each study the association brought."""
    spool = Spool(tmp_path, SpoolLimits(segment_bytes=64 << 10))
    for ordinal in range(6):
        spool.store(header(ordinal, "a0", f"1.2.{ordinal % 2}"), bytes(40_000))
    spool.store(header(0, "a1", "1.2.0"), b"other")
    spool.close_association("a0", "released")
    spool.close_association("nothing", "released")
    spool.close()
    closed = [record.header for record in records(tmp_path) if record.kind == Kind.ASSOCIATION_CLOSED]
    assert [(row.association, row.studies, row.cause) for row in closed] == [
        ("a0", {"1.2.0": 3, "1.2.1": 3}, "released")
    ]


def _store_many(spool: Spool, header: Headers, name: str) -> None:
    for ordinal in range(10):
        spool.store(header(ordinal, name), os.urandom(5000))  # type: ignore[arg-type]


def _stored_until_refused(spool: Spool, header: Headers) -> str:
    for ordinal in range(100):
        try:
            spool.store(header(ordinal), bytes(50_000))  # type: ignore[arg-type]
        except Refused as refusal:
            return refusal.reason
    return ""


def _expect_refusals(spool: Spool, header: Headers, refused: list[str]) -> None:
    for ordinal in range(25):
        try:
            spool.store(header(ordinal), b"x" * 100)  # type: ignore[arg-type]
        except Refused as refusal:
            refused.append(refusal.reason)


def _instances(folder: Path) -> list[Record]:
    reader = SpoolReader(folder)
    found = (record for number in reader.segments() for record in reader.records(number))
    return [record for record in found if record.kind == Kind.INSTANCE]


def _io_error(_descriptor: int) -> None:
    raise OSError(5, "injected")
