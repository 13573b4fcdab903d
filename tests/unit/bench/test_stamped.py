"""Stamped instances: fresh identities over one encoding, and valid DICOM each."""

import io

import pydicom
import pytest

from infra.stamped import Stamped


@pytest.fixture(scope="module")
def stamped() -> Stamped:
    return Stamped("seed", 8)


def read(stamped: Stamped, study: int, number: int) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(stamped.dataset(study, number)), force=True)


def test_an_instance_reads_as_what_it_was_stamped_as(stamped: Stamped) -> None:
    """Every value that was overwritten stands where it belongs, and its neighbours are whole."""
    found = read(stamped, 3, 41)
    assert found.SOPInstanceUID == stamped.instance_uid(3, 41)
    assert found.StudyInstanceUID == stamped.study_uid(3)
    assert (found.PatientID, found.AccessionNumber) == ("LT000000000003", "AC000000000003")
    assert found.InstanceNumber == 42
    assert len(found.PixelData) == 2 * found.Rows * found.Columns == 128
    assert found.SOPClassUID == stamped.sop_class_uid


def test_instances_share_what_a_study_shares(stamped: Stamped) -> None:
    """Study, series and patient within a study; nothing between studies, or between seeds."""
    one, two, other = read(stamped, 0, 0), read(stamped, 0, 1), read(stamped, 1, 0)
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert getattr(one, name) == getattr(two, name) != getattr(other, name)
    uids = {s.instance_uid(n // 10, n % 10) for s in (stamped, Stamped("other", 8)) for n in range(100)}
    assert len(uids) == 200
    assert {len(uid) for uid in uids} == {44}
