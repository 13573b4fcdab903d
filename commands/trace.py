"""`prodrome trace`: where is my image. Trusted: it takes identifiers and shows how they are known inside.

A UID is a Study Instance UID, or the SOP Instance UID of an indexed image, as sent; a text that is no UID is
an accession number. Every intake of the study is shown: what is clean, a duplicate, in quarantine or dead.
"""

import json
from typing import Any

import click
from rich.console import Console
from rich.tree import Tree

from commands.auditing import audited
from commands.query import predictions_of
from commands.wiring import opened, settings, told
from consumers.deid.keys import ProjectKeys
from consumers.ledger import outcome_of
from consumers.vault import Vault
from infra.cassandra import Tables
from infra.settings import Settings, master_key
from schemas.events import Intake
from schemas.ids import valid_uid


@click.command()
@click.argument("what", metavar="UID|ACCESSION")
@click.option("--project", default="default", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a tree.")
def trace(what: str, project: str, as_json: bool) -> None:
    """Say where a study or image is: how its intakes ended, what is indexed, which predictions it has.

    Give a Study or SOP Instance UID as sent, or an accession number. Nothing of it is logged.
    """
    with told():
        found = settings()
        with audited(found, "trace", project=project) as entry:
            traced = [follow(found, project, study) for study in _studies(found, project, what)]
            entry["studies"] = " ".join(each["pseudonymous_study"] for each in traced)
    if as_json:
        click.echo(json.dumps(traced, indent=2))
    for each in [] if as_json else traced:
        Console().print(_tree(each))
    if not traced:
        click.echo("not known: no study with this UID or accession number was settled in this project")


def follow(found: Settings, project: str, original: str) -> dict[str, Any]:
    """Return what is known of a study, by its original UID, step by step."""
    keys = ProjectKeys.derive(master_key(found), project, found.deidentify.key_id)
    study = keys.pseudonymous_uid(original)
    with opened(found.trusted) as trusted, opened(found.clean) as clean:
        vault = Vault(trusted, master_key(found), found.deidentify.key_id)
        kept = vault.study(project, study) or {}
        head = clean.run("SELECT revision FROM study_head WHERE project = ? AND study = ?", (project, study))
        indexed = clean.run(
            "SELECT sop FROM study_instances WHERE project = ? AND study = ?", (project, study)
        )
        return {
            "project": project,
            "pseudonymous_study": study,
            "pseudonymous_patient": kept.get("patient"),
            "source": kept.get("source"),
            "intakes": _intakes(trusted, project, original),
            "indexed_versions": len(indexed),
            "revision": head[0].revision if head else None,
            "predictions": [
                {k: p[k] for k in ("prediction_id", "outcome", "category", "score", "effective")}
                for p in predictions_of(clean, project, study)
            ],
        }


def _studies(found: Settings, project: str, what: str) -> list[str]:
    """Return the original UIDs of the studies that are meant."""
    with opened(found.trusted) as trusted, opened(found.clean) as clean:
        if valid_uid(what) and _intakes(trusted, project, what):
            return [what]
        vault = Vault(trusted, master_key(found), found.deidentify.key_id)
        keys = ProjectKeys.derive(master_key(found), project, found.deidentify.key_id)
        sop = (project, keys.pseudonymous_uid(what))
        rows = clean.run("SELECT study FROM instances_by_uid WHERE project = ? AND sop = ?", sop)
        studies = [row.study for row in rows] or vault.studies_of_accession(project, what)
        return [kept["study_instance_uid"] for study in studies if (kept := vault.study(project, study))]


def _intakes(trusted: Tables, project: str, study_uid: str) -> list[dict[str, Any]]:
    rows = trusted.run(
        "SELECT sop_uid, intake, outcome, reason FROM study_intakes WHERE project = ? AND study_uid = ?",
        (project, study_uid),
    )
    return [
        {"sop": r.sop_uid, "intake": r.intake, "outcome": r.outcome, "reason": r.reason,
         "ledger": outcome_of(trusted, Intake.parse(r.intake)) or "in flight"}
        for r in rows
    ]  # fmt: skip


def _tree(traced: dict[str, Any]) -> Tree:
    tree = Tree(f"study {traced['pseudonymous_study']} of project {traced['project']}")
    tree.add(f"patient {traced['pseudonymous_patient']}, source {traced['source']}")
    intakes = tree.add(f"{len(traced['intakes'])} intakes")
    for i in traced["intakes"]:
        intakes.add(f"{i['sop']}  {i['intake']}  {i['outcome']} {i['reason'] or ''} (ledger: {i['ledger']})")
    tree.add(f"{traced['indexed_versions']} versions indexed, revision {traced['revision']}")
    for p in traced["predictions"]:
        mark = "effective" if p["effective"] else "superseded"
        tree.add(f"prediction {p['prediction_id']}: {p['outcome']} {p['category'] or ''} ({mark})")
    return tree
