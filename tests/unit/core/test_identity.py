"""What another arrival of a SOP Instance UID is, and that a repeat never changes an answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.identity import Arrived, Version, decide

EXPLICIT, IMPLICIT, LOSSY = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.50"


def arrived(content: str, pixels: str, syntax: str = EXPLICIT, intake: str = "s/0/0") -> Arrived:
    return Arrived(content, pixels, syntax, intake)


def known(*arrivals: Arrived) -> list[Version]:
    """The versions that these arrivals leave, as the stage keeps them: duplicates leave none."""
    versions: list[Version] = []
    for each in arrivals:
        version = decide(each, versions)
        if version.outcome != "duplicate" and version not in versions:
            versions.append(version)
    return versions


FIRST = arrived("c0", "p0", intake="s/0/0")


def test_the_first_is_clean() -> None:
    """Version 0 of its UID."""
    assert decide(FIRST, []) == FIRST.becomes("clean", 0)


def test_the_same_again_is_a_duplicate() -> None:
    """Another intake of the same content in the same pixels has no effect."""
    assert decide(arrived("c0", "p0", intake="s/0/1"), known(FIRST)).outcome == "duplicate"


def test_the_same_content_in_another_transfer_syntax_is_a_duplicate() -> None:
    """A second route re-encodes: other pixel bytes, the same content; lossy ones replace nothing either."""
    for syntax in (IMPLICIT, LOSSY):
        assert decide(arrived("c0", "p9", syntax, "s/0/1"), known(FIRST)).outcome == "duplicate"


def test_other_content_in_the_same_pixels_is_a_correction() -> None:
    """The later received is effective: the next version."""
    again = decide(arrived("c1", "p0", intake="s/0/1"), known(FIRST))
    assert (again.outcome, again.version) == ("corrected", 1)


def test_other_pixels_are_a_conflict() -> None:
    """In the same transfer syntax, whatever the content says."""
    for content in ("c0", "c1"):
        again = decide(arrived(content, "p1", intake="s/0/1"), known(FIRST))
        assert again.outcome == "conflict"


def test_a_correction_of_a_correction_is_the_newest() -> None:
    """Versions count on."""
    versions = known(FIRST, arrived("c1", "p0", intake="s/0/1"), arrived("c2", "p0", intake="s/0/2"))
    assert [v.version for v in versions] == [0, 1, 2]


def test_what_was_replaced_stays_replaced_when_it_comes_again() -> None:
    """An old copy from an archive does not undo a correction: it is known."""
    versions = known(FIRST, arrived("c1", "p0", intake="s/0/1"))
    assert decide(arrived("c0", "p0", intake="s/0/2"), versions).outcome == "duplicate"


def test_a_conflict_changes_nothing_about_what_is_effective() -> None:
    """After a conflict, a correction is judged beside the effective version, not beside the conflict."""
    versions = known(FIRST, arrived("c1", "p1", intake="s/0/1"))
    assert decide(arrived("c2", "p0", intake="s/0/2"), versions).outcome == "corrected"
    assert decide(arrived("c3", "p1", intake="s/0/3"), versions).outcome == "conflict"


def test_the_same_intake_has_the_answer_it_had() -> None:
    """After a crash the message comes again: clean stays clean, and is no duplicate of itself."""
    conflict, correction = arrived("c1", "p1", intake="s/0/1"), arrived("c2", "p0", intake="s/0/2")
    versions = known(FIRST, conflict, correction)
    assert [decide(a, versions).outcome for a in (FIRST, conflict, correction)] == [
        "clean",
        "conflict",
        "corrected",
    ]


contents = st.tuples(
    st.sampled_from(["c0", "c1", "c2"]), st.sampled_from(["p0", "p1"]), st.sampled_from([EXPLICIT, IMPLICIT])
)
histories = st.lists(contents, min_size=1, max_size=8).flatmap(
    lambda found: st.tuples(st.just(found), st.lists(st.integers(0, len(found) - 1), max_size=12))
)


@given(histories, st.randoms())
def test_repeats_in_any_order_never_change_an_answer_already_given(history, random) -> None:  # type: ignore[no-untyped-def]
    """Rows come back from the table in another order, messages come again in another: same answers."""
    found, repeats = history
    intakes = [Arrived(*content, f"s/0/{i}") for i, content in enumerate(found)]
    versions: list[Version] = []
    answers: list[Version] = []
    for intake in intakes:
        answers.append(decide(intake, versions))
        if answers[-1].outcome != "duplicate":
            versions.append(answers[-1])
    random.shuffle(versions)
    for i in repeats:
        again = decide(intakes[i], versions)
        assert (again.outcome, again.intake) == (answers[i].outcome, answers[i].intake)
        assert again in versions or again.outcome == "duplicate"


OLD = Version("a" * 64, "b" * 64, "1.2.840.10008.1.2.1", "s/1/1", "clean", 0)


@pytest.mark.parametrize(
    ("first_release", "intake", "outcome"),
    [
        (("a" * 64, "b" * 64), "s/1/1", "clean"),
        (("a" * 64, "b" * 64), "s/1/2", "duplicate"),
        (("c" * 64, "b" * 64), "s/1/2", "corrected"),
        (("c" * 64, "d" * 64), "s/1/2", "conflict"),
    ],
)
def test_what_release_0_1_0_knew_is_recognised(
    first_release: tuple[str, str], intake: str, outcome: str
) -> None:
    """Its versions are compared by its digests; what is kept of the arrival are the digests of today."""
    arrived = Arrived("1e" + "1" * 64, "1e" + "2" * 64, OLD.transfer_syntax_uid, intake, first_release)
    version = decide(arrived, [OLD])
    assert version.outcome == outcome
    assert version.content_id == (OLD.content_id if outcome == "clean" else arrived.content_id)
