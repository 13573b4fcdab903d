"""Preparation in real processes: what dies, hangs or wants too much has failed its own exam, and nobody else's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from preparing_jobs import poison

from consumers import preparing
from consumers.preparing import Preparing, Task, read_prepared, write_prepared
from infra.demo import make_exams, read_images, to_bytes
from infra.objects import Store, open_results
from infra.settings import Settings, load
from schemas.errors import SlowDown
from schemas.events import Pointer
from scoring.arrays import ArraysRefused
from scoring.intake import Instance, Selected, set_id
from scoring.outcomes import Failed, OutOfDomain, Prepared
from scoring.package import read_package
from scoring.score import MODELS

DENSITY = MODELS / "density"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    found = {"PRODROME_HOME": str(tmp_path_factory.mktemp("home")), "PRODROME_SCORE_PREPARERS": "2"}
    return load({**found, "PRODROME_SCORE_PREPARE_SECONDS": "1"})


@pytest.fixture(scope="module")
def hands(home: Settings) -> Iterator[Preparing]:
    found = Preparing(home, "test")
    yield found
    found.close()


@pytest.fixture(scope="module")
def task(home: Settings) -> Task:
    """The published exam, its objects in the clean store."""
    store = Store(home.clean.store, "clean")
    [exam] = make_exams(read_images(DENSITY / "example"), patients=1)
    objects = {
        str(d.SOPInstanceUID): store.put(f"{d.SOPInstanceUID}.dcm", to_bytes(d))
        for d in exam.datasets.values()
    }
    chosen = {
        view: Instance(
            sop_instance_uid=str(d.SOPInstanceUID), series_instance_uid="1", sop_class_uid="1",
            transfer_syntax_uid="1", content_key="c", pixel_key="p", rows=d.Rows, columns=d.Columns, bits_allocated=8,
            photometric_interpretation="MONOCHROME2",
        )
        for view, d in exam.datasets.items()
    }  # fmt: skip
    selected = Selected(set_id=set_id(chosen), instances=chosen, inputs=())
    digest = read_package(DENSITY).digest
    return Task("one", str(DENSITY), digest, "default/prepared/1/a.npz", selected, objects)


def other(task: Task, name: str, **changes: Any) -> Task:
    return task._replace(name=name, kept_as=f"default/prepared/1/{name}.npz", **changes)


def test_exams_are_prepared_beside_each_other_and_answered_in_order(hands: Preparing, task: Task) -> None:
    """Each under its own key, all the same for the same images."""
    found = hands.run([other(task, f"many-{i}") for i in range(5)])
    assert all(isinstance(each, Prepared) for each in found)
    assert all(np.array_equal(each.features, found[0].features) for each in found)


def test_what_was_prepared_is_not_prepared_again(hands: Preparing, home: Settings, task: Task) -> None:
    """The second time its images may be gone: another network needs none of them."""
    [first] = hands.run([other(task, "kept")])
    gone = {uid: Pointer(uri="clean://gone", offset=0, length=1) for uid in task.objects}
    [again] = hands.run([other(task, "kept", objects=gone)])
    assert isinstance(again, Prepared)
    assert np.array_equal(again.features, first.features)
    assert again.measured == first.measured


def test_what_is_kept_and_damaged_is_made_anew(hands: Preparing, home: Settings, task: Task) -> None:
    """Half a file, other bytes, or somebody else's arrays."""
    results = open_results(home)
    hands.run([other(task, "spoilt")])
    key = "default/prepared/1/spoilt.npz"
    whole = results.find(key)
    assert whole is not None
    for data in (whole[:100], b"", whole[:-30] + bytes(30)):
        results.put_again(key, data)
        assert isinstance(hands.run([other(task, "spoilt")])[0], Prepared)
        assert results.find(key) == whole


def test_out_of_domain_is_an_answer(hands: Preparing, task: Task) -> None:
    """What the gate refuses before a byte is read."""
    view = task.selected.instances["L-CC"]
    wrong = {**task.selected.instances, "L-CC": msgspec.structs.replace(view, rows=1)}
    [found] = hands.run(
        [other(task, "small", selected=msgspec.structs.replace(task.selected, instances=wrong))]
    )
    assert isinstance(found, OutOfDomain)
    assert found.reason == "image_size:L-CC"


def test_an_image_that_is_gone_fails_its_exam_alone(hands: Preparing, task: Task) -> None:
    """The neighbours in the batch are prepared."""
    gone = {uid: Pointer(uri="clean://gone", offset=0, length=1) for uid in task.objects}
    found = hands.run([other(task, "gone", objects=gone), other(task, "there")])
    assert isinstance(found[0], Failed)
    assert found[0].reason == "missing_object"
    assert isinstance(found[1], Prepared)


@pytest.mark.parametrize(("kind", "reason"), [("crash", "crashed_worker"), ("hang", "over_budget")])
def test_a_decoder_that_crashes_or_hangs_fails_its_exam_alone(
    home: Settings, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, reason: str
) -> None:
    """Three times, then it has failed; the others are prepared, and the processes go on."""
    monkeypatch.setattr("consumers.workers.BUDGET_SECONDS", 2.0)
    monkeypatch.setattr(preparing, "_prepare", getattr(poison, kind))
    hands = Preparing(home, f"poison-{kind}")
    try:
        found = hands.run([other(task, "a"), other(task, "poisoned"), other(task, "b")])
    finally:
        hands.close()
    assert [type(each) for each in found] == [Prepared, Failed, Prepared]
    assert found[1].reason == reason


def test_an_exam_that_wants_too_much_memory_fails_alone(
    home: Settings, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is the process's own; the machine notices nothing."""
    monkeypatch.setattr(preparing, "_prepare", poison.greed)
    hands = Preparing(home, "greedy")
    try:
        found = hands.run([other(task, "a"), other(task, "poisoned")])
    finally:
        hands.close()
    assert isinstance(found[0], Prepared)
    assert isinstance(found[1], Failed)
    assert found[1].reason == "out_of_memory"


def test_a_store_that_is_away_is_waited_for(
    home: Settings, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was prepared meanwhile is not prepared again."""
    monkeypatch.setattr(preparing, "_prepare", poison.away)
    hands = Preparing(home, "away")
    try:
        with pytest.raises(SlowDown):
            hands.run([other(task, "a"), other(task, "poisoned")])
        assert set(hands._done) == {"a"}
    finally:
        hands.close()


def test_what_is_kept_is_what_was_prepared() -> None:
    """Numbers, measures and place come back; other arrays are refused."""
    made = Prepared(
        set_id="s",
        features=np.arange(6, dtype=np.float32).reshape(1, 2, 3),
        measured={"a": 1.5},
        to_source=np.eye(4),
    )
    found = read_prepared(write_prepared(made))
    assert np.array_equal(found.features, made.features)
    assert (found.set_id, found.measured) == (made.set_id, made.measured)
    assert np.array_equal(found.to_source, made.to_source)
    from scoring.arrays import write_arrays

    with pytest.raises(ArraysRefused):
        read_prepared(write_arrays({"x": np.zeros(3)}))
