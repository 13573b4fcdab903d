"""The DICOM door over real sockets: bytes kept, statuses true, records complete."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from doors import (
    CT,
    DATA,
    EXPLICIT,
    ROOT,
    Door,
    closings,
    dataset,
    eventually,
    free_port,
    item,
    needs_data,
    store_one,
    stored,
)

from infra.spool import Spool, SpoolReader
from producers.send import Association, Destination, Item, echo, inspect_file, send
from schemas.sources import Source


def test_echo(open_door: Callable[..., Door]) -> None:
    """C-ECHO is answered with 0000, and leaves nothing in the spool."""
    door = open_door()
    assert echo(door.destination) == 0
    door.stop()
    assert SpoolReader(door.folder).segments() == []


@needs_data
def test_shared_files_are_kept_byte_for_byte(open_door: Callable[..., Door]) -> None:
    """Every DICOM file of the shared data is acknowledged, and stored exactly as it was sent."""
    door = open_door()
    files = [path for path in sorted(DATA.rglob("*")) if path.is_file()]
    sent = {path: found for path in files if isinstance(found := inspect_file(path), Item)}
    results = list(send(list(sent), door.destination, associations=2))
    door.stop()
    assert all(result.stored for result in results), [result for result in results if not result.stored]
    assert len(results) > 790
    kept: dict[str, list[bytes]] = {}
    for header, data in stored(door.folder):
        kept.setdefault(header.sop_instance_uid, []).append(data)
    for path, found in sent.items():
        assert path.read_bytes()[found.dataset_offset :] in kept[found.sop_instance_uid], path
    assert sum(map(len, kept.values())) == len(results)


def test_alone(tmp_path: Path) -> None:
    """The command with a port, a folder and a title, and nothing else that runs: kept after `kill -9`."""
    folder, port = tmp_path / "spool", free_port()
    command = [
        sys.executable,
        "-m",
        "prodrome",
        "receive",
        "--port",
        str(port),
        "--spool",
        folder,
        "--aet",
        "ALONE",
    ]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PRODROME_")}
    environ |= {"PYTHONPATH": str(ROOT), "PRODROME_HOME": str(tmp_path / "home")}
    destination = Destination(host="127.0.0.1", port=port, called="ALONE")
    data = dataset("1.2.3.4")
    with subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL) as process:
        try:
            assert eventually(lambda: echo(destination) == 0, 30.0)
            association = Association(destination, {(CT, EXPLICIT): 1})
            assert association.store(item(tmp_path, "1.2.3.4", data)) == 0
            association.close()
        finally:
            process.kill()
    Spool(folder).close()
    assert [found for _, found in stored(folder)] == [data]


def test_statuses(open_door: Callable[..., Door], tmp_path: Path) -> None:
    """Each status of the table is given for its cause, and only Success and warnings are in the spool."""
    lax, strict = Source(name="lax"), Source(name="strict", called_ae_title="STRICT", strict=True)
    door = open_door(lax, strict, deny_sop_classes=("1.2.840.10008.5.1.4.1.1.66",))
    folder = tmp_path / "files"
    folder.mkdir()
    assert store_one(door, item(folder, "1.2.1", dataset("1.2.1"))) == 0x0000
    assert store_one(door, item(folder, "1.2.2", dataset("1.2.99"))) == 0xB007
    assert store_one(door, item(folder, "1.2.2", dataset("../../tmp/evil"))) == 0xB007
    assert store_one(door, item(folder, "../../tmp/evil", dataset("1.2.1"))) == 0x0117
    assert store_one(door, item(folder, "", dataset("1.2.1"))) == 0x0117
    assert store_one(door, item(folder, "1.2.3", b"", "1.2.840.10008.5.1.4.1.1.66")) == 0x0122
    assert store_one(door, item(folder, "1.2.4", b"garbage")) == 0x0000
    assert store_one(door, item(folder, "1.2.5", b"")) == 0x0000
    assert store_one(door, item(folder, "1.2.6", dataset("1.2.99")), called="STRICT") == 0xA900
    assert store_one(door, item(folder, "1.2.7", b"garbage"), called="STRICT") == 0xC000
    door.stop()
    kept = [(header.sop_instance_uid, header.dataset_mismatch) for header, _ in stored(door.folder)]
    assert kept == [("1.2.1", False), ("1.2.2", True), ("1.2.2", True), ("1.2.4", False), ("1.2.5", False)]
    assert not list(Path("/tmp").glob("evil*"))


def test_a_record_carries_source_project_and_study(open_door: Callable[..., Door], tmp_path: Path) -> None:
    """What the way ahead needs is in the record: project, source, study, ordinal, syntax, trace."""
    door = open_door(Source(name="ct", project="chest", calling_ae_titles=("CT1",)))
    folder = tmp_path / "files"
    folder.mkdir()
    paths = [item(folder, f"1.2.{n}", dataset(f"1.2.{n}")).path for n in range(3)]
    results = list(send(paths, Destination(host="127.0.0.1", port=door.destination.port, calling="CT1")))
    door.stop()
    assert [result.status for result in results] == [0, 0, 0]
    headers = [header for header, _ in stored(door.folder)]
    assert [header.ordinal for header in headers] == [0, 1, 2]
    assert {(h.project, h.source, h.study_instance_uid, h.transfer_syntax_uid) for h in headers} == {
        ("chest", "ct", "1.2.3", EXPLICIT)
    }
    assert len({header.trace for header in headers}) == 3
    (closed,) = closings(door.folder)
    assert (closed.association, closed.studies, closed.cause) == (
        headers[0].association,
        {"1.2.3": 3},
        "released",
    )


def test_a_large_object_passes_through_the_side_way(
    open_door: Callable[..., Door], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance over the memory bound is streamed into a segment of its own, byte for byte."""
    monkeypatch.setattr("producers.receiver.intake.MEMORY_BYTES", 1 << 20)
    door = open_door()
    folder = tmp_path / "files"
    folder.mkdir()
    data = [dataset(f"1.2.{n}", size) for n, size in enumerate((100, 5_000_000, 100))]
    paths = [item(folder, f"1.2.{n}", one).path for n, one in enumerate(data)]
    assert [result.status for result in send(paths, door.destination)] == [0, 0, 0]
    door.stop()
    assert [kept for _, kept in stored(door.folder)] == data
    assert not list(door.folder.glob("*.part"))
