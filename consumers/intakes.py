"""Decides and remembers: identities, vault, quarantine list and intakes, written before anything is said.

1. `decide` reads what is known of the SOP Instance UIDs of a study and says what each arrival is beside it.
2. Vault rows and identities of what is new are written, a batch a study.
3. Quarantined and dead intakes are listed; every intake is noted with its end, for `prodrome trace`.

Rows are keyed by study and intake, so that a repeat writes the same. It publishes nothing.
"""

import datetime
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from consumers.boundary import Crossing
from consumers.identity import Arrived, Version, decide
from consumers.settle import Decided
from consumers.vault import Vault
from infra.cassandra import Statement, Tables
from infra.clock import Clock
from schemas.errors import BadMessage
from schemas.events import Pointer

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
    "INSERT INTO quarantine (project, day, intake, reason, detail, sop_class, object, length)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
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
    clock : Clock
        For the day under which quarantine is listed.
    """

    def __init__(
        self, tables: Tables, vault: Vault, keep: Callable[[Decided], Pointer | None], clock: Clock
    ) -> None:
        self._tables, self._vault, self._keep, self._clock = tables, vault, keep, clock

    def decide(self, crossed: Sequence[Decided]) -> list[Decided]:
        """Return the same instances with their versions, everything about them written."""
        studies: dict[StudyKey, list[int]] = defaultdict(list)
        for i, one in enumerate(crossed):
            if isinstance(one.result, Crossing) and one.result.quarantine is None:
                studies[one.project, one.study].append(i)
        versions: dict[int, Version] = {}
        for key, which in studies.items():
            versions |= self._decide_study(key, {i: crossed[i] for i in which})
        decided = [one._replace(version=versions.get(i)) for i, one in enumerate(crossed)]
        self._list_quarantined(decided)
        self._note(decided)
        return decided

    def _decide_study(self, key: StudyKey, members: dict[int, Decided]) -> dict[int, Version]:
        known = self._known(key, sorted({one.instance.sop_instance_uid for one in members.values()}))
        versions: dict[int, Version] = {}
        rows: list[Statement] = []
        new: list[Crossing] = []
        for i, one in members.items():
            if not isinstance(one.result, Crossing):
                raise TypeError("expected a crossing")
            sop = one.instance.sop_instance_uid
            version = versions[i] = decide(_arrived(one, one.result), known[sop])
            if version.outcome != "duplicate":
                new.append(one.result)
                if version not in known[sop]:
                    known[sop].append(version)
                    rows.append(_identity(key, sop, version))
        self._vault.write(key[0], new)
        self._tables.write_partition(rows)
        return versions

    def _known(self, key: StudyKey, sops: list[str]) -> dict[str, list[Version]]:
        known: dict[str, list[Version]] = defaultdict(list)
        for row in self._tables.run(_SELECT, (*key, sops)):
            content, pixels = row.content_id.hex(), row.pixel_id.hex()
            version = Version(content, pixels, row.transfer_syntax, row.intake, row.outcome, row.version)
            known[row.sop_uid].append(version)
        return known

    def _list_quarantined(self, decided: Iterable[Decided]) -> None:
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
                )
                rows[one.project].append((_QUARANTINE, (*where, *what)))
        for project, statements in rows.items():
            self._tables.write_partition(statements)
            self._tables.run(_QUARANTINE_DAY, (project, day))

    def _note(self, decided: Iterable[Decided]) -> None:
        rows: dict[StudyKey, list[Statement]] = defaultdict(list)
        for one in decided:
            what = (one.instance.sop_instance_uid, str(one.instance.intake))
            end = (one.settled.outcome, one.settled.reason)
            rows[one.project, one.study].append((_INTAKE, (one.project, one.study, *what, *end)))
        for statements in rows.values():
            self._tables.write_partition(statements)


def _arrived(one: Decided, crossing: Crossing) -> Arrived:
    syntax, intake = one.instance.transfer_syntax_uid, str(one.instance.intake)
    return Arrived(crossing.content_id, crossing.pixel_id, syntax, intake)


def _identity(key: StudyKey, sop: str, version: Version) -> Statement:
    digests = (bytes.fromhex(version.content_id), bytes.fromhex(version.pixel_id))
    rest = (version.transfer_syntax_uid, version.intake, version.outcome, version.version)
    return _IDENTITY, (*key, sop, *digests, *rest)
