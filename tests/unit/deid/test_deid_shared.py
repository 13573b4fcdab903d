"""The shared files: each ends clean or with one reason, good data are not damaged, false alarms are few."""

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from planting import KEYS

from consumers.deid.engine import Profile, clean_file, deidentify_file, split_part10
from consumers.deid.triage import SOP_CLASSES
from schemas.errors import Quarantine

BRAIN_STEP = 32  # of 384 slices of one series, 12 tell the same
SIMPLE = {
    "CT Image Storage",
    "MR Image Storage",
    "Digital Mammography X-Ray Image Storage - For Presentation",
}


def _sampled(files: list[Path]) -> list[Path]:
    brain = [path for path in files if "brain-mri" in path.parts]
    return [path for path in files if "brain-mri" not in path.parts] + brain[::BRAIN_STEP]


def _outcome(path: Path, profile: Profile, *, admit: bool) -> tuple[str, str]:
    sop_class = ""
    try:
        data = path.read_bytes()
        sop_class = split_part10(data)[1]
        clean_file(data, profile, KEYS, admit_burned_in=admit)
    except Quarantine as stopped:
        return sop_class, stopped.reason
    return sop_class, "clean"


def test_every_shared_file_has_one_outcome(dicom_files: list[Path], profile: Profile) -> None:
    """801 files: clean or a reason; the brain series and the mammogram pass, SC, US and CR wait."""
    assert len(dicom_files) == 801
    table: Counter[tuple[str, str]] = Counter()
    for path in _sampled(dicom_files):
        sop_class, outcome = _outcome(path, profile, admit=False)
        name = SOP_CLASSES[sop_class].name if sop_class in SOP_CLASSES else "(unknown)"
        table[name, outcome] += 1
        assert outcome != "deid_failed", path
        if {"brain-mri", "mg-dicom"} & set(path.parts):
            assert outcome == "clean", path
    print(*(f"{n:4} {name}: {outcome}" for (name, outcome), n in sorted(table.items())), sep="\n")
    outcomes = {name: {o for n, o in table if n == name} for name, _ in table}
    for waiting in (
        "Secondary Capture Image Storage",
        "Ultrasound Image Storage",
        "Computed Radiography Image Storage",
    ):
        assert "clean" not in outcomes[waiting]


def test_false_alarms_of_the_residual_search_are_few(dicom_files: list[Path], profile: Profile) -> None:
    """On the shared files, all classes admitted, at most one in a hundred is stopped by the search."""
    outcomes = Counter(_outcome(path, profile, admit=True)[1] for path in _sampled(dicom_files))
    print(f"residual hits: {outcomes['residual_identifier']} of {outcomes['clean']} clean files")
    assert outcomes["residual_identifier"] <= outcomes["clean"] / 100


def _errors(path: Path) -> Counter[str]:
    said = subprocess.run(["dciodvfy", path], capture_output=True, check=False).stderr.decode("latin-1")
    lines = (line for line in said.splitlines() if line.startswith("Error"))
    return Counter(re.sub(r"<[^>]*>|=.*$", "", line).strip() for line in lines)


def test_mammograms_ct_and_mr_get_no_new_errors(
    dicom_files: list[Path], profile: Profile, tmp_path: Path
) -> None:
    """dciodvfy has nothing to say about a clean file that it did not say about the received one."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian dicom3tools) is not installed: make peers")
    checked = 0
    for path in _sampled(dicom_files)[::3]:
        try:
            data = path.read_bytes()
            if SOP_CLASSES[split_part10(data)[1]].name not in SIMPLE:
                continue
            clean = deidentify_file(data, profile, KEYS)
        except (Quarantine, KeyError):
            continue
        (tmp_path / "clean.dcm").write_bytes(clean)
        assert _errors(tmp_path / "clean.dcm") - _errors(path) == Counter(), path
        checked += 1
    print(f"{checked} files checked")
    assert checked > 40
