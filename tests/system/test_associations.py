"""However a sender cuts its associations, a study is one study: one prediction.

"No semantics are attached to the closing of an Association" (PS3.4 B.4). Times are scaled to the house's
quiet time; RUN_SLOW=1 adds the guide's own.
"""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from house import QUIET_SECONDS, House, eventually, exams, study_of, write_exam

from infra.demo import Exam, Pixels
from producers.send import Association, Item, inspect_file

pytestmark = pytest.mark.stack

slow = pytest.mark.skipif(not os.environ.get("RUN_SLOW"), reason="takes minutes: RUN_SLOW=1 runs it")


def items_of(exam: Exam, folder: Path) -> list[Item]:
    """The files of an exam, ready to be sent."""
    found = [inspect_file(path) for path in write_exam(exam, folder / str(exam.seed)).values()]
    assert all(isinstance(item, Item) for item in found)
    return [item for item in found if isinstance(item, Item)]


def opened(house: House, called: str, items: Iterable[Item]) -> Association:
    """An association that offers what these files need."""
    pairs = sorted({(item.sop_class_uid, item.transfer_syntax_uid) for item in items})
    return Association(house.destination(called), {pair: 2 * i + 1 for i, pair in enumerate(pairs)})


def store_all(house: House, called: str, items: Sequence[Item]) -> list[int]:
    """Store some files over an association of their own, and return the answers."""
    association = opened(house, called, items)
    answers = [association.store(item) for item in items]
    association.release()
    return answers


def outcome(house: House, project: str, exam: Exam) -> tuple[int, list[int]]:
    """How many predictions a study has, and its revisions, once it has been quiet for long enough."""
    study = house.keys(project).pseudonymous_uid(study_of(exam))
    eventually(lambda: house.predictions_of(study), "prediction")
    time.sleep(QUIET_SECONDS + 1)
    assert {p["outcome"] for p in house.predictions_of(study)} == {"predicted"}
    return len(house.predictions_of(study)), house.revisions_of(project, study)


def test_an_association_an_instance(house: House, images: Mapping[str, Pixels], tmp_path: Path) -> None:
    """Four associations, one an instance, pauses between: one prediction, one revision."""
    (exam,) = exams(images, "pauses")
    for item in items_of(exam, tmp_path):
        assert store_all(house, "ASSOC", [item]) == [0]
        time.sleep(0.3)
    assert outcome(house, "associations", exam) == (1, [1])


def test_four_associations_at_once(house: House, images: Mapping[str, Pixels], tmp_path: Path) -> None:
    """Four associations at once, a view each, released at different times: one prediction, one revision."""
    (exam,) = exams(images, "at-once")
    items = items_of(exam, tmp_path)
    associations = [opened(house, "ASSOC", [item]) for item in items]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(Association.store, associations, items)) == [0, 0, 0, 0]
    for association in associations:
        association.release()
        time.sleep(0.3)
    assert outcome(house, "associations", exam) == (1, [1])


def hold(house: House, called: str, some: Sequence[Sequence[Item]], seconds: float) -> list[float]:
    """Store studies over one association that stays open all the while; returns when each was stored."""
    association = opened(house, called, some[0])
    begun, stored = time.monotonic(), []
    for items in some:
        assert [association.store(item) for item in items] == [0] * len(items)
        stored.append(time.monotonic() - begun)
        time.sleep(seconds / len(some))
    association.release()
    return stored


def test_one_association_for_three_studies(
    house: House, images: Mapping[str, Pixels], tmp_path: Path
) -> None:
    """An association held open over three studies: each is scored while it is open, once, in one revision."""
    patients = [exam for i in range(3) for exam in exams(images, f"held-{i}")]
    items = [items_of(exam, tmp_path) for exam in patients]
    studies = [house.keys("associations").pseudonymous_uid(study_of(exam)) for exam in patients]
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(hold, house, "ASSOC", items, 7 * QUIET_SECONDS)
        eventually(lambda: house.predictions_of(studies[0]), "prediction")
        assert not held.done()  # the association is still open
        held.result()
    for exam in patients:
        assert outcome(house, "associations", exam) == (1, [1])


@slow
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_ten_minutes_for_three_studies(house: House, images: Mapping[str, Pixels], tmp_path: Path) -> None:
    """An association open for ten minutes over three studies, 15 s of quiet: one prediction, one revision."""
    patients = [exam for i in range(3) for exam in exams(images, f"minutes-{i}")]
    hold(house, "PATIENT", [items_of(exam, tmp_path) for exam in patients], 600)
    for exam in patients:
        assert outcome(house, "patient", exam) == (1, [1])


@slow
@pytest.mark.slow
def test_five_seconds_between_instances(house: House, images: Mapping[str, Pixels], tmp_path: Path) -> None:
    """One association an instance, 5 s between, 15 s of quiet: one prediction, whatever revisions there are."""
    (exam,) = exams(images, "five-seconds")
    for item in items_of(exam, tmp_path):
        assert store_all(house, "PATIENT", [item]) == [0]
        time.sleep(5)
    predictions, revisions = outcome(house, "patient", exam)
    print(f"{len(revisions)} revisions")
    assert predictions == 1
