"""One fault under load: send, break, heal, wait until nothing is in flight, collect, judge.

`Trial` is also the `World` of a running system: everything that its roles have written of one project.
"""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import places
import pydicom
from checker import Verdict, judge
from evidence import collect
from house import House, eventually
from loads import Stream
from needles import Search, identifiers
from places import hits
from scale import LONG
from sender import Ledger, Sender

from commands.status import groups_of
from infra.connections import kafka_of
from infra.kafka import Received, lags
from schemas.errors import ProdromeError
from schemas.topics import BY_NAME

#: Until nothing is in flight: the guide allows five minutes after faults heal; a machine that restarts much, more.
PATIENCE = 420.0
#: Instances and messages that may be on their way when something is killed once more.
BACKLOG = 2000
#: After each answer: a fault needs some traffic, and what is sent while roles start has to be judged too.
PACE = 0.05 if LONG else 0.2
#: The called AE title of this room, see `house.ROOMS`.
CALLED = "CHAOS"


class Trial:
    """The running system, under one load."""

    project = "chaos"

    def __init__(self, house: House, ledger: Ledger, folder: Path, seed: str) -> None:
        self.house, self.ledger = house, ledger
        self.settings, self.keys = house.settings, house.keys(self.project)
        self.trusted, self.clean = house.trusted, house.clean
        self.clean_folder, self.trusted_folder = house.stored_under / "clean", house.stored_under / "trusted"
        self.stream = Stream(folder, seed)
        self.sender = Sender(ledger, house.destination(CALLED), associations=4, pace=PACE)
        self._folder = folder
        self._scored: set[str] = set()

    # load and healing

    def begin(self, files: Iterable[Path] | None = None) -> None:
        """Begin to send."""
        self.sender.start(self.stream if files is None else files)

    def sent(self, count: int) -> None:
        """Wait until so many more answers have come."""
        more = len(self.sender.answers) + count
        eventually(lambda: len(self.sender.answers) >= more, f"{count} more answers", PATIENCE)

    def keep_up(self) -> None:
        """Wait while much is on its way: a fault that happens for an hour is not judged by an hour's backlog."""

        def is_little() -> bool:
            with suppress(ProdromeError):  # a part is on its way back
                return self.in_flight() + sum(self.lags().values()) < BACKLOG
            return False

        eventually(is_little, f"fewer than {BACKLOG} on their way", PATIENCE)

    def settle(self) -> float:
        """End the load, wait until nothing is in flight or waits; return the seconds that it took."""
        self.sender.end()
        self._scored = self._exams()
        began = time.monotonic()
        eventually(self._is_quiet, "quiet", PATIENCE)
        return time.monotonic() - began

    def _is_quiet(self) -> bool:
        with suppress(ProdromeError):  # a part is on its way back
            return (
                self.in_flight() == 0
                and not any(self.lags().values())
                and not self._open("open_studies")
                and not self._open("waiting_runs")  # the end of a deadline is a prediction
                and not self._unscored()
            )
        return False

    def _open(self, table: str) -> bool:
        return any(row.project == self.project for row in self.clean.run(f"SELECT project FROM {table}"))

    def _unscored(self) -> set[str]:
        rows = self.clean.run("SELECT project, study FROM prediction_head")
        return self._scored - {row.study for row in rows if row.project == self.project}

    def _exams(self) -> set[str]:
        """Exams of which all four views were acknowledged."""
        views: dict[str, int] = {}
        for one in self.ledger.sent():
            views[one.study] = views.get(one.study, 0) + one.acknowledged
        return {self.keys.pseudonymous_uid(study) for study in self.stream.exams if views.get(study, 0) >= 4}

    def verdict(self) -> Verdict:
        """Judge all that was ever sent to this project."""
        sent = self.ledger.sent()
        return judge(
            collect(self, sent, expected_dead=frozenset(self.ledger.poison), scored=frozenset(self._scored))
        )

    # the world's side

    def topic(self, name: str) -> Iterable[Received]:
        """All messages of a topic."""
        return self.house.topic(name)

    def in_flight(self) -> int:
        """Acknowledged intakes without an outcome."""
        return self.house.balance()["in_flight"]

    def lags(self) -> Mapping[str, int]:
        """Messages that wait, by group."""
        found: dict[str, int] = {}
        for zone in ("trusted", "clean"):
            groups = {
                group: some
                for group, some in groups_of(self.house.settings).items()
                if BY_NAME[some[0]].zone == zone
            }
            for lag in lags(kafka_of(getattr(self.house.settings, zone)), groups):
                found[f"{lag.group} {lag.topic}"] = lag.messages
        return found

    def leaks(self) -> list[str]:
        """Every clean object, message, row, log and metric, searched for what this load planted."""
        planted = self._planted()
        assert len(planted) > 5
        return [
            f"{name}: {len(found)} planted" for name, found in hits(Search(planted), self._places()).items()
        ]

    def _planted(self) -> set[str]:
        files = sorted(self._folder.parent.rglob("*.dcm"))  # whatever the test has written
        some = files[:: max(1, len(files) // 50)]
        values: set[str] = set()
        for path in some:
            values |= identifiers(pydicom.dcmread(path, stop_before_pixels=True))
        return {value for value in values if len(value) > 8 and any(map(str.isdigit, value))}

    def _places(self) -> Iterable[Any]:
        yield from places.clean_files(self.house)
        yield from places.topics(self.house, "clean")
        yield from places.tables(self.house, "clean")
        yield from places.logs_and_work(self.house)
        yield from places.metrics(self.house)
