"""What an operator does with what did not pass, each by its command on the running system, and the trail it leaves."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pydicom
import pytest
from house import House, stored

pytestmark = pytest.mark.stack

PROJECT = "mending"


class Ward(NamedTuple):
    """A house with one secondary capture in quarantine."""

    house: House
    path: Path
    intake: str
    before: dict[str, int]


@pytest.fixture(scope="module")
def ward(house: House, shared: Callable[[str], Path]) -> Ward:
    """It came through a door that admits no burned-in text."""
    before = house.balance()
    path = shared("dicom-mix/src/pydicom/data/test_files/SC_rgb_small_odd.dcm")
    assert stored(house.send([path], "MENDING"))
    assert house.gained(before) == {"acknowledged": 1, "quarantined": 1}
    (row, _) = rows(house)
    return Ward(house, path, row["intake"], before)


def rows(house: House, *narrow: str) -> list[dict[str, Any]]:
    """What `quarantine list` says."""
    done = house.prodrome("quarantine", "list", "--project", PROJECT, "--json", *narrow)
    return [json.loads(line) for line in done.stdout.splitlines()]


def trail(house: House, action: str) -> list[str]:
    """The entries of an action as `audit list` shows them."""
    shown = house.prodrome("audit", "list", "--action", action).stdout
    return [line for line in shown.splitlines() if f" {action} " in line]


def test_show_says_why_and_holds_values_back(ward: Ward) -> None:
    """The header's elements without their values, unless they are asked for; both are in the audit trail."""
    name = str(pydicom.dcmread(ward.path).PatientName)
    shown = ward.house.prodrome("quarantine", "show", ward.intake).stdout
    assert "burned_in_risk" in shown
    assert "PatientName" in shown
    assert name not in shown
    asked = ward.house.json("quarantine", "show", ward.intake, "--values", "--json")
    assert name in next(e["value"] for e in asked["header"] if e["keyword"] == "PatientName")
    entries = trail(ward.house, "quarantine-show")
    assert len(entries) == 2
    assert all(ward.intake in entry for entry in entries)
    assert not any(name in entry for entry in entries)


def test_show_saves_the_file_as_received(ward: Ward, tmp_path: Path) -> None:
    """For the owner alone, with the pixels that were sent; over nothing that is there."""
    saved = tmp_path / "look.dcm"
    assert ward.house.prodrome("quarantine", "show", ward.intake, "--save", saved).returncode == 0
    assert saved.stat().st_mode & 0o777 == 0o600
    assert pydicom.dcmread(saved).PixelData == pydicom.dcmread(ward.path).PixelData
    assert ward.house.prodrome("quarantine", "show", ward.intake, "--save", saved).returncode != 0


def test_what_cannot_be_undone_asks(ward: Ward) -> None:
    """Without --yes and without a terminal nothing is done; --dry-run says how many; nothing named is nothing."""
    for command in ("release", "purge"):
        done = ward.house.prodrome("quarantine", command, ward.intake)
        assert (done.returncode, "--yes" in done.stderr) == (1, True)
        assert (
            "1 would be taken"
            in ward.house.prodrome("quarantine", command, "--project", PROJECT, "--dry-run").stdout
        )
        assert ward.house.prodrome("quarantine", command, "--yes").returncode == 1
    assert [row["released"] for row in rows(ward.house)[:-1]] == [False]


def test_the_secret_that_seals_is_exchanged(ward: Ward) -> None:
    """Added, learned by the role at its restart, everything sealed anew; what waits is released below as before."""
    house = ward.house
    added = house.prodrome("keys", "rotate")
    assert (added.returncode, "secret 2 is in" in added.stdout) == (0, True)
    assert house.prodrome("restart", "deidentify").returncode == 0
    assert house.prodrome("restart", "deidentify-bulk").returncode == 0
    again = house.prodrome("keys", "rewrap")
    assert again.returncode == 0, again.stderr
    assert "quarantine objects" in again.stdout
    assert house.prodrome("keys", "rewrap").stdout == "0 sealed anew under secret 2\n"
    listed = house.prodrome("keys", "list").stdout
    assert re.search(r"1\s+│\s+│ nothing", listed), listed
    refused = house.prodrome("keys", "retire", 1)
    assert (refused.returncode, "is the master" in refused.stderr) == (1, True)
    assert len(trail(house, "keys")) == 8  # each step as it begins and as it ends


def test_release_then_release_then_purge(ward: Ward) -> None:
    """Not admitted it waits again; admitted it is clean; purged nothing is left but the balance, exact throughout."""
    house = ward.house
    assert "1 released" in house.prodrome("quarantine", "release", ward.intake, "--yes").stdout
    assert house.gained(ward.before) == {"acknowledged": 2, "quarantined": 2}
    (again, counts) = rows(house, "--waiting")
    assert (again["intake"], counts) == (ward.intake.replace("/", "+/", 1), {"counts": {"burned_in_risk": 1}})
    by_reason = (
        "--project",
        PROJECT,
        "--reason",
        "burned_in_risk",
        "--admit",
        "burned_in_risk",
        "--yes",
        "--json",
    )
    assert house.json("quarantine", "release", *by_reason) == {"released": 1}
    assert house.gained(ward.before) == {"acknowledged": 3, "quarantined": 2, "clean": 1}
    assert "released before" in house.prodrome("quarantine", "release", again["intake"], "--yes").stdout
    assert house.json("quarantine", "purge", ward.intake, "--yes", "--json") == {"purged": 1}
    assert rows(house) == [{"counts": {}}]
    assert house.gained(ward.before) == {"acknowledged": 3, "quarantined": 2, "clean": 1}
    assert house.prodrome("reconcile").returncode == 0
    for action in ("quarantine-release", "quarantine-purge"):
        assert any("begun" in entry for entry in trail(house, action))
        assert any(
            "success" in entry and ward.intake.split("/")[0] in entry for entry in trail(house, action)
        )


def test_the_trail_is_whole_and_its_end_is_known(ward: Ward, tmp_path: Path) -> None:
    """`audit verify` finds what was done; with the last entry gone, the head in the trusted keyspace tells."""
    assert "whole" in ward.house.prodrome("audit", "verify").stdout
    path = ward.house.home / "audit" / "audit.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    cut = ward.house.prodrome("audit", "verify")
    path.write_bytes(whole)
    assert (cut.returncode, "cut off" in cut.stderr) == (1, True)
    assert os.stat(path).st_mode & 0o777 == 0o600
