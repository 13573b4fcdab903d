"""`prodrome deid IN OUT`: folders in, clean files by pseudonym out; nothing lost, nothing half-written, nothing twice."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil
import pydicom
import pytest
from planting import CT, base, text

from commands.benching.deid_load import ct_series
from consumers.deid.manifest import verify
from consumers.deid.part10 import file_meta
from consumers.deid.syntaxes import EXPLICIT_LITTLE, SYNTAXES
from consumers.deid.writer import dataset_bytes
from schemas.errors import ProdromeError

ROOT = Path(__file__).parents[3]
KEY = "17" * 32


def _file(number: int, sop_class: str = CT, words: str = "") -> bytes:
    instance = f"1.2.3.4.{6000 + number}"
    dataset = base(sop_class, text(0x00080018, instance), text(0x00180024, words or "FSE"))
    return file_meta(sop_class, instance, EXPLICIT_LITTLE) + dataset_bytes(dataset, SYNTAXES[EXPLICIT_LITTLE])


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key file as it should be."""
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    path.chmod(0o600)
    return path


def _command(source: Path, target: Path, key: Path, *options: str) -> list[str]:
    asked = [str(source), str(target), "--key-file", str(key), *options]
    return [sys.executable, str(ROOT / "prodrome.py"), "deid", *asked]


def _run(source: Path, target: Path, key: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PRODROME_HOME": str(key.parent / "home"), "PYTHONPATH": str(ROOT)}
    command = _command(source, target, key, *options)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_folder_comes_out_by_pseudonym_and_the_same_again(tmp_path: Path, key: Path) -> None:
    """Any depth, one job or two: patient/study/series/instance, no name of IN, the same bytes each time."""
    source = tmp_path / "in"
    for number in range(6):
        folder = source / f"DOE JANE {number % 2}" / "deep" / "er"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"DOE {number}").write_bytes(_file(number))
    runs = [
        _run(source, tmp_path / "one", key, "--jobs", "1"),
        _run(source, tmp_path / "two", key, "--jobs", "2"),
        _run(source, tmp_path / "two", key, "--jobs", "2"),
    ]
    last = [(run.returncode, run.stdout.splitlines()[-1]) for run in runs]
    assert last == [(0, "6 written, 0 doubtful and not written")] * 3, runs[0].stderr
    found = _tree(tmp_path / "one")
    assert found == _tree(tmp_path / "two")
    assert len(found) == 6
    assert not any("DOE" in name for name in found)
    for name, data in found.items():
        patient, study, series, instance = name.removesuffix(".dcm").split("/")
        clean = pydicom.dcmread(pydicom.filebase.DicomBytesIO(data))
        assert (patient, study) == (clean.PatientID, clean.StudyInstanceUID)
        assert (series, instance) == (clean.SeriesInstanceUID, clean.SOPInstanceUID)


def test_what_is_refused_is_listed_and_not_written(tmp_path: Path, key: Path) -> None:
    """Doubtful, no DICOM, and another file of a UID that was written: each with its reason, and counted."""
    source = tmp_path / "in"
    source.mkdir()
    (source / "a").write_bytes(_file(1))
    (source / "b").write_bytes(_file(1, words="GRE"))
    (source / "c").write_bytes(_file(2, "1.2.840.10008.5.1.4.1.1.7"))
    (source / "d").write_text("no DICOM at all")
    (source / "e").symlink_to(source / "a")
    done = _run(source, tmp_path / "out", key)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "1 written, 3 doubtful and not written"
    assert {line.split()[1] for line in done.stdout.splitlines()[:-1]} >= {"burned_in_risk", "uid_conflict"}
    assert f"{source / 'c'}: burned_in_risk" in done.stderr
    assert len(_tree(tmp_path / "out")) == 1


@pytest.mark.parametrize("wrong", ["absent", "open", "short", "inside"])
def test_a_wrong_call_says_what_was_expected(tmp_path: Path, key: Path, wrong: str) -> None:
    """No key, one that others read, one that is none, OUT inside IN: one line, and nothing is written."""
    source = tmp_path / "in"
    source.mkdir()
    (source / "a").write_bytes(_file(1))
    target = source / "out" if wrong == "inside" else tmp_path / "out"
    if wrong == "absent":
        key = tmp_path / "other"
    elif wrong == "open":
        key.chmod(0o644)
    elif wrong == "short":
        key.write_text("1234")
    done = _run(source, target, key)
    expected = {
        "absent": "no secret at",
        "open": "chmod 600",
        "short": "64 hexadecimal",
        "inside": "outside of IN",
    }
    assert done.returncode == 1
    assert expected[wrong] in done.stderr
    assert KEY not in done.stderr
    assert not target.exists()


