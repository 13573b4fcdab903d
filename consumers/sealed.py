"""Every value that is sealed: under which secret, and sealed once more under the latest. Trusted.

For `prodrome keys`. A row that is sealed anew gets the write time of what it was made of, plus a microsecond: what
anybody writes meanwhile is newer and stays, and so does a deletion. An object keeps its key and its length, so that
every pointer to it holds.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from consumers.kept import Kept
from consumers.vault import Vault
from infra.cassandra import Statement, Tables
from infra.seal import number_of
from schemas.errors import BadMessage
from schemas.events import Intake, Pointer


class Sealed(NamedTuple):
    """One sealed value.

    `kept` says where, `number` under which secret; `again` seals it anew under the latest and returns the statement
    that is still to be run, if there is one; it raises ValueError or BadMessage where the value does not open.
    """

    project: str
    kept: str
    number: int
    again: Callable[[], Statement | None]


def sealed_values(tables: Tables, vault: Vault, kept: Kept) -> Iterator[Sealed]:
    """Yield each sealed value, a page in memory at a time.

    Raises
    ------
    SlowDown
        Cassandra or a store does not answer.
    """
    for row in tables.stream("SELECT project, study, sealed, WRITETIME(sealed) AS at FROM vault_studies"):
        yield Sealed(row.project, "vault_studies", number_of(row.sealed), partial(_study, vault, row))
    for row in tables.stream(
        "SELECT project, study, sop, sealed, WRITETIME(sealed) AS at FROM vault_instances"
    ):
        yield Sealed(row.project, "vault_instances", number_of(row.sealed), partial(_instance, vault, row))
    for row in tables.stream(
        "SELECT project, day, intake, object, length, received, WRITETIME(received) AS at FROM quarantine"
    ):
        if row.received is not None:
            yield Sealed(
                row.project, "quarantine events", number_of(row.received), partial(_event, kept, row)
            )
        try:
            first = kept.store.get(Pointer(uri=row.object, offset=0, length=1))
        except BadMessage:
            continue  # purged
        yield Sealed(row.project, "quarantine objects", number_of(first), partial(_object, kept, row))


def _study(vault: Vault, row: Any) -> Statement:
    return (
        "UPDATE vault_studies USING TIMESTAMP ? SET sealed = ? WHERE project = ? AND study = ?",
        (row.at + 1, vault.sealed_again(row.sealed, row.project, row.study), row.project, row.study),
    )


def _instance(vault: Vault, row: Any) -> Statement:
    owner = (row.project, row.study, row.sop)
    return (
        "UPDATE vault_instances USING TIMESTAMP ? SET sealed = ? WHERE project = ? AND study = ? AND sop = ?",
        (row.at + 1, vault.sealed_again(row.sealed, *owner), *owner),
    )


def _event(kept: Kept, row: Any) -> Statement:
    sealed = kept.seal_event(kept.event_of(row.project, Intake.parse(row.intake), row.received))
    return (
        "UPDATE quarantine USING TIMESTAMP ? SET received = ? WHERE project = ? AND day = ? AND intake = ?",
        (row.at + 1, sealed, row.project, row.day, row.intake),
    )


def _object(kept: Kept, row: Any) -> None:
    pointer = Pointer(uri=row.object, offset=0, length=row.length)
    kept.seal_again(row.project, Intake.parse(row.intake), pointer)
