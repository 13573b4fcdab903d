"""What the one on call does: pause and resume a stage, drain the system, read who did what."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from house import House, eventually, exams, study_of, write_exam

from infra.demo import Pixels

pytestmark = pytest.mark.stack

PAUSED = 'prodrome_stage_paused{stage="catalog"} 1.0'


def test_a_paused_stage_waits_and_then_catches_up(
    house: House, images: Mapping[str, Pixels], tmp_path: Path
) -> None:
    """While the catalog is paused images are taken and settled and nothing is assembled; afterwards it is."""
    (exam,) = exams(images, "paused")
    study = house.keys().pseudonymous_uid(study_of(exam))
    assert house.prodrome("pause", "catalog").returncode == 0
    eventually(lambda: PAUSED in house.metrics()["catalog"], "pause")
    write_exam(exam, tmp_path)
    assert house.prodrome("send", tmp_path).returncode == 0
    eventually(lambda: house.json("status", "--json")["balance"]["in_flight"] == 0, "settling")
    found = house.json("status", "--json")
    assert found["paused"] == ["catalog"]
    assert sum(found["lags"]["prodrome-catalog"].values()) > 0
    assert house.json("query", "--json", "study", study) == []
    assert house.prodrome("resume", "catalog").returncode == 0
    eventually(lambda: house.predictions_of(study), "prediction")


def test_a_drained_door_turns_senders_away_until_it_is_undone(
    house: House, images: Mapping[str, Pixels], tmp_path: Path
) -> None:
    """`drain` ends when nothing is on its way; a sender is told to come again, and then is taken."""
    (exam,) = exams(images, "drained")
    write_exam(exam, tmp_path)
    try:
        assert house.json("drain", "--json") == {"draining": True, "left": {}}
        assert house.prodrome("send", tmp_path).returncode != 0
    finally:
        undone = house.prodrome("drain", "--undo")
    assert undone.returncode == 0, undone.stderr
    assert house.prodrome("send", tmp_path).returncode == 0


def test_what_was_done_is_on_record(house: House) -> None:
    """Pauses and drains stand in the audit trail, whose end agrees with the head kept in Cassandra."""
    house.prodrome("pause", "score")
    house.prodrome("resume", "score")
    listed = house.prodrome("audit", "list").stdout
    assert "resume" in listed
    verified = house.prodrome("audit", "verify")
    assert (verified.returncode, "whole" in verified.stdout) == (0, True), verified.stderr
    trail = house.home / "audit" / "audit.jsonl"
    kept = trail.read_bytes()
    try:
        trail.write_bytes(b"".join(kept.splitlines(keepends=True)[:-1]))
        cut = house.prodrome("audit", "verify")
    finally:
        trail.write_bytes(kept)
    assert cut.returncode == 1
    assert "cut off or rewritten" in cut.stderr
