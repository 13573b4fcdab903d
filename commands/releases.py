"""What waits in quarantine, and the two ways out of it: a release and a purge. Trusted.

A release of intake ``S/12/7`` is a new intake ``S+/12/7`` of the same bytes, so that it can happen once, its
origin can be read off, and every intake keeps one outcome (decision 0016):

1. A row of `releases`: it decides what was admitted, and counts the releases of that segment.
2. To the ledger the count, to deidentify the event with the pointer to the sealed bytes; both confirmed.
3. The row of `quarantine` says that it was released.

A purge deletes the object, then the rows that point at it. Either may end between any two steps: run again, it
does what is left. Neither touches the ledger.
"""

import datetime
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec

from consumers.kept import Kept
from consumers.ledger import outcome_of
from infra.cassandra import Statement, Tables
from infra.clock import Clock
from infra.kafka import Producer
from producers.outbox import relayed
from schemas.codec import Message, encode
from schemas.events import InstanceReceived, Intake, Pointer, Release
from schemas.ids import study_key
from schemas.topics import RECEIVED

#: Intakes a step: few enough that an entry of the audit trail can name them.
TOGETHER: Final = 100
_ROWS: Final = (
    "SELECT project, day, intake, reason, detail, sop_class, object, length, received, released FROM quarantine"
    " WHERE project = ? AND day = ?"
)
_RELEASE: Final = (
    "INSERT INTO releases (spool, segment, record, project, actor, admitted) VALUES (?, ?, ?, ?, ?, ?)"
    " IF NOT EXISTS"
)
_OF_RELEASE: Final = "SELECT admitted FROM releases WHERE spool = ? AND segment = ? AND record = ?"
_COUNT: Final = "SELECT COUNT(*) AS n FROM releases WHERE spool = ? AND segment = ?"
_RELEASED: Final = "UPDATE quarantine SET released = true WHERE project = ? AND day = ? AND intake = ?"
_DELETE: Final = "DELETE FROM quarantine WHERE project = ? AND day = ? AND intake = ?"


class Wanted(NamedTuple):
    """Which rows are meant; what is None or empty does not narrow."""

    project: str | None = None
    reason: str | None = None
    older_than_days: int | None = None
    released: bool | None = None
    intakes: tuple[str, ...] = ()


def waiting(tables: Tables, wanted: Wanted, clock: Clock) -> Iterator[Any]:
    """Yield the rows that are meant, newest day first, a page in memory at a time."""
    if wanted.project is None:
        projects = [row.project for row in tables.run("SELECT DISTINCT project FROM quarantine_days")]
    else:
        projects = [wanted.project]
    for project in sorted(projects):
        days = (r.day for r in tables.run("SELECT day FROM quarantine_days WHERE project = ?", (project,)))
        for day in sorted(days, reverse=True):
            if wanted.older_than_days is None or day < _day(clock, wanted.older_than_days):
                yield from (row for row in _of_day(tables, project, day, wanted) if _meant(row, wanted))


def release(
    tables: Tables, producer: Producer, kept: Kept, rows: Sequence[Any], admit: frozenset[str], actor: str
) -> Counter[str]:
    """Release some rows; returns how many were released, were released before, or cannot be.

    What was released before and has not settled is sent once more, with the same body: a message that was
    lost with a broker comes again, and one that was not changes nothing.
    """
    done: Counter[str] = Counter()
    sent: list[Message] = []
    segments: dict[tuple[str, int], None] = {}
    released = []
    for row in rows:
        if row.received is None:  # of a release that did not keep it
            done["without its event"] += 1
            continue
        intake = Intake.parse(row.intake)
        again = intake.again
        words = " ".join(sorted(admit))
        values = (again.spool, again.segment, again.record, row.project, actor, words)
        new, stands = tables.run_once(_RELEASE, values)
        released.append(row)
        if not new and outcome_of(tables, again) is not None:
            done["released before"] += 1
            continue
        admitted = words if new else stands.admitted
        segments[again.spool, again.segment] = None
        sent.append(_message(kept.event_of(row.project, intake, row.received), row, tuple(admitted.split())))
        done["released" if new else "sent again"] += 1
    counts = {key: tables.run(_COUNT, key)[0].n for key in segments}
    producer.send([*(relayed(*key, count, sealed=False) for key, count in counts.items()), *sent])
    for row in released:
        tables.run(_RELEASED, (row.project, row.day, row.intake))
    return done


def purge(tables: Tables, kept: Kept, rows: Sequence[Any]) -> Counter[str]:
    """Delete the bytes of some rows, and every row that points at them; not while a release is on its way."""
    done: Counter[str] = Counter()
    for row in rows:
        family = _family(tables, Intake.parse(row.intake).origin)
        if any(outcome_of(tables, member) is None for member in family[1:]):
            done["on its way"] += 1
            continue
        kept.store.delete(Pointer(uri=row.object, offset=0, length=row.length))
        tables.run_all(_deletions(tables, row, family))
        done["purged"] += 1
    return done


def together(rows: Iterator[Any]) -> Iterator[list[Any]]:
    """Yield rows in parts."""
    while part := list(islice(rows, TOGETHER)):
        yield part


def _of_day(tables: Tables, project: str, day: str, wanted: Wanted) -> Iterator[Any]:
    if not wanted.intakes:
        yield from tables.stream(_ROWS, (project, day))
        return
    for intake in wanted.intakes:
        yield from tables.run(_ROWS + " AND intake = ?", (project, day, intake))


def _meant(row: Any, wanted: Wanted) -> bool:
    return wanted.reason in (None, row.reason) and wanted.released in (None, bool(row.released))


def _day(clock: Clock, ago: int) -> str:
    today = datetime.datetime.fromtimestamp(clock.now(), datetime.UTC).date()
    return (today - datetime.timedelta(days=ago)).isoformat()


def _message(event: InstanceReceived, row: Any, admitted: tuple[str, ...]) -> Message:
    """Return the event of a release: always the same for one intake, however often it is sent."""
    (before,) = event.instances
    intake = before.intake.again
    instance = msgspec.structs.replace(
        before,
        intake=intake,
        pointer=Pointer(uri=row.object, offset=0, length=row.length),
        # Of an association of its own, which never closes: the study is quiet the whole time of its source.
        arrival=msgspec.structs.replace(before.arrival, association=f"{before.arrival.association}+"),
        release=Release(origin=row.intake, admitted=admitted),
    )
    again = msgspec.structs.replace(event, instances=(instance,))
    key = study_key(event.project, event.study_instance_uid)
    # A person's work waits behind a modality's.
    return encode(RECEIVED["bulk"], key, again, identity=(str(intake),), source="operator")


def _family(tables: Tables, origin: Intake) -> list[Intake]:
    """Return the intake that came through the door, its release, the release of that, and so on."""
    family = [origin]
    while tables.run(_OF_RELEASE, (family[-1].again.spool, origin.segment, origin.record)):
        family.append(family[-1].again)
    return family


def _deletions(tables: Tables, row: Any, family: list[Intake]) -> list[Statement]:
    if len(family) == 1:
        return [(_DELETE, (row.project, row.day, row.intake))]
    days = tables.run("SELECT day FROM quarantine_days WHERE project = ?", (row.project,))
    return [(_DELETE, (row.project, each.day, str(member))) for each in days for member in family]
