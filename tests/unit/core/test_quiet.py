"""When a study is quiet: by time alone, sooner by its associations, never while messages of it wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.quiet import OpenStudies, StudyKey
from infra.clock import ManualClock
from schemas.events import Arrival

KEY, OTHER = StudyKey("default", "1.2"), StudyKey("default", "1.3")
HERE = frozenset({4})
QUIET, SHORT = 15.0, 2.0


class Room:
    """Open studies of partition 4 and a clock that a test moves."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.studies = OpenStudies(SHORT)

    def arrive(
        self, *which: str, key: StudyKey = KEY, indexed: bool = True, quiet: float = QUIET, partition: int = 4
    ) -> None:
        """Settle instances named like ``a0``: association a, ordinal 0."""
        arrivals = [Arrival(association=name[0], ordinal=int(name[1:])) for name in which]
        self.studies.arrived(key, partition, arrivals, self.clock.now(), quiet_seconds=quiet, indexed=indexed)

    def close(self, association: str, count: int, key: StudyKey = KEY) -> None:
        self.studies.closed(key, association, count, self.clock.now())

    def due(self, partitions: frozenset[int] = HERE) -> list[StudyKey]:
        return [key for key, _ in self.studies.due(self.clock.now(), partitions)]

    def due_after(self, seconds: float) -> list[StudyKey]:
        self.clock.advance(seconds)
        return self.due()


@pytest.fixture
def room() -> Room:
    return Room()


def test_a_study_is_quiet_after_its_sources_time(room: Room) -> None:
    """Without any word about associations, 15 seconds after the last instance."""
    room.arrive("a0")
    assert room.due_after(QUIET - 0.1) == []
    assert room.due_after(0.1) == [KEY]


def test_every_instance_begins_the_time_anew(room: Room) -> None:
    """One association an instance with 5 s between: one study, one close."""
    for name in "abcdef":
        room.arrive(f"{name}0")
        assert room.due_after(5.0) == []
    assert room.due_after(QUIET - 5.0) == [KEY]


def test_a_short_time_is_enough_once_the_association_has_closed_and_settled(room: Room) -> None:
    """The marker says how many instances it carried; all of them have settled."""
    room.arrive("a0", "a1")
    room.close("a", 2)
    assert room.due_after(SHORT) == [KEY]


@pytest.mark.parametrize("order", [["a0", "a1", "marker"], ["marker", "a0", "a1"], ["a0", "marker", "a1"]])
def test_the_marker_may_come_before_the_instances_that_it_counts(room: Room, order: list[str]) -> None:
    """What is in work behind the marker is waited for; it settles in any order."""
    room.arrive("a5", indexed=True)
    for what in order:
        room.close("a", 3) if what == "marker" else room.arrive(what)
    assert room.due_after(SHORT) == [KEY]


def test_a_marker_that_counts_more_than_settled_waits(room: Room) -> None:
    """One instance of the association has not settled yet: the full time, not the short one."""
    room.arrive("a0", "a1")
    room.close("a", 3)
    assert room.due_after(SHORT) == []
    assert room.due_after(QUIET - SHORT) == [KEY]


def test_a_repeat_of_an_instance_is_counted_once(room: Room) -> None:
    """At least once: the same ordinal twice is not two instances."""
    room.arrive("a0")
    room.arrive("a0")
    room.close("a", 2)
    assert room.due_after(SHORT) == []


def test_an_association_that_is_held_open_costs_the_full_time(room: Room) -> None:
    """Some PACS close none all day: the study is quiet by time."""
    room.arrive("a0", "b0")
    room.close("a", 1)
    assert room.due_after(SHORT) == []
    assert room.due_after(QUIET - SHORT) == [KEY]


def test_every_association_of_a_study_must_have_closed(room: Room) -> None:
    """Four at once for one study: the last one decides."""
    for name in "abcd":
        room.arrive(f"{name}0")
    for name in "abc":
        room.close(name, 1)
    assert room.due_after(SHORT) == []
    room.close("d", 1)
    assert room.due_after(SHORT) == [KEY]


def test_one_association_over_several_studies_closes_each_by_its_own_count(room: Room) -> None:
    """A marker is of one study: its key is the study's."""
    room.arrive("a0", "a1")
    room.arrive("a2", key=OTHER)
    room.close("a", 2)
    assert room.due_after(SHORT) == [KEY]
    room.close("a", 1, OTHER)
    room.studies.forget(KEY)
    assert room.due_after(SHORT) == [OTHER]


def test_an_excluded_instance_is_waited_for_no_more(room: Room) -> None:
    """Quarantined, dead and duplicate instances settle an association like clean ones."""
    room.arrive("a0")
    room.arrive("a1", indexed=False)
    room.close("a", 2)
    assert room.due_after(SHORT) == [KEY]
    assert room.studies.is_dirty(KEY)


def test_duplicates_alone_open_no_revision(room: Room) -> None:
    """An exam sent twice has nothing that a revision must show."""
    room.arrive("a0", "a1", indexed=False)
    assert not room.studies.is_dirty(KEY)
    assert len(room.studies) == 0


def test_a_late_marker_opens_nothing(room: Room) -> None:
    """The study has closed by time; the association that carried it closes in the evening."""
    room.close("a", 2)
    assert KEY not in room.studies


def test_a_study_never_closes_while_its_partition_lags(room: Room) -> None:
    """Its instances may be among the messages that wait."""
    room.arrive("a0")
    room.arrive("a0", key=OTHER, partition=5)
    room.clock.advance(10 * QUIET)
    assert room.due(frozenset()) == []
    assert room.due(frozenset({5})) == [OTHER]


def test_the_longest_quiet_comes_first(room: Room) -> None:
    """Closing takes its time; nobody is overtaken by a newer study."""
    room.arrive("a0", key=OTHER)
    room.clock.advance(1)
    room.arrive("b0")
    assert room.due_after(QUIET) == [OTHER, KEY]


def test_studies_of_partitions_that_moved_away_are_dropped(room: Room) -> None:
    """Their new owner reads them from the table."""
    room.arrive("a0")
    room.arrive("a0", key=OTHER, partition=5)
    room.studies.keep_only(frozenset({5}))
    assert KEY not in room.studies
    assert OTHER in room.studies


def test_a_source_may_have_a_shorter_time_than_the_closed_one(room: Room) -> None:
    """Closed associations never make a study wait longer."""
    room.arrive("a0", quiet=0.5)
    room.close("a", 1)
    assert room.due_after(0.5) == [KEY]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.sampled_from(["a0", "a1", "b0", "b1"])),
        st.tuples(st.just("close"), st.sampled_from(["a", "b"])),
        st.tuples(st.just("wait"), st.floats(0, 1.9)),
    ),
    max_size=20,
)


@given(steps)
def test_no_study_closes_within_the_short_time_and_none_is_forgotten(told: list[tuple[str, object]]) -> None:
    """Whatever the order of instances and markers: not before `SHORT`, and always after `QUIET`."""
    room = Room()
    room.arrive("a0")
    for what, value in told:
        if what == "arrive":
            room.arrive(str(value))
        elif what == "close":
            room.close(str(value), 2)
        else:
            assert isinstance(value, float)
            room.clock.advance(value)
    last = room.studies._studies[KEY].last
    assert room.clock.now() - last >= SHORT or room.due() == []
    assert room.due_after(QUIET) == [KEY]
