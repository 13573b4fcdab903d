"""Several listener processes: what one of them left behind that there is no more."""

import os
from pathlib import Path
from types import SimpleNamespace

from infra.spool import InstanceHeader, Spool, files, readers
from producers.receiver.processes import _seal_spools


def header() -> InstanceHeader:
    return InstanceHeader(
        project="default", source="local", association="a", ordinal=0, calling_ae_title="A", called_ae_title="B",
        address="127.0.0.1", trace="0" * 32, received_at=0.0, sop_class_uid="1.2", sop_instance_uid="1.2.3",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
    )  # fmt: skip


def test_every_spool_that_was_left_is_sealed(tmp_path: Path) -> None:
    """Also behind a number that is missing: what is in it would be published only when its segment is sealed."""
    for number in (1, 3, 4):
        spool = Spool(files.process_folder(tmp_path, number))
        spool.store(header(), b"data")
        os.close(spool._folder_lock)  # as a kill does
    found = SimpleNamespace(
        spool=SimpleNamespace(path=str(tmp_path), segment_bytes=1 << 20, limit_bytes=1 << 30)
    )
    _seal_spools(found, tmp_path, 1)  # type: ignore[arg-type]
    left = [reader for reader in readers(tmp_path).values() if reader.folder != tmp_path]
    assert len(left) == 2
    assert all(reader.segment(number).sealed for reader in left for number in reader.segments())
