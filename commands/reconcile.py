"""`prodrome reconcile`: does the ledger agree with the catalog? Promise P4, checked row by row."""

import click

from commands.status import intakes
from commands.wiring import opened, settings, told
from infra.cassandra import Tables
from infra.settings import Settings


def compare(found: Settings) -> dict[str, int]:
    """Return the ledger's clean, corrected and conflict intakes beside the catalog's versions.

    indexed = clean + corrected; the versions that are kept besides are the conflicts. Reads every row: a
    repair, not a dashboard.
    """
    counted = intakes(found)
    with opened(found.clean) as clean:
        rows = _versions(clean)
    effective_and_former = sum(not conflict for conflict in rows)
    return {
        "ledger_clean_and_corrected": counted["clean"] + counted["corrected"],
        "catalog_indexed": effective_and_former,
        "ledger_conflict": counted["conflict"],
        "catalog_conflict": len(rows) - effective_and_former,
        "in_flight": counted["in_flight"],
    }


def _versions(clean: Tables) -> list[bool]:
    return [row.conflict for row in clean.run("SELECT conflict FROM study_instances")]


@click.command()
def reconcile() -> None:
    """Compare the ledger with the catalog; exit status 1 where they differ."""
    with told():
        found = compare(settings())
    for name, value in found.items():
        click.echo(f"{name:28} {value}")
    agree = (
        found["ledger_clean_and_corrected"] == found["catalog_indexed"]
        and found["ledger_conflict"] == found["catalog_conflict"]
    )
    click.echo(
        "they agree" if agree else "they differ: `prodrome deadletters list` and the stages' logs say why"
    )
    raise SystemExit(0 if agree else 1)
