"""Releases run side by side: this checkout breaks nothing of the last release, and a break would be seen."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from schemas.compatibility import breaks, contract
from schemas.events import EVENT_TYPES
from schemas.release import RELEASES, freeze, latest
from schemas.topics import TOPICS

PREDICTION = "org.prodrome.imaging.prediction.created.v1"
FROZEN = sorted(RELEASES.iterdir())


def part(said: Any, kind: str, name: str) -> Any:
    """The definition of a type or of a part of it."""
    return said["schemas"][kind]["$defs"][name]


def rename(said: Any) -> None:
    properties = part(said, PREDICTION, "Prediction")["properties"]
    properties["risk"] = properties.pop("score")


#: what breaks -> (how, the words that name it)
BREAKS: dict[str, tuple[Any, str]] = {
    "topic removed": (lambda s: s["topics"].pop("lifecycle.v1"), "topic lifecycle.v1 is gone"),
    "partitions": (lambda s: s["topics"]["prediction.v1"].update(partitions=24), "another partitions"),
    "key": (lambda s: s["topics"]["prediction.v1"].update(key="`<model>`"), "another key"),
    "zone": (lambda s: s["topics"]["report.v1"].update(zone="clean"), "another zone"),
    "retention": (lambda s: s["topics"]["prediction.v1"].update(retention_ms=1), "a shorter retention"),
    "type moved": (lambda s: s["topics"]["lifecycle.v1"]["types"].clear(), "does not carry"),
    "type removed": (lambda s: s["schemas"].pop(PREDICTION), f"type {PREDICTION} is gone"),
    "field removed": (
        lambda s: part(s, PREDICTION, "Prediction")["properties"].pop("thresholds"),
        ".thresholds is gone",
    ),
    "field renamed": (rename, ".score is gone"),
    "field retyped": (
        lambda s: part(s, PREDICTION, "Prediction")["properties"].update(revision={"type": "string"}),
        ".revision: another type",
    ),
    "field narrowed": (
        lambda s: part(s, PREDICTION, "Prediction")["properties"]["project"].update(maxLength=8),
        ".project: another maxLength",
    ),
    "null no more": (
        lambda s: part(s, PREDICTION, "Prediction")["properties"].update(score={"type": "number"}),
        ".score: other alternatives",
    ),
    "null from now on": (
        lambda s: part(s, PREDICTION, "Prediction")["properties"].update(
            project={"anyOf": [{"type": "string"}, {"type": "null"}]}
        ),
        ".project: other alternatives",
    ),
    "new field required": (
        lambda s: part(s, PREDICTION, "ModelIdentity")["required"].append("vendor"),
        ".model.vendor is required now",
    ),
    "optional field required": (
        lambda s: part(s, PREDICTION, "Prediction")["required"].append("supersedes"),
        ".supersedes is required now",
    ),
    "required field optional": (
        lambda s: part(s, PREDICTION, "Prediction")["required"].remove("score"),
        ".score may be absent now",
    ),
    "default": (
        lambda s: part(s, PREDICTION, "Prediction")["properties"]["supersedes"].update(default="x"),
        ".supersedes: another default",
    ),
    "word removed": (
        lambda s: part(s, PREDICTION, "Prediction")["properties"]["outcome"]["enum"].remove("failed"),
        "the word failed is gone",
    ),
    "word of an open enumeration removed": (
        lambda s: part(s, "org.prodrome.lifecycle.v1", "Lifecycle")["properties"]["kind"]["enum"].remove(
            "scored"
        ),
        "the word scored is gone",
    ),
    "word added": (
        lambda s: part(s, PREDICTION, "Prediction")["properties"]["outcome"]["enum"].append("guessed"),
        "old readers do not know the word guessed",
    ),
    "members of a list": (
        lambda s: part(s, PREDICTION, "Prediction")["properties"]["quality_flags"].update(
            items={"type": "integer"}
        ),
        ".quality_flags[]: another type",
    ),
    "values of a map": (
        lambda s: part(s, PREDICTION, "Prediction")["properties"]["thresholds"].update(
            additionalProperties={"type": "string"}
        ),
        ".thresholds[]: another type",
    ),
}


@pytest.mark.parametrize("release", FROZEN, ids=lambda path: path.name)
def test_nothing_of_a_release_is_broken(release: Path) -> None:
    """Within a version: fields are added and optional, and that is all."""
    assert breaks(json.loads((release / "contract.json").read_text()), contract()) == []


@pytest.mark.parametrize(("change", "words"), BREAKS.values(), ids=BREAKS)
def test_each_kind_of_break_is_named(change: Any, words: str) -> None:
    """A check that cannot fail would be a defect."""
    spoilt = copy.deepcopy(contract())
    change(spoilt)
    found = breaks(contract(), spoilt)
    assert [text for text in found if words in text]


def test_what_only_adds_is_no_break() -> None:
    """A topic, a type, an optional field, a word where more may come, a longer retention."""
    more = copy.deepcopy(contract())
    more["topics"]["new.v1"] = copy.deepcopy(more["topics"]["prediction.v1"])
    more["topics"]["prediction.v1"]["retention_ms"] *= 2
    more["topics"]["prediction.v1"]["types"].append("org.prodrome.more.v1")
    more["schemas"]["org.prodrome.more.v1"] = more["schemas"][PREDICTION]
    part(more, PREDICTION, "Prediction")["properties"]["more"] = {"type": "integer", "default": 0}
    lifecycle = part(more, "org.prodrome.lifecycle.v1", "Lifecycle")
    lifecycle["properties"]["kind"]["enum"].append("a_word_of_the_future")
    lifecycle["description"] = "Said otherwise."
    assert breaks(contract(), more) == []


def test_open_words_are_on_topics_that_no_role_reads() -> None:
    """An old role in front of a new word would make a dead letter of it; a subscriber skips it."""
    marked = {kind for kind in EVENT_TYPES if "x-open" in json.dumps(contract()["schemas"][kind])}
    assert marked == {"org.prodrome.lifecycle.v1"}
    for topic in TOPICS:
        if marked & set(topic.types):
            assert set(topic.readers) <= {"subscribers", "operator"}


def test_a_release_is_frozen_once(tmp_path: Path) -> None:
    """What was released stays as it is: the next one is another version."""
    folder = freeze(tmp_path)
    assert {path.name for path in folder.iterdir()} == {path.name for path in latest().iterdir()}
    assert json.loads((folder / "contract.json").read_text()) == contract()
    with pytest.raises(FileExistsError):
        freeze(tmp_path)
