"""The ledger of one segment: any order and repetition of events gives the same counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.ledger import CODES, Segment, retention_seconds
from schemas.errors import SettingsError

outcomes = st.sampled_from(sorted(CODES))


def segment() -> Segment:
    return Segment(bytearray())


def test_a_record_without_an_outcome_is_in_flight() -> None:
    """A gap is not settled: record 1 has said nothing."""
    found = segment()
    found.settle(0, "clean")
    found.settle(2, "quarantined")
    found.relayed(3, True)
    assert found.counts == {"clean": 1, "quarantined": 1}
    assert not found.settled


def test_the_first_outcome_stays() -> None:
    """A repeat, even one that says otherwise, changes no number."""
    found = segment()
    found.settle(0, "clean")
    found.settle(0, "duplicate")
    assert found.counts == {"clean": 1}


def test_an_unsealed_segment_is_never_settled() -> None:
    """More records may come."""
    found = segment()
    found.settle(0, "clean")
    found.relayed(1, False)
    assert not found.settled
    found.relayed(1, True)
    assert found.settled


def test_a_count_never_shrinks() -> None:
    """A relay that starts anew tells smaller numbers first."""
    found = segment()
    found.relayed(7, True)
    found.relayed(3, False)
    assert (found.records, found.sealed) == (7, True)


@given(st.lists(outcomes, max_size=30), st.data())
def test_any_order_and_repetition_gives_the_same_counts(told: list[str], data: st.DataObject) -> None:
    """Events are delivered at least once, and those of two topics' partitions in any order."""
    events = [("settle", i, outcome) for i, outcome in enumerate(told)]
    events += [("relay", n, n == len(told)) for n in range(len(told) + 1)]  # type: ignore[misc]
    repeated = events + data.draw(st.lists(st.sampled_from(events), max_size=20))
    found = segment()
    for what, number, said in data.draw(st.permutations(repeated)):
        found.settle(number, said) if what == "settle" else found.relayed(number, said)  # type: ignore[arg-type]
    assert found.settled
    assert found.counts == {name: told.count(name) for name in set(told)}
    assert bytes(found.outcomes) == bytes(CODES[name] for name in told)  # type: ignore[index]


@given(st.lists(outcomes, min_size=1, max_size=30), st.data())
def test_a_segment_with_one_record_in_flight_is_not_settled(told: list[str], data: st.DataObject) -> None:
    """No spool space is given back while one intake has no outcome."""
    missing = data.draw(st.integers(0, len(told) - 1))
    found = segment()
    found.relayed(len(told), True)
    for i, outcome in enumerate(told):
        if i != missing:
            found.settle(i, outcome)  # type: ignore[arg-type]
    assert not found.settled


def test_in_another_epoch_all_has_to_settle_again() -> None:
    """The numbers stay meanwhile, and so does each first outcome."""
    found = segment()
    found.relayed(2, True, "a")
    found.settle(0, "clean")
    found.settle(1, "dead")
    assert found.settled
    found.relayed(0, False, "b")
    assert found.counts == {"clean": 1, "dead": 1}
    assert not found.settled
    found.settle(0, "duplicate")
    assert not found.settled
    found.settle(1, "quarantined")
    assert found.settled
    assert found.counts == {"clean": 1, "quarantined": 1}


def test_what_comes_again_from_before_an_epoch_takes_no_doubt_away() -> None:
    """A ledger that is killed before it commits hears the old outcome again, and behind it the announcement."""
    found = segment()
    found.relayed(1, True, "a")
    for _ in range(2):
        found.settle(0, "clean")
        found.relayed(0, False, "b")
        assert not found.settled
    found.settle(0, "clean")
    assert found.settled


@given(st.lists(outcomes, min_size=1, max_size=20), st.integers(1, 4), st.data())
def test_after_any_epochs_it_is_settled_once_the_last_is(
    told: list[str], epochs: int, data: st.DataObject
) -> None:
    """Each epoch is cut anywhere, what it said is repeated; the last one runs to its end."""
    found = segment()
    for epoch in range(epochs):
        found.relayed(0, False, str(epoch))
        count = len(told) if epoch == epochs - 1 else data.draw(st.integers(0, len(told)))
        for i in range(count):
            assert not found.settled
            for _ in range(data.draw(st.integers(1, 2))):
                found.settle(i, told[i])  # type: ignore[arg-type]
            found.relayed(i + 1, i + 1 == len(told), str(epoch))
    assert found.settled
    assert found.counts == {name: told.count(name) for name in set(told)}


@pytest.mark.parametrize(("policy", "seconds"), [("none", 0.0), ("forever", None), ("2", 172800.0)])
def test_retention_is_a_word_or_days(policy: str, seconds: float | None) -> None:
    """How long settled raw bytes are kept."""
    assert retention_seconds(policy) == seconds


def test_another_retention_is_refused() -> None:
    """A typo must not free raw bytes."""
    with pytest.raises(SettingsError, match="PRODROME_LEDGER_RAW_RETENTION"):
        retention_seconds("7 days")
