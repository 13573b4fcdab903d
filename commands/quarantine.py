"""`prodrome quarantine`: what waits there, and why. Trusted."""

import click
from rich.console import Console
from rich.table import Table

from commands.wiring import opened, settings, told
from infra.cassandra import Tables
from schemas.reasons import REASONS


def waiting(tables: Tables, project: str) -> list[dict[str, object]]:
    """Return the quarantined intakes of a project, newest day first."""
    days = tables.run("SELECT day FROM quarantine_days WHERE project = ?", (project,))
    return [
        row._asdict()
        for day in sorted((d.day for d in days), reverse=True)
        for row in tables.run(
            "SELECT day, intake, reason, detail, sop_class, length FROM quarantine WHERE project = ? AND day = ?",
            (project, day),
        )
    ]


@click.command()
@click.option("--project", default="default", show_default=True)
@click.option("--reason", type=click.Choice(sorted(REASONS)), help="Only this reason word.")
def quarantine(project: str, reason: str | None) -> None:
    """List what waits in quarantine: intake, reason, SOP class. The bytes are kept encrypted."""
    with told(), opened(settings().trusted) as tables:
        rows = [row for row in waiting(tables, project) if reason in (None, row["reason"])]
    table = Table("day", "intake", "reason", "detail", "SOP class", "bytes")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
    click.echo(f"{len(rows)} in quarantine")
