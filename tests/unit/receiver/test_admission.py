"""Who comes in, and which transfer syntax is taken."""

from collections.abc import Sequence

import msgspec
import pytest

from producers.receiver import ANSWERS, REJECTIONS
from producers.receiver.admission import Caller, Session, identify, transient
from producers.receiver.negotiation import TRANSFER_SYNTAX_ORDER, by_preference
from producers.receiver.statuses import (
    ABORTS,
    DRAINING,
    LOCAL_LIMIT,
    SPOOL_HIGH,
    UNKNOWN_CALLED,
    UNKNOWN_CALLER,
    Rejection,
)
from schemas.reasons import kind_of
from schemas.sources import Source

_SOURCES = (
    Source(name="ct", project="chest", calling_ae_titles=("CT1", "CT2"), addresses=("10.0.0.0/8",)),
    Source(name="any", addresses=("192.168.1.5/32",), called_ae_title="OTHER"),
)


def _identify(calling: str, called: str, address: str) -> Source | Rejection:
    return identify(Caller(calling=calling, called=called, address=address), _SOURCES, own_title="PRODROME")


def _later(
    name: str = "ct",
    sources: Sequence[Source] = _SOURCES,
    *,
    ratio: float = 0.0,
    draining: bool = False,
    **open_associations: int,
) -> Rejection | None:
    return transient(
        next(source for source in sources if source.name == name),
        sources,
        open_associations=open_associations,
        max_associations=4,
        spool_ratio=ratio,
        refuse_ratio=0.85,
        draining=draining,
    )


@pytest.mark.parametrize(
    ("calling", "called", "address", "expected"),
    [
        ("CT1", "PRODROME", "10.1.2.3", "ct"),
        ("CT2", "PRODROME", "::ffff:10.1.2.3", "ct"),
        ("ANY", "OTHER", "192.168.1.5", "any"),
        ("CT3", "PRODROME", "10.1.2.3", UNKNOWN_CALLER),
        ("CT1", "PRODROME", "11.1.2.3", UNKNOWN_CALLER),
        ("CT1", "OTHER", "10.1.2.3", UNKNOWN_CALLER),
        ("CT1", "NOBODY", "10.1.2.3", UNKNOWN_CALLED),
        ("ct1", "PRODROME", "10.1.2.3", UNKNOWN_CALLER),
    ],
)
def test_title_address_and_called_title_are_bound(
    calling: str, called: str, address: str, expected: str | Rejection
) -> None:
    """An association is admitted only where one source has all three."""
    decision = _identify(calling, called, address)
    assert (decision.name if isinstance(decision, Source) else decision) == expected


def test_limits_are_transient() -> None:
    """At the cap, and from 85 % of the spool, a known caller is told to come again."""
    assert _later() is None
    assert _later(any=3) is None
    assert _later(any=4) == LOCAL_LIMIT
    assert _later(ratio=0.85) == SPOOL_HIGH
    assert (LOCAL_LIMIT.result, SPOOL_HIGH.result, UNKNOWN_CALLER.result) == (2, 2, 1)


@pytest.mark.parametrize(
    ("name", "others", "admitted"),
    [
        ("archive", {}, True),
        ("archive", {"archive": 1}, True),
        ("archive", {"archive": 2}, False),  # its own cap
        ("other", {"other": 1}, True),
        ("other", {"other": 2}, False),  # two of four are kept for the stroke unit
        ("other", {"other": 1, "stroke": 1}, True),
        ("other", {"other": 1, "stroke": 2}, True),
        ("other", {"other": 1, "stroke": 3}, False),
        ("stroke", {"other": 2, "archive": 0}, True),
        ("stroke", {"other": 2, "stroke": 1}, True),
        ("stroke", {"other": 2, "stroke": 2}, False),
    ],
)
def test_a_source_has_its_cap_and_its_own_slots(name: str, others: dict[str, int], *, admitted: bool) -> None:
    """Of four slots a source takes no more than its cap, and none that is kept for another."""
    sources = (
        Source(name="archive", max_associations=2),
        Source(name="stroke", reserved_associations=2),
        Source(name="other"),
    )
    assert _later(name, sources, **others) == (None if admitted else LOCAL_LIMIT)


def test_session_ids_say_nothing_of_the_caller() -> None:
    """Two associations of one caller have unrelated random ids."""
    caller = Caller(calling="CT1", called="PRODROME", address="10.0.0.1")
    first, second = (Session(caller=caller, source=_SOURCES[0]) for _ in range(2))
    assert first.association != second.association
    assert len(first.association) == 32


def test_every_reason_of_the_tables_is_a_reason_word() -> None:
    """Statuses, rejections and aborts carry words of the one list, all of kind refused."""
    words = [row.reason for row in (*ANSWERS, *REJECTIONS) if row.reason] + [word for word, _ in ABORTS]
    assert {kind_of(word) for word in words} == {"refused"}
    assert all(row.stored == (row.status in (0x0000, 0xB007)) for row in ANSWERS)


def test_the_best_syntax_comes_first_and_lossy_last() -> None:
    """Explicit, deflated, lossless, implicit, lossy; what no table names comes behind all."""
    explicit, implicit = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
    jpeg, j2k = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"
    assert by_preference([jpeg, "1.9.9", implicit, j2k, explicit]) == [explicit, j2k, implicit, jpeg, "1.9.9"]
    assert by_preference([explicit, jpeg], order=(jpeg,)) == [jpeg, explicit]
    assert len({uid for uid, _ in TRANSFER_SYNTAX_ORDER}) == len(TRANSFER_SYNTAX_ORDER)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Upper"},
        {"name": "a", "addresses": ["10.0.0.1/8"]},
        {"name": "a", "calling_ae_titles": ["X" * 17]},
        {"name": "a", "quiet_seconds": 0},
        {"name": "a", "unknown": 1},
        {"name": "a", "max_associations": 2, "reserved_associations": 3},
        {"name": "a", "reserved_associations": -1},
    ],
)
def test_a_wrong_source_is_refused(wrong: dict[str, object]) -> None:
    """A sources file with a mistake is refused whole, never read half."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, Source)


def test_a_draining_door_tells_senders_to_come_again() -> None:
    """While an operator drains, whoever is admitted otherwise is rejected for now."""
    assert _later(draining=True) == DRAINING
    assert (DRAINING.result, DRAINING.source, DRAINING.diagnostic) == (2, 3, 2)
