"""What counts of a study: of each SOP Instance UID the newest version that is no conflict."""

import json
from types import SimpleNamespace
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from consumers.index import effective, lookups, rows
from schemas.codec import body
from schemas.events import InstanceDeidentified, Pointer
from schemas.worked_examples import EXAMPLES

EVENT = next(e for _, _, e in EXAMPLES if isinstance(e, InstanceDeidentified))


def row(sop: str, version: int = 0, conflict: bool = False, patient: str = "p1") -> Any:
    """A row as the driver returns it."""
    pointer = Pointer(uri=f"clean://{sop}/{version}", offset=0, length=1)
    return SimpleNamespace(
        sop=sop, content_key=f"c{version}", pixel_key="p", patient=patient, series="1.9", sop_class="1.1",
        transfer_syntax="1.2", modality="MG", version=version, conflict=conflict, object=body(pointer).decode(),
        facts=json.dumps({"modality": "MG", "version": version}),
    )  # fmt: skip


def test_nothing_indexed_is_nothing_that_counts() -> None:
    """A study may be open without rows: its message ended as a dead letter."""
    assert effective([]) == ([], "", ())


def test_the_newest_correction_counts() -> None:
    """Version 2 replaces versions 0 and 1; the object is its own."""
    found = effective([row("1.1", 1), row("1.1", 2), row("1.1", 0)])
    assert [i.object.uri for i in found.instances] == ["clean://1.1/2"]
    assert found.flags == ()


def test_a_conflict_is_kept_and_flagged_but_does_not_count() -> None:
    """The first stays effective until somebody resolves it."""
    found = effective([row("1.1"), row("1.1", 1, conflict=True), row("1.2")])
    assert [(i.content_key, i.conflict) for i in found.instances] == [("c0", True), ("c0", False)]
    assert found.flags == ("uid_conflict",)


def test_two_patients_in_one_study_are_flagged() -> None:
    """Among what counts, and among what is kept as a conflict."""
    assert effective([row("1.1"), row("1.2", patient="p2")]).flags == ("identity_conflict",)
    kept = [row("1.1"), row("1.1", 1, conflict=True, patient="p2")]
    assert effective(kept).flags == ("uid_conflict", "identity_conflict")


def test_a_corrected_patient_is_no_conflict() -> None:
    """The PACS sent the study again under the right patient: the revision is that patient's."""
    found = effective([row("1.1"), row("1.1", 1, patient="p2")])
    assert (found.patient, found.flags) == ("p2", ())


@given(st.permutations([row("1.3"), row("1.1"), row("1.1", 1), row("1.2"), row("1.2", 1, conflict=True)]))
def test_the_order_of_rows_does_not_matter(found: list[Any]) -> None:
    """The set of a study names its revision, so it must not depend on how rows come back."""
    assert effective(found) == effective(sorted(found, key=lambda r: (r.sop, r.version)))


def test_rows_hold_what_the_event_says() -> None:
    """One row an instance, and the rows by which it is found."""
    [(_, values)] = rows(EVENT)
    instance = EVENT.instances[0]
    assert values[:3] == (EVENT.project, EVENT.study_instance_uid, instance.sop_instance_uid)
    assert msgspec.json.decode(values[12], type=Pointer) == instance.object
    assert [v[1] for _, v in lookups(EVENT)] == [EVENT.patient_id, instance.sop_instance_uid]
