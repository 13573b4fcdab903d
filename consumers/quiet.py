"""When a study is quiet: the open studies of a role, their deadlines and their associations. Pure.

"No semantics are attached to the closing of an Association" (PS3.4 B.4): some PACS use one association an
instance, others hold one open all day. So a study is quiet `quiet_seconds` after its last instance; when
every association that carried it has closed and all it carried has settled, a short time is enough.

::

    instance or exclusion -> wait the source's quiet time
    marker, and all of every association settled -> wait `closed_quiet` from the last of them
    due, and the partition has no lag -> close
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.events import Arrival


class StudyKey(NamedTuple):
    """A study of a project, pseudonymous."""

    project: str
    study: str


@dataclass
class Association:
    """What one association brought to a study: a bit for each ordinal, and how many it said there are."""

    settled: int = 0
    announced: int | None = None

    @property
    def complete(self) -> bool:
        """Whether it has closed and everything it announced has settled."""
        return self.announced is not None and self.settled.bit_count() >= self.announced


@dataclass
class OpenStudy:
    """A study that waits. `dirty` once an instance was indexed that no revision has."""

    partition: int
    quiet_seconds: float
    last: float
    dirty: bool = False
    associations: dict[str, Association] = field(default_factory=dict)

    def due(self, closed_quiet: float) -> float:
        """Return the monotonic time at which this study is quiet."""
        complete = self.associations and all(a.complete for a in self.associations.values())
        return self.last + (min(closed_quiet, self.quiet_seconds) if complete else self.quiet_seconds)


class OpenStudies:
    """The open studies of the owned partitions.

    Parameters
    ----------
    closed_quiet : float
        Seconds of quiet that suffice once every association has closed and settled.
    """

    def __init__(self, closed_quiet: float) -> None:
        self._closed_quiet = closed_quiet
        self._studies: dict[StudyKey, OpenStudy] = {}

    def __contains__(self, key: StudyKey) -> bool:
        return key in self._studies

    def __len__(self) -> int:
        return sum(study.dirty for study in self._studies.values())

    def is_dirty(self, key: StudyKey) -> bool:
        """Whether an instance was indexed that no revision has."""
        return key in self._studies and self._studies[key].dirty

    def arrived(
        self,
        key: StudyKey,
        partition: int,
        arrivals: Iterable[Arrival],
        now: float,
        *,
        quiet_seconds: float,
        indexed: bool,
    ) -> None:
        """Note instances that settled; `indexed` where they have rows that a revision must show."""
        study = self._studies.setdefault(key, OpenStudy(partition, quiet_seconds, now))
        study.last = now
        study.partition = partition
        if indexed:
            study.quiet_seconds = quiet_seconds
            study.dirty = True
        for arrival in arrivals:
            association = study.associations.setdefault(arrival.association, Association())
            association.settled |= 1 << arrival.ordinal

    def closed(self, key: StudyKey, association: str, announced: int, now: float) -> None:
        """Note the marker of an association; one for a study that does not wait says nothing."""
        study = self._studies.get(key)
        if study is not None:
            study.associations.setdefault(association, Association()).announced = announced
            study.last = now

    def due(self, now: float, partitions: frozenset[int]) -> Iterator[tuple[StudyKey, OpenStudy]]:
        """Yield the studies that are quiet, of partitions that have no lag, longest quiet first."""
        ready = [
            (study.due(self._closed_quiet), key)
            for key, study in self._studies.items()
            if study.partition in partitions and study.due(self._closed_quiet) <= now
        ]
        for _, key in sorted(ready):
            yield key, self._studies[key]

    def forget(self, key: StudyKey) -> None:
        """Drop a study: it has closed, or nothing of it needs a revision."""
        self._studies.pop(key, None)

    def keep_only(self, partitions: frozenset[int]) -> None:
        """Drop the studies of partitions that are owned no more."""
        self._studies = {k: s for k, s in self._studies.items() if s.partition in partitions}