def test_a_process_that_is_killed_costs_its_own_file(tmp_path: Path, key: Path) -> None:
    """Whatever the machine ends for its memory is listed; the others are written, and nothing is left behind."""
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for number, data in enumerate(ct_series(80)):
        (source / f"{number:03d}").write_bytes(data)
    environment = {**os.environ, "PRODROME_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    command = _command(source, target, key, "--jobs", "2")
    running = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    killed = 0
    while running.poll() is None:
        if len(list(target.rglob("*.dcm"))) >= 10 * (killed + 1) and killed < 3:
            with suppress(psutil.Error):  # one that ends while we look
                children = psutil.Process(running.pid).children()
                next(child for child in children if "spawn_main" in " ".join(child.cmdline())).kill()
                killed += 1
        time.sleep(0.001)
    said, _ = running.communicate()
    written, refused = (int(said.splitlines()[-1].split()[n]) for n in (0, 2))
    assert killed == 3
    assert written + refused == 80
    assert 1 <= refused <= 3  # one that waited for its next file, or was just made, costs none
    assert f"{refused:8} crashed_worker" in said
    assert len(_tree(target)) == written


def test_a_kill_leaves_nothing_half_written(tmp_path: Path, key: Path) -> None:
    """Killed in the middle, each file in its place is whole; the next run completes it, byte for byte."""
    source = tmp_path / "in"
    source.mkdir()
    for number, data in enumerate(ct_series(60)):
        (source / f"{number:03d}").write_bytes(data)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert _run(source, whole, key).returncode == 0
    expected = _tree(whole)
    environment = {**os.environ, "PRODROME_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(
        _command(source, killed, key), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while len(list(killed.rglob("*.dcm"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    running.wait()
    placed = {name: data for name, data in _tree(killed).items() if name.endswith(".dcm")}
    assert 5 <= len(placed) <= 60
    assert placed.items() <= expected.items()
    assert _run(source, killed, key).returncode == 0
    assert _tree(killed) == expected


def test_the_manifest_tells_what_was_done(tmp_path: Path, key: Path) -> None:
    """A line a file, chained, the same each time, refused ones by reason; a changed line is found."""
    source, manifest = tmp_path / "in", tmp_path / "manifest.jsonl"
    source.mkdir()
    for number in range(3):
        (source / f"DOE {number}").write_bytes(_file(number))
    (source / "DOE 9").write_bytes(b"no DICOM")
    first = _run(source, tmp_path / "out", key, "--manifest", str(manifest), "--profile", "research")
    lines = manifest.read_bytes().splitlines(keepends=True)
    _run(source, tmp_path / "out", key, "--manifest", str(manifest), "--profile", "research", "--jobs", "1")
    assert manifest.read_bytes().splitlines(keepends=True) == lines
    count, head = verify(lines)
    assert count == 4
    assert head in first.stdout
    assert "attributes put in: pseudonym and method" in first.stdout
    said = [msgspec.json.decode(line) for line in lines]
    assert [one.get("refused", one.get("profile")) for one in said].count("research") == 3
    assert (tmp_path / "out" / said[0]["file"]).is_file()
    assert b"DOE" not in manifest.read_bytes()
    with pytest.raises(ProdromeError, match="line 3"):
        verify([lines[0], lines[1].replace(b"own", b"OWN", 1), *lines[2:]])
    assert not list(tmp_path.glob(".partial-*"))


def test_an_unknown_profile_is_an_error(tmp_path: Path, key: Path) -> None:
    """A wrong name ends the command before anything is written, and says which there are."""
    (tmp_path / "in").mkdir()
    done = _run(tmp_path / "in", tmp_path / "out", key, "--profile", "strict")
    assert done.returncode != 0
    assert "basic, safe-harbor, research" in done.stderr
