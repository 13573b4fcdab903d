"""`prodrome audit`: who did what. Reading it is recorded too."""

import click
from rich.console import Console
from rich.table import Table

from commands.auditing import audited, kept_heads, trail_of
from commands.wiring import fail, opened, settings, told
from infra.audit import Broken
from schemas.audit import ACTIONS, message
from schemas.errors import SlowDown


@click.group()
def audit() -> None:
    """Read, verify and export the audit trail of this home (append-only, hash-chained)."""


@audit.command("list")
@click.option("--action", type=click.Choice(sorted(ACTIONS)), help="Only this action.")
@click.option("--last", default=50, show_default=True, help="At most so many, the newest.")
def list_(action: str | None, last: int) -> None:
    """Show the newest entries: when, who, what, to which pseudonyms or intakes."""
    from collections import deque

    with told():
        found = settings()
        with audited(found, "audit"):
            wanted = (e for e in trail_of(found).entries() if action in (None, e.action))
            newest = deque(wanted, maxlen=last)
    table = Table("entry", "at", "who", "action", "outcome", "objects")
    for e in newest:
        objects = ", ".join(f"{name} {value}" for name, value in e.objects.items())
        table.add_row(str(e.sequence), e.at, e.actor, e.action, e.outcome, objects)
    Console().print(table)


@audit.command()
def verify() -> None:
    """Walk the whole chain, and compare its end with the head kept in the trusted keyspace.

    Prints the head: keep it elsewhere too (a ticket, another machine), and nobody can rewrite what is before
    it unseen. Exit status 1 where the chain is broken.
    """
    with told():
        found = settings()
        trail = trail_of(found)
        head = trail.verify()
        kept = None
        try:
            with opened(found.trusted) as tables:
                kept = kept_heads(tables)
        except SlowDown:
            click.echo("Cassandra does not answer: the end of the chain is not compared", err=True)
        if kept is not None and head.entries and head.chain not in kept:
            fail(f"chain {head.chain} has no head in the trusted keyspace: expected one of {sorted(kept)}")
        if kept is not None and not head.entries and kept:
            fail(f"the trail is empty, and the trusted keyspace has heads of {sorted(kept)}: it was removed")
        if kept and head.chain in kept:
            trail.verify(kept[head.chain])
    click.echo(f"{head.entries} entries, whole. chain {head.chain} head {head.hash}")


@audit.command()
def export() -> None:
    """Write every entry as a DICOM audit message (PS3.15 A.5, XML), one a line, to standard output."""
    with told():
        found = settings()
        with audited(found, "audit"):
            try:
                for entry in trail_of(found).entries():
                    click.echo(message(entry))
            except Broken as error:
                fail(f"{error}: `prodrome audit verify`")
