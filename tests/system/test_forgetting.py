"""A patient leaves: nothing of them is left in tables and stores, and what topics still hold is said."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from house import House, eventually, exams, stored, study_of, write_exam

from infra.demo import Pixels
from schemas.access import TABLES

pytestmark = pytest.mark.stack


def test_a_patient_is_forgotten(house: House, images: Mapping[str, Pixels], tmp_path: Path) -> None:
    """Counted first, then removed; subscribers are told; a late image comes in as a new one."""
    (exam,) = exams(images, "forgotten")
    files = write_exam(exam, tmp_path)
    assert stored(house.send(files.values()))
    study, who = house.keys().pseudonymous_uid(study_of(exam)), next(iter(exam.datasets.values()))
    patient = eventually(lambda: house.predictions_of(study), "prediction")[0]["patient_id"]
    arguments = ("forget", who.PatientID, "--issuer", who.get("IssuerOfPatientID", ""), "--json")
    words = [study, patient, str(who.StudyInstanceUID), str(who.PatientID)]
    assert kept_of(house, words) != []

    counted = house.json(*arguments)
    assert (counted["patient"], counted["found"]["studies"]) == (patient, 1)
    report = house.json(*arguments, "--yes")
    assert report["removed"]["objects"] == counted["found"]["objects"] > len(files)
    assert {"prediction.v1", "instance.received.v1"} <= set(report["topics end at the latest"])
    assert kept_of(house, words) == []
    eventually(lambda: "retracted" in kinds(house, study), "word to subscribers")
    assert house.json(*arguments)["found"] == {}

    assert stored(house.send([next(iter(files.values()))]))
    eventually(lambda: house.revisions_of("default", study) == [1], "revision of the late image")
    assert house.json(*arguments, "--yes")["removed"]["studies"] == 1


def kinds(house: House, study: str) -> set[str]:
    """What was said of a study."""
    return {word["kind"] for word in house.lifecycle if word["study_instance_uid"] == study}


def kept_of(house: House, words: list[str]) -> list[str]:
    """The tables of both keyspaces in which a row holds one of the words."""
    found: set[str] = set()
    for table in TABLES:
        rows: Any = getattr(house, table.zone).stream(f"SELECT * FROM {table.name}")
        found |= {table.name for row in rows if any(word in str(row) for word in words)}
    return sorted(found)
