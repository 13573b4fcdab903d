"""Rows and objects that are lost by hand: found, repaired from the spool, and the balance stands again."""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from house import House, eventually, exams, stored, study_of, write_exam

from commands.wiring import clean_store
from infra.demo import Pixels
from schemas.events import Pointer

pytestmark = pytest.mark.stack


def test_what_was_lost_is_found_and_repaired(
    house: House, images: Mapping[str, Pixels], tmp_path: Path
) -> None:
    """One version without its object, one without its vault row, one index row gone: three found, none left."""
    (exam,) = exams(images, "reconciled")
    study = house.keys().pseudonymous_uid(study_of(exam))
    assert stored(house.send(write_exam(exam, tmp_path).values()))
    eventually(lambda: house.predictions_of(study), "prediction")
    eventually(lambda: house.balance()["in_flight"] == 0, "settling")
    before = house.json("reconcile", "--json")
    assert (before["agree"], before["wrong"]) == (True, {})

    key = ("default", study)
    rows = house.clean.run("SELECT * FROM study_instances WHERE project = ? AND study = ?", key)
    clean_store(house.settings).delete(msgspec.json.decode(rows[0].object, type=Pointer))
    house.trusted.run(
        "DELETE FROM vault_instances WHERE project = ? AND study = ? AND sop = ?", (*key, rows[1].sop)
    )
    house.clean.run(
        "DELETE FROM study_instances WHERE project = ? AND study = ? AND sop = ?", (*key, rows[2].sop)
    )
    begun = house.stored_under / "clean" / "default" / "cut.dcm#1"
    begun.touch()
    os.utime(begun, (0, 0))
    lost = house.prodrome("reconcile", "--json")
    assert lost.returncode == 1
    assert msgspec.json.decode(lost.stdout)["wrong"] == {
        "version without its object": 1,
        "version without its vault row": 1,
        "identity without its version": 1,
        "left by a kill": 1,
    }
    mended = house.prodrome("reconcile", "--repair", "--yes", "--json")
    assert msgspec.json.decode(mended.stdout)["repaired"] == {
        "sent through once more": 3,
        "left by a kill removed": 1,
    }
    assert not begun.exists()
    eventually(lambda: house.prodrome("reconcile").returncode == 0, "agreement")
    assert house.revisions_of("default", study) == [1]
