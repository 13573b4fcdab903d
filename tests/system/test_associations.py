"""However a sender cuts its associations, a study is one study: one prediction.

"No semantics are attached to the closing of an Association" (PS3.4 B.4). Times are scaled to the house's
quiet time; RUN_SLOW=1 adds the guide's own.
"""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

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
    """How many predictions a study has, and its revisions; asked when it has been quiet for long enough."""
    study = house.keys(project).pseudonymous_uid(study_of(exam))
    eventually(lambda: house.predictions_of(study), "prediction")
    assert {p["outcome"] for p in house.predictions_of(study)} == {"predicted"}
    return len(house.predictions_of(study)), house.revisions_of(project, study)


def with_pauses(house: House, called: str, exam: Exam, folder: Path, seconds: float) -> None:
    """Send an exam over one association an instance, with pauses between."""
    for item in items_of(exam, folder):
        assert store_all(house, called, [item]) == [0]
        time.sleep(seconds)


def at_once(house: House, called: str, exam: Exam, folder: Path) -> None:
    """Send an exam over four associations at once, which are released one after the other."""
    items = items_of(exam, folder)
    associations = [opened(house, called, [item]) for item in items]
    with ThreadPoolExecutor(len(items)) as pool:
        assert list(pool.map(Association.store, associations, items)) == [0, 0, 0, 0]
    for association in associations:
        association.release()
        time.sleep(0.3)


def held(house: House, called: str, some: Sequence[Exam], folder: Path, seconds: float) -> bool:
    """Send exams over one association that stays open all the while.

    Returns
    -------
    bool
        Whether the first one was scored before the association ended.
    """
    items = [items_of(exam, folder) for exam in some]
    association = opened(house, called, items[0])
    for each in items:
        assert [association.store(item) for item in each] == [0] * len(each)
        time.sleep(seconds / len(some))
    project = "patient" if called == "PATIENT" else "associations"
    first = bool(house.predictions_of(house.keys(project).pseudonymous_uid(study_of(some[0]))))
    association.release()
    return first


class Cut(NamedTuple):
    """The exams that were sent in each way, and whether the first of one association was scored in time."""

    house: House
    pauses: Exam
    at_once: Exam
    held: list[Exam]
    scored_while_open: bool


@pytest.fixture(scope="module")
def cut(house: House, images: Mapping[str, Pixels], tmp_path_factory: pytest.TempPathFactory) -> Cut:
    """Five exams, sent in three ways at the same time; all of them have been quiet since."""
    folder = tmp_path_factory.mktemp("cut")
    pauses, four, *three = (exam for i in range(5) for exam in exams(images, f"cut-{i}"))
    with ThreadPoolExecutor(3) as pool:
        open_long = pool.submit(held, house, "ASSOC", three, folder, 5 * QUIET_SECONDS)
        others = [
            pool.submit(with_pauses, house, "ASSOC", pauses, folder, 1.0),
            pool.submit(at_once, house, "ASSOC", four, folder),
        ]
        for other in others:
            other.result()
        scored_while_open = open_long.result()
    outcome(house, "associations", three[-1])
    time.sleep(QUIET_SECONDS + 1)
    return Cut(house, pauses, four, three, scored_while_open)


def test_an_association_an_instance(cut: Cut) -> None:
    """Four associations, one an instance, pauses between: one prediction, one revision."""
    assert outcome(cut.house, "associations", cut.pauses) == (1, [1])


def test_four_associations_at_once(cut: Cut) -> None:
    """Four associations at once, a view each, released at different times: one prediction, one revision."""
    assert outcome(cut.house, "associations", cut.at_once) == (1, [1])


def test_one_association_for_three_studies(cut: Cut) -> None:
    """An association held open over three studies: each is scored once, in one revision, and not at its end."""
    assert [outcome(cut.house, "associations", exam) for exam in cut.held] == [(1, [1])] * 3
    assert cut.scored_while_open


@slow
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_ten_minutes_for_three_studies(house: House, images: Mapping[str, Pixels], tmp_path: Path) -> None:
    """An association open for ten minutes over three studies, 15 s of quiet: one prediction, one revision."""
    patients = [exam for i in range(3) for exam in exams(images, f"minutes-{i}")]
    assert held(house, "PATIENT", patients, tmp_path, 600)
    time.sleep(16)
    assert [outcome(house, "patient", exam) for exam in patients] == [(1, [1])] * 3


@slow
@pytest.mark.slow
def test_five_seconds_between_instances(house: House, images: Mapping[str, Pixels], tmp_path: Path) -> None:
    """One association an instance, 5 s between, 15 s of quiet: one prediction, whatever revisions there are."""
    (exam,) = exams(images, "five-seconds")
    with_pauses(house, "PATIENT", exam, tmp_path, 5)
    time.sleep(16)
    predictions, revisions = outcome(house, "patient", exam)
    print(f"{len(revisions)} revisions")
    assert predictions == 1
