"""Decides and remembers: identities, vault, quarantine list and intakes, written before anything is said.

1. `decide` reads what is known of the SOP Instance UIDs of all studies of a batch at once, and says what each
   arrival is beside it.
2. Vault rows and identities of what is new, the list of what is quarantined or dead, and how every intake
   ended (for `prodrome trace`) are written together, partitions beside each other: in whatever order they
   land, nothing is said before all have, and a repeat writes them all again.

Rows are keyed by study and intake, so that a repeat writes the same. It publishes nothing.
"""

import datetime
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from consumers.boundary import Crossing
from consumers.deid.digest import is_of_first_release
from consumers.identity import Arrived, Version, decide
from consumers.settle import Decided
from consumers.vault import Vault
from infra.cassandra import Statement, Tables
from infra.clock import Clock
from schemas.errors import BadMessage
from schemas.events import InstanceReceived, Pointer

_SELECT: Final = (
    "SELECT sop_uid, content_id, pixel_id, transfer_syntax, intake, outcome, version FROM identities"
    " WHERE project = ? AND study_uid = ? AND sop_uid IN ?"
)
_IDENTITY: Final = (
    "INSERT INTO identities (project, study_uid, sop_uid, content_id, pixel_id, transfer_syntax, intake, outcome,"
    " version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_INTAKE: Final = "INSERT INTO study_intakes (project, study_uid, sop_uid, intake, outcome, reason) VALUES (?, ?, ?, ?, ?, ?)"
_QUARANTINE: Final = (
    "INSERT INTO quarantine (project, day, intake, reason, detail, sop_class, object, length, received)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_QUARANTINE_DAY: Final = "INSERT INTO quarantine_days (project, day) VALUES (?, ?)"

StudyKey = tuple[str, str]


class Intakes:
    """Sole writer of identities, intakes, quarantine list and vault.

    Parameters
    ----------
    tables : Tables
        The trusted keyspace.
    vault : Vault
        For what the way back needs.
    keep : callable
        Copies what can still be read of a dead intake to the quarantine store; None where nothing can.
    seal : callable
        Seals the event of one instance, so that a release can send it again.
    clock : Clock
        For the day under which quarantine is listed.
    first_release_ids : callable
        Returns the digests of an instance as release 0.1.0 made them; asked where that release knew its UID.
    """

    def __init__(
        self,
        tables: Tables,
        vault: Vault,
        keep: Callable[[Decided], Pointer | None],
        seal: Callable[[InstanceReceived], bytes],
        clock: Clock,
        first_release_ids: Callable[[Decided], tuple[str, str]],
    ) -> None:
        self._tables, self._vault, self._keep, self._seal, self._clock = tables, vault, keep, seal, clock
        self._first_release_ids = first_release_ids

    def decide(self, crossed: Sequence[Decided]) -> list[Decided]:
        """Return the same instances with their versions, everything about them written."""
        studies: dict[StudyKey, dict[int, Decided]] = defaultdict(dict)
        for i, one in enumerate(crossed):
            if isinstance(one.result, Crossing) and one.result.quarantine is None:
                studies[one.project, one.study][i] = one
        versions: dict[int, Version] = {}
        rows: dict[StudyKey, list[Statement]] = defaultdict(list)
        vault: list[list[Statement]] = []
        for (key, members), known in zip(studies.items(), self._known(studies), strict=True):
            found, identities = self._decide_study(key, members, known)
            versions |= found
            rows[key] += identities
            vault += self._vault.rows(key[0], [_crossing(members[i]) for i in found if _counts(found[i])])
        decided = [one._replace(version=versions.get(i)) for i, one in enumerate(crossed)]
        for one in decided:
            rows[one.project, one.study].append(_noted(one))
        self._tables.write([*vault, *rows.values(), *self._quarantined(decided)])
        return decided

    def _known(self, studies: dict[StudyKey, dict[int, Decided]]) -> list[dict[str, list[Version]]]:
        """Read what is known of the instances of each study, all studies at once."""
        wanted = [
            (_SELECT, (*key, sorted({one.instance.sop_instance_uid for one in members.values()})))
            for key, members in studies.items()
        ]
        return [_versions(rows) for rows in self._tables.run_all(wanted)]

    def _decide_study(
        self, key: StudyKey, members: dict[int, Decided], known: dict[str, list[Version]]
    ) -> tuple[dict[int, Version], list[Statement]]:
        """Return what each member is, and the rows of identities that are new."""
        versions: dict[int, Version] = {}
        rows: list[Statement] = []
        for i, one in members.items():
            before = known.setdefault(one.instance.sop_instance_uid, [])
            arrived = _arrived(one)
            if any(is_of_first_release(version.content_id) for version in before):
                arrived = arrived._replace(first_release=self._first_release_ids(one))
            version = versions[i] = decide(arrived, before)
            if _counts(version) and version not in before:
                before.append(version)
                rows.append(_identity(key, one.instance.sop_instance_uid, version))
        return versions, rows

    def _quarantined(self, decided: Iterable[Decided]) -> list[list[Statement]]:
        day = datetime.datetime.fromtimestamp(self._clock.now(), datetime.UTC).date().isoformat()
        rows: dict[str, list[Statement]] = defaultdict(list)
        for one in decided:
            kept = self._keep(one) if isinstance(one.result, BadMessage) else one.result.kept
            if kept is not None:
                where = (one.project, day, str(one.instance.intake))
                what = (
                    one.settled.reason,
                    one.result.detail,
                    one.instance.sop_class_uid,
                    kept.uri,
                    kept.length,
                    self._seal(_event(one)),
                )
                rows[one.project].append((_QUARANTINE, (*where, *what)))
        days: list[list[Statement]] = [[(_QUARANTINE_DAY, (project, day))] for project in rows]
        return [*rows.values(), *days]


def _versions(rows: Iterable[Any]) -> dict[str, list[Version]]:
    known: dict[str, list[Version]] = defaultdict(list)
    for row in rows:
        content, pixels = row.content_id.hex(), row.pixel_id.hex()
        version = Version(content, pixels, row.transfer_syntax, row.intake, row.outcome, row.version)
        known[row.sop_uid].append(version)
    return known


def _counts(version: Version) -> bool:
    return version.outcome != "duplicate"


def _crossing(one: Decided) -> Crossing:
    if not isinstance(one.result, Crossing):
        raise TypeError("expected a crossing")
    return one.result


def _arrived(one: Decided) -> Arrived:
    crossing, syntax = _crossing(one), one.instance.transfer_syntax_uid
    return Arrived(crossing.content_id, crossing.pixel_id, syntax, str(one.instance.intake))


def _noted(one: Decided) -> Statement:
    what = (one.instance.sop_instance_uid, str(one.instance.intake))
    return _INTAKE, (one.project, one.study, *what, one.settled.outcome, one.settled.reason)


def _event(one: Decided) -> InstanceReceived:
    return InstanceReceived(project=one.project, study_instance_uid=one.study, instances=(one.instance,))


def _identity(key: StudyKey, sop: str, version: Version) -> Statement:
    digests = (bytes.fromhex(version.content_id), bytes.fromhex(version.pixel_id))
    rest = (version.transfer_syntax_uid, version.intake, version.outcome, version.version)
    return _IDENTITY, (*key, sop, *digests, *rest)
