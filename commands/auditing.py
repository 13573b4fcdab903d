"""Audited work: what every command that changes or reveals something is wrapped in.

The entry is durable before the command says that it is done; work that cannot be undone leaves one before it
begins too, so that a kill in the middle leaves a trace. The head of the trail is kept in the trusted keyspace
as well, where that answers: an intruder would have to change both.
"""

import getpass
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import click

from commands.wiring import fail, opened
from infra.audit import Head, Trail
from infra.cassandra import Tables
from infra.clock import SystemClock
from infra.settings import Settings
from schemas.audit import Outcome
from schemas.errors import SlowDown

log = logging.getLogger(__name__)

_HEAD = "INSERT INTO audit_heads (chain, length, hash) VALUES (?, ?, ?)"


def trail_of(found: Settings) -> Trail:
    """Return the audit trail of this home."""
    return Trail(Path(found.audit.path), SystemClock())


@contextmanager
def audited(
    found: Settings, action: str, *, begins: bool = False, tables: Tables | None = None, **objects: object
) -> Iterator[dict[str, object]]:
    """Record `action` when the block ends: success, or failure if it raised; what it raised goes on.

    Parameters
    ----------
    action : str
        A word of `schemas.audit.ACTIONS`.
    begins : bool
        Record also that it has begun: for what cannot be undone.
    tables : Tables, optional
        The trusted keyspace, where it is open already.
    **objects
        What it is done to, by pseudonym, intake or number; never an identifier. The block may add to the
        mapping that it is given (counts, for instance).
    """
    known = dict(objects)
    if begins:
        _record(found, action, "begun", known, tables)
    try:
        yield known
    except BaseException:
        _record(found, action, "failure", known, tables)
        raise
    _record(found, action, "success", known, tables)


def kept_heads(tables: Tables) -> dict[str, Head]:
    """Return the heads that are kept in the trusted keyspace, by chain."""
    rows = tables.run("SELECT chain, length, hash FROM audit_heads")
    return {row.chain: Head(row.chain, row.length, row.hash) for row in rows}


def actor(found: Settings) -> str:
    """Return who is at work: the account, and whom it acts for where the settings say so."""
    account = getpass.getuser()
    return f"{found.audit.actor} ({account})" if found.audit.actor else account


def confirm(question: str, *, yes: bool) -> None:
    """Ask a person before what cannot be undone; `yes` answers for one, and nobody at all is a no."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} Say --yes where nobody can be asked.")
    click.confirm(question, abort=True)


def _record(
    found: Settings, action: str, outcome: Outcome, objects: dict[str, object], tables: Tables | None
) -> None:
    texts = {name: str(value) for name, value in objects.items()}
    head = trail_of(found).record(action, outcome, actor(found), texts)
    try:
        with nullcontext(tables) if tables else opened(found.trusted) as trusted:
            trusted.run(_HEAD, tuple(head))
    except SlowDown:  # Cassandra may be what the command is about: the trail itself has the entry
        return
    except Exception as error:  # no table yet, or no right to it
        log.warning("the head of the audit trail is not kept apart: %s", type(error).__name__)
