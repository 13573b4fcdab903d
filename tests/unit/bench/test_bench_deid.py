"""The bench of de-identification: its files are what they say, its tools run, its table sees a row that is off."""

import io
from pathlib import Path

import pydicom

from commands.bench_deid import run_tool
from commands.benching.deid_load import ELEMENTS, ct_series, enhanced
from commands.benching.deid_table import CT, DEPTHS, admissible, ours, planted_file, row_outcomes
from consumers.deid.engine import ProjectKeys, basic_profile, deidentify_file

KEYS = ProjectKeys.derive(bytes(32), "default", "k1")
WRONG_ROW = 0x00101030  # PatientWeight: a number, which the residual search lets pass


def test_the_series_is_of_the_stated_size() -> None:
    """A CT of 258 elements and 200 kB of pixels, each with UIDs, numbers and positions of its own."""
    datasets = [pydicom.dcmread(io.BytesIO(data)) for data in ct_series(3)]
    assert [sum(1 for _ in dataset.iterall()) for dataset in datasets] == [ELEMENTS] * 3
    assert {len(dataset.PixelData) for dataset in datasets} == {320 * 320 * 2}
    assert len({dataset.SOPInstanceUID for dataset in datasets}) == 3
    assert len({tuple(dataset.ImagePositionPatient) for dataset in datasets}) == 3


def test_an_enhanced_object_has_its_frames() -> None:
    """As many per-frame items as frames, and nothing of what was planted in them is left."""
    data = enhanced(5)
    assert len(pydicom.dcmread(io.BytesIO(data)).PerFrameFunctionalGroupsSequence) == 5
    clean = deidentify_file(data, basic_profile(), KEYS)
    assert len(pydicom.dcmread(io.BytesIO(clean)).PerFrameFunctionalGroupsSequence) == 5
    assert b"CANARY" in data
    assert b"CANARY" not in clean


def test_our_tool_runs_warm_and_cold(tmp_path: Path) -> None:
    """Each in a process of its own: all files come out, the same in both, and time was taken."""
    (tmp_path / "in").mkdir()
    for number, data in enumerate(ct_series(4, side=16)):
        (tmp_path / "in" / f"{number}.dcm").write_bytes(data)
    runs = {
        tool: run_tool(tool, tmp_path / "in", tmp_path / tool, Path())
        for tool in ("prodrome", "prodrome-cold")
    }
    assert all(run.cpu_ms > 0 and run.refused == 0 for run in runs.values())
    warm, cold = ([path.read_bytes() for path in sorted((tmp_path / tool).iterdir())] for tool in runs)
    assert warm == cold
    assert len(warm) == 4


def test_every_row_has_its_action_in_every_sop_class() -> None:
    """All rows, at the root and 1, 3 and 8 deep, in every seventh SOP class that may pass: all of them right."""
    classes = admissible()[::7]
    assert len(classes) > 20
    figures = ours(basic_profile(), classes)
    assert [line[3] for line in figures.lines] == ["100.00 %"] * len(DEPTHS)


def test_a_row_that_is_off_is_seen() -> None:
    """The check of the table bites: a row switched off is wrong, at every depth, and no other."""
    profile = basic_profile()
    expected = profile.actions(CT)
    for depth in DEPTHS:
        off = row_outcomes(profile.without(WRONG_ROW), CT, depth, expected)
        assert [tag for tag, good in off.items() if not good] == [WRONG_ROW]


def test_planted_values_are_in_the_file() -> None:
    """What is searched in a tool's output was in its input."""
    for depth in DEPTHS:
        data, canaries = planted_file(depth)
        assert [canary for canary in canaries if canary not in data] == []
        assert len(set(canaries)) > 500
