"""The checker says nothing of what is right, and names each thing that is wrong as what it is. Values only."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest
from checker import CHECKS, judge
from evidence import Ended, Evidence, Head, Predicted, Row, Said, Stored
from sender import Sent

ROW: Final = Row("study", "c1", "ck1", "pk1", 0, False, "k1", 10, "d1")
RIGHT: Final = Evidence(
    sent=[
        Sent("u1", "s", "content 1", "image 1", (0, None, 0)),
        Sent("u2", "s", "content 2", "image 2", (0xB007,)),
        Sent("u3", "s", "content 3", "image 3", (0xA700, None)),
        Sent("u4", "s", "content 4", "image 4", (0xA700,)),
    ],
    clean_uid={"u1": "c1", "u2": "c2", "u3": "c3", "u4": "c4"},
    ended=[
        Ended("i1", "u1", "clean", None),
        Ended("i2", "u1", "duplicate", None),
        Ended("i3", "u2", "quarantined", "burned_in_flag"),
    ],
    rows=[ROW],
    objects={"k1": Stored(10, "d1", "c1", "image 1")},
    heads=[Head("study", 1, "set", True, frozenset({"c1"}))],
    predictions=[Predicted("study", "m", "p", True, "b", True)],
    said=[
        Said("study.revised.v1", "t/0@0", "key", "r", "body", ("study", "1", "set")),
        Said("prediction.v1", "t/0@1", "key", "p", "b", ("p",)),
        Said("prediction.v1", "t/0@2", "key", "p", "b", ("p",)),
    ],
    settled={"i1": frozenset({"clean"}), "i3": frozenset({"dead", "quarantined"})},
    kept={"i3": "content 2"},
    scored=frozenset({"study"}),
)

#: what is wrong -> (kind, how)
WRONG: Final[dict[str, tuple[str, Callable[[Evidence], Evidence]]]] = {
    "no row": ("lost", lambda e: replace(e, rows=[])),
    "no object": ("lost", lambda e: replace(e, objects={})),
    "an object of another instance": (
        "lost", lambda e: replace(e, objects={"k1": Stored(10, "d1", "c4", "image 4")})),
    "an answer without an intake": ("lost", lambda e: replace(e, ended=e.ended[:1] + e.ended[2:])),
    "nothing kept": ("lost", lambda e: replace(e, kept={})),
    "other bytes kept": ("lost", lambda e: replace(e, kept={"i3": "content 9"})),
    "not in the revision": (
        "lost", lambda e: replace(e, heads=[Head("study", 1, "set", True, frozenset())])),
    "no revision": ("lost", lambda e: replace(e, heads=[])),
    "no manifest": ("lost", lambda e: replace(e, heads=[Head("study", 1, "set", True, None)])),
    "a revision not said": ("lost", lambda e: replace(e, said=e.said[1:])),
    "a prediction not said": ("lost", lambda e: replace(e, said=e.said[:1])),
    "no prediction": ("lost", lambda e: replace(e, predictions=[], said=e.said[:1])),
    "dead, and no poison": ("lost", lambda e: replace(
        e, ended=[*e.ended, Ended("i9", "u1", "dead", "missing_raw")], kept={**e.kept, "i9": "content 1"})),
    "half an object": ("corrupt", lambda e: replace(e, objects={"k1": Stored(5, "d5", None, None)})),
    "other bytes than the row says": ("corrupt", lambda e: replace(
        e, objects={"k1": Stored(10, "d9", "c1", "image 1")})),
    "an image that was not sent": ("corrupt", lambda e: replace(
        e, objects={**e.objects, "k2": Stored(10, "d2", "c2", "image 9")})),
    "a row of nobody": ("unexpected", lambda e: replace(e, rows=[*e.rows, ROW._replace(uid="c9")])),
    "an object of nobody": ("unexpected", lambda e: replace(
        e, objects={**e.objects, "k9": Stored(1, "d", "c9", "image 9")})),
    "an intake of nobody": ("unexpected", lambda e: replace(
        e, ended=[*e.ended, Ended("i9", "u9", "clean", None)])),
    "two rows of a content": ("doubled", lambda e: replace(
        e, rows=[*e.rows, ROW._replace(content_key="ck2", version=1)])),
    "two rows of a version": ("doubled", lambda e: replace(
        e, rows=[*e.rows, ROW._replace(content_key="ck2")])),
    "two objects of a content": ("doubled", lambda e: replace(
        e, objects={**e.objects, "k2": Stored(11, "d2", "c1", "image 1")})),
    "two outcomes of an intake": ("doubled", lambda e: replace(
        e, settled={"i1": frozenset({"clean", "duplicate"})})),
    "clean twice": ("doubled", lambda e: replace(
        e, ended=[*e.ended, Ended("i9", "u1", "clean", None)])),
    "two bodies of a message": ("doubled", lambda e: replace(
        e, said=[*e.said, e.said[0]._replace(body="other")])),
    "two keys of a message": ("doubled", lambda e: replace(
        e, said=[*e.said, e.said[0]._replace(key="other")])),
    "two sets of a revision": ("doubled", lambda e: replace(
        e, said=[*e.said, Said("study.revised.v1", "t/0@3", "key", "q", "x", ("study", "1", "set 2"))])),
    "two effective predictions": ("doubled", lambda e: replace(
        e, predictions=[*e.predictions, Predicted("study", "m", "p2", True, "b2", True)],
        said=[*e.said, Said("prediction.v1", "t/0@3", "key", "p2", "b2", ("p2",))])),
    "two bodies of a prediction": ("doubled", lambda e: replace(
        e, said=[*e.said, Said("prediction.v1", "t/0@3", "key", "q", "b9", ("p",))])),
    "an identifier": ("leaked", lambda e: replace(e, leaks=["object k1: 1"])),
    "in flight": ("stuck", lambda e: replace(e, in_flight=1)),
    "messages wait": ("stuck", lambda e: replace(e, lags={"group": 2})),
    "a head without its mark": ("stuck", lambda e: replace(
        e, heads=[Head("study", 1, "set", False, frozenset({"c1"}))])),
    "a prediction without its mark": ("stuck", lambda e: replace(
        e, predictions=[Predicted("study", "m", "p", False, "b", True)])),
}  # fmt: skip


def test_what_is_right_is_all_zeros() -> None:
    """Acknowledged twice, quarantined, unanswered, refused, repeated with the same body: nothing is wrong."""
    verdict = judge(RIGHT)
    assert verdict.zero, verdict.table()
    assert verdict.counts["acknowledged"] == 2
    assert verdict.counts["unanswered"] == 2


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_named(what: str) -> None:
    """Each under its kind; every kind has its breaks."""
    kind, change = WRONG[what]
    assert judge(change(RIGHT)).breaks(kind)
    assert {kind for kind, _ in WRONG.values()} == set(CHECKS)


def test_what_had_no_answer_may_be_there() -> None:
    """A content whose response was lost is recovered where it is found, and missed by nobody where it is not."""
    row = ROW._replace(uid="c3", key="k3")
    found = replace(
        RIGHT,
        sent=[*RIGHT.sent[:2], Sent("u3", "s", "content 3", "image 3", (None,))],
        rows=[*RIGHT.rows, row],
        objects={**RIGHT.objects, "k3": Stored(10, "d1", "c3", "image 3")},
        heads=[Head("study", 1, "set", True, frozenset({"c1", "c3"}))],
    )
    assert judge(found).zero
    assert judge(found).counts["recovered"] == 1
