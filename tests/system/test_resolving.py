"""A conflict, and an operator who decides it: the accepted version counts, everywhere and once."""

import copy
from collections.abc import Mapping
from pathlib import Path

import pytest
from house import House, eventually, exams, stored, study_of, write, write_exam

from infra.demo import Pixels

pytestmark = pytest.mark.stack


def test_the_accepted_version_becomes_the_effective_one(
    house: House, images: Mapping[str, Pixels], tmp_path: Path
) -> None:
    """Revision 2, a prediction that supersedes, the flag gone; said twice it is said once; a resend is no news."""
    (exam,) = exams(images, "resolved")
    study = house.keys().pseudonymous_uid(study_of(exam))
    assert stored(house.send(write_exam(exam, tmp_path).values()))
    first = eventually(lambda: house.predictions_of(study), "prediction")[0]
    other = copy.deepcopy(exam.datasets["L-CC"])
    other.PixelData = bytes(reversed(other.PixelData))
    file = write(other, tmp_path / "other.dcm")
    before = house.balance()
    assert stored(house.send([file]))
    assert house.gained(before)["conflict"] == 1

    uid = str(other.SOPInstanceUID)
    eventually(lambda: len(house.json("resolve", uid, "--json")) == 2, "two versions")
    clean, conflict = house.json("resolve", uid, "--json")
    assert (clean["outcome"], conflict["outcome"]) == ("clean", "conflict")
    wrong = house.prodrome("resolve", uid, "--accept", "ffff", "--yes")
    assert wrong.returncode == 1
    assert house.prodrome("resolve", uid, "--accept", conflict["content"], "--yes").returncode == 0

    def amended() -> list[str]:
        return [p["supersedes"] for p in house.predictions_of(study) if p["status"] == "amended"]

    assert eventually(amended, "prediction that supersedes") == [first["prediction_id"]]
    revisions = house.revisions_of("default", study)
    assert {v["outcome"] for v in house.json("resolve", uid, "--json")} == {"clean", "corrected"}

    assert house.prodrome("resolve", uid, "--accept", conflict["content"], "--yes").returncode == 0
    before = house.balance()
    assert stored(house.send([file]))
    assert house.gained(before) == {"acknowledged": 1, "duplicate": 1}
    assert house.revisions_of("default", study) == revisions
    (effective,) = [p for p in house.json("query", "--json", "predictions", study) if p["effective"]]
    assert "uid_conflict" not in effective["quality_flags"]
