"""The subscriber's rule: whatever is repeated, late or out of order, the same results are effective."""

import importlib.util
import random
import sqlite3
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.events import EVENT_TYPES

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "subscriber.py"
PREDICTION, LIFECYCLE = "org.prodrome.imaging.prediction.created.v1", "org.prodrome.lifecycle.v1"

_spec = importlib.util.spec_from_file_location("subscriber", EXAMPLE)
assert _spec is not None
assert _spec.loader is not None
subscriber = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(subscriber)

Said = tuple[str, dict[str, Any]]
#: outcome, or a retraction of the study; whether it comes with a new revision
steps = st.lists(
    st.tuples(st.sampled_from(["predicted", "incomplete", "out_of_domain", "failed"]), st.booleans()),
    max_size=6,
)
studies = st.lists(st.tuples(steps, st.booleans()), min_size=1, max_size=3)


def prediction(study: str, number: int, outcome: str, revision: int, supersedes: str | None) -> Said:
    return PREDICTION, {
        "prediction_id": f"{study}-{number}",
        "project": "p",
        "study_instance_uid": study,
        "model": {"id": "m"},
        "revision": revision,
        "outcome": outcome,
        "status": "amended" if supersedes else "preliminary",
        "supersedes": supersedes,
    }


def history(study: str, steps: list[tuple[str, bool]]) -> tuple[list[Said], str | None]:
    """What `consumers.score` says of a study, in order, and what is effective at its end."""
    said: list[Said] = []
    head, revision = None, 1
    for number, (outcome, revised) in enumerate(steps):
        revision += revised
        if outcome != "incomplete":
            said.append(prediction(study, number, outcome, revision, head))
            head = f"{study}-{number}"
        elif not any(body["outcome"] == "incomplete" for _, body in said):
            said.append(prediction(study, number, outcome, revision, None))
            head = head or f"{study}-{number}"
    return said, head


def retraction(study: str) -> Said:
    return LIFECYCLE, {"project": "p", "study_instance_uid": study, "kind": "retracted"}


def effective(said: list[Said], memory: sqlite3.Connection | None = None) -> dict[str, str]:
    """What the example holds after these messages."""
    memory = memory or sqlite3.connect(":memory:")
    memory.executescript(subscriber.TABLES)
    for kind, body in said:
        subscriber.remember(memory, kind, body)
    return dict(memory.execute("SELECT study, id FROM effective").fetchall())


@given(studies, st.randoms(use_true_random=False))
def test_the_newest_answer_is_effective_in_any_order(drawn: Any, chance: random.Random) -> None:
    """In order, with repeats in any order, and begun anew over what is there: one state, the producer's own."""
    said: list[Said] = []
    expected: dict[str, str] = {}
    for number, (steps, retracted) in enumerate(drawn):
        of_study, head = history(str(number), steps)
        said += of_study + [retraction(str(number))] * retracted
        if head and not retracted:
            expected[str(number)] = head
    shuffled = said + chance.choices(said, k=len(said)) if said else []
    chance.shuffle(shuffled)
    with sqlite3.connect(":memory:") as memory:
        assert effective(said, memory) == expected
        assert effective(shuffled, memory) == expected
    assert effective(shuffled) == expected


def test_a_withdrawn_answer_leaves_none() -> None:
    """A prediction with the status `retracted` supersedes and shows nothing."""
    first, (kind, body) = prediction("1", 1, "predicted", 1, None), prediction("1", 2, "predicted", 1, "1-1")
    assert effective([first]) == {"1": "1-1"}
    assert effective([(kind, body | {"status": "retracted"}), first]) == {}


def test_nothing_of_a_retracted_study_is_kept() -> None:
    """Neither what came before the word nor what comes again."""
    memory = sqlite3.connect(":memory:")
    first = prediction("1", 1, "predicted", 1, None)
    assert effective([first, retraction("1"), first], memory) == {}
    assert memory.execute("SELECT count(*) FROM predictions").fetchone() == (0,)


def test_unknown_words_and_types_are_skipped() -> None:
    """More may come within this version."""
    word = (LIFECYCLE, {"project": "p", "study_instance_uid": "1", "kind": "a_word_of_the_future"})
    assert effective([word, ("org.prodrome.more.v2", {"project": "p", "study_instance_uid": "1"})]) == {}


def test_the_page_shows_the_example_as_it_is() -> None:
    """Its view stands on the page word for word, and every lifecycle word has its line."""
    page = (EXAMPLE.parents[1] / "subscribing.md").read_text()
    view = page.partition("```sql\n")[2].partition("```")[0].split()
    assert " ".join(view) in " ".join(EXAMPLE.read_text().split())
    kinds = EVENT_TYPES[LIFECYCLE].__annotations__["kind"].__args__[0].__args__
    assert [kind for kind in kinds if f"`{kind}`" not in page] == []
