"""Recovery: whatever a kill or a power loss leaves, nothing acknowledged is lost and nothing torn is read."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.spool import (
    AssociationClosedHeader,
    Kind,
    Spool,
    SpoolLimits,
    SpoolReader,
    SpoolStore,
    files,
    pointer_to,
)
from infra.spool.format import payload_hash
from infra.spool.watermark import Watermark
from schemas.errors import BadMessage
from schemas.events import Pointer

Headers = Callable[..., object]
_LIMITS = SpoolLimits(segment_bytes=64 << 10, limit_bytes=1 << 30)


class _Crash:
    """A spool that crashes: what was not synced survives only up to some byte, and may be garbage there."""

    def __init__(self, folder: Path, header: Headers) -> None:
        self.folder, self.header = folder, header
        self.acknowledged: list[bytes] = []
        self.pending: list[bytes] = []
        self.spool = Spool(folder, _LIMITS)

    def store(self, payload: bytes) -> None:
        self.spool.store(self.header(len(self.acknowledged)), payload)  # type: ignore[arg-type]
        self.acknowledged.append(payload)

    def crash(self, pending: bytes, kept: float, garbage: bytes) -> None:
        """Die while `pending` is appended: a share of its bytes reached the disk, then garbage."""
        segment = self.spool._writable(len(pending))
        self.pending.append(pending)
        segment.append(Kind.INSTANCE, self.header(999), [pending], _hash(pending))  # type: ignore[arg-type]
        cut = segment.durable + int((segment.tail - segment.durable) * kept)
        os.ftruncate(segment.descriptor, cut)
        os.pwrite(segment.descriptor, garbage, cut)
        os.close(self.spool._folder_lock)
        self.spool = Spool(self.folder, _LIMITS)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.one_of(
            st.binary(max_size=3000),
            st.tuples(st.binary(max_size=3000), st.floats(0, 1, exclude_max=True), st.binary(max_size=200)),
        ),
        max_size=12,
    ),
    lose_mark=st.booleans(),
)
def test_acknowledged_survives_any_crash(
    steps: list[bytes | tuple[bytes, float, bytes]], lose_mark: bool, header: Headers, payloads: Headers
) -> None:
    """After stores and crashes at any byte, the acknowledged datasets are there, in order, and none torn."""
    folder = Path(tempfile.mkdtemp(prefix="prodrome-spool-"))
    try:
        model = _Crash(folder, header)
        for step in steps:
            if isinstance(step, bytes):
                model.store(b"acknowledged" + step)
            else:
                model.crash(b"pending" + step[0], *step[1:])
        if lose_mark:  # a power loss may take the watermark back to nothing
            os.close(model.spool._folder_lock)
            (folder / "durable").write_bytes(b"")
            model.spool = Spool(folder, _LIMITS)
        model.spool.close()
        found = payloads(folder)
        assert [data for data in found if data.startswith(b"acknowledged")] == model.acknowledged
        assert {data for data in found if not data.startswith(b"acknowledged")} <= set(model.pending)
    finally:
        shutil.rmtree(folder)


def test_a_whole_record_that_was_not_acknowledged_is_kept(
    tmp_path: Path, header: Headers, payloads: Headers
) -> None:
    """What is whole after a kill stays: its sender may have been answered in the last moment."""
    spool = Spool(tmp_path)
    spool.store(header(0), b"first")
    assert spool._active is not None
    spool._active.append(Kind.INSTANCE, header(1), [b"second"], _hash(b"second"))  # type: ignore[arg-type]
    os.close(spool._folder_lock)
    Spool(tmp_path).close()
    assert payloads(tmp_path) == [b"first", b"second"]


def test_a_dataset_that_looks_like_a_record_is_none(
    tmp_path: Path, header: Headers, payloads: Headers
) -> None:
    """A forged record inside a dataset is not taken for one where a torn tail leaves it exposed."""
    spool = Spool(tmp_path)
    spool.store(header(0), b"first")
    assert spool._active is not None
    forged = _forged_record(spool._active.number)
    os.pwrite(spool._active.descriptor, forged, spool._active.tail)
    os.close(spool._folder_lock)
    Spool(tmp_path).close()
    assert payloads(tmp_path) == [b"first"]


def test_damage_before_the_durable_end_cuts_nothing(tmp_path: Path, header: Headers) -> None:
    """A damaged record is stepped over, a damaged payload is reported to its reader, the rest is served."""
    spool = Spool(tmp_path)
    places = [spool.store(header(n), bytes([n]) * 1000).place for n in range(4)]
    path = files.segment_path(tmp_path, 1)
    os.close(spool._folder_lock)
    with path.open("r+b") as file:
        file.seek(places[0].payload_offset - 10)
        file.write(b"#")
        file.seek(places[2].payload_offset)
        file.write(b"#")
    Spool(tmp_path).close()
    reader, store = SpoolReader(tmp_path), SpoolStore.of(tmp_path)
    found = [record for record in reader.records(1) if record.kind == Kind.INSTANCE]
    assert [record.number for record in found] == [1, 2, 3]
    assert store.read(pointer_to(reader.id, found[2])) == b"\3" * 1000
    with pytest.raises(BadMessage, match="raw_corrupt"):
        store.read(pointer_to(reader.id, found[1]))


def test_associations_of_a_killed_writer_are_closed(
    tmp_path: Path, header: Headers, records: Headers
) -> None:
    """After a kill the open associations are closed once, with the counts of all their segments."""
    spool = Spool(tmp_path, _LIMITS)
    for ordinal in range(5):
        spool.store(header(ordinal, "a0", "1.2"), bytes(30_000))
    spool.store(header(0, "a1", "1.9"), b"x")
    spool.close_association("a1", "released")
    os.close(spool._folder_lock)
    Spool(tmp_path, _LIMITS).close()
    Spool(tmp_path, _LIMITS).close()
    closed = [r.header for r in records(tmp_path) if isinstance(r.header, AssociationClosedHeader)]
    assert [(row.association, row.cause, row.studies) for row in closed] == [
        ("a1", "released", {"1.9": 1}),
        ("a0", "killed", {"1.2": 5}),
    ]


def test_half_a_large_instance_is_swept(tmp_path: Path, header: Headers, payloads: Headers) -> None:
    """A kill while a large instance arrives leaves no file behind after the next start."""
    spool = Spool(tmp_path)
    spool.store(header(0), b"first")
    spool.begin_large().write(b"x" * 10_000)
    os.close(spool._folder_lock)
    Spool(tmp_path).close()
    assert not list(tmp_path.glob("*.part"))
    assert payloads(tmp_path) == [b"first"]


def test_an_unreadable_segment_is_set_aside(tmp_path: Path, header: Headers) -> None:
    """A segment without a readable header is kept for a person, and the writer goes on behind it."""
    spool = Spool(tmp_path)
    spool.store(header(0), b"first")
    os.close(spool._folder_lock)
    with files.segment_path(tmp_path, 1).open("r+b") as file:
        file.write(b"XX")
    spool = Spool(tmp_path)
    spool.store(header(1), b"second")
    spool.close()
    assert [path.name for path in tmp_path.glob("*.damaged")] == ["000000000001.damaged"]
    assert files.segments(tmp_path) == [2]


def test_a_freed_segment_is_said_to_be_gone(tmp_path: Path, header: Headers) -> None:
    """A pointer into a freed segment is a dead letter with its reason, not a crash."""
    spool = Spool(tmp_path)
    spool.store(header(0), b"first")
    record = next(r for r in SpoolReader(tmp_path).records(1) if r.kind == Kind.INSTANCE)
    pointer: Pointer = pointer_to(spool.id, record)
    spool.close()
    files.segment_path(tmp_path, 1).unlink()
    with pytest.raises(BadMessage, match="missing_raw"):
        SpoolStore.of(tmp_path).read(pointer)


def test_the_watermark_of_nothing_is_zero(tmp_path: Path) -> None:
    """A new spool has no durable end, and a garbled file is read as none."""
    mark = Watermark(tmp_path, writing=True)
    assert mark.load() == (0, 0)
    (tmp_path / "durable").write_bytes(b"garbage" * 1000)
    assert Watermark(tmp_path).load() == (0, 0)


_WRITER = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from infra.spool import InstanceHeader, Spool, SpoolLimits
spool = Spool(Path(sys.argv[1]), SpoolLimits(segment_bytes=256 << 10, limit_bytes=1 << 30))
base = int(sys.argv[2])
for n in range(100_000):
    payload = b"%d " % (base + n) * 800
    spool.store(InstanceHeader(
        project="default", source="local", association="a0", ordinal=n, calling_ae_title="A",
        called_ae_title="B", address="127.0.0.1", trace="0", received_at=1.0, sop_class_uid="1.2",
        sop_instance_uid="1.3", transfer_syntax_uid="1.2.840.10008.1.2", study_instance_uid="1.4",
    ), payload)
    os.write(1, b"%d\\n" % (base + n))
"""


def test_kill_9_loses_nothing_acknowledged(tmp_path: Path, payloads: Headers) -> None:
    """Eight writers are killed at random moments: all that they acknowledged is there, byte for byte."""
    root = str(Path(__file__).parents[3])
    acknowledged: list[int] = []
    for round_ in range(8):
        command = [sys.executable, "-c", _WRITER, str(tmp_path), str(round_ * 1_000_000), root]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline()]
            time.sleep(round_ * 0.01)
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        acknowledged += [int(line) for line in lines if line.endswith(b"\n")]
    Spool(tmp_path).close()
    found = payloads(tmp_path)
    assert len(acknowledged) > 100
    assert {b"%d " % number * 800 for number in acknowledged} <= set(found)


_hash = payload_hash


def _forged_record(segment: int) -> bytes:
    from infra.spool import format as fmt

    body = fmt.encode_header(fmt.SealedHeader(instances=0, reason="forged"))
    prefix = fmt.encode_prefix(
        fmt.Kind.SEALED, body, number=fmt.NO_NUMBER, segment=segment, length=0, payload=0, seed=0
    )
    return prefix + body
