"""`prodrome trace`: where is my image. Trusted: it takes identifiers and shows how they are known inside.

1. What was given leads to studies: a UID or intake through what is settled, indexed or still in the spool, an
   accession number through the vault, a patient through the pseudonym.
2. Each study is followed through everything: intakes with how they ended, those in the spool that have not,
   versions, revision, predictions.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.tree import Tree

from commands.auditing import audited
from commands.query import predictions_of
from commands.wiring import opened, settings, told
from consumers.deid.keys import ProjectKeys
from consumers.deid.pseudonyms import patient_pseudonym
from consumers.ledger import outcome_of, unsettled
from consumers.vault import Vault
from infra.cassandra import Tables
from infra.settings import Settings, master_key, sealing_secrets
from infra.spool import InstanceHeader, readers
from schemas.events import Intake
from schemas.ids import valid_uid


@click.command()
@click.argument("what", metavar="UID|ACCESSION|INTAKE|PATIENT")
@click.option("--patient", "is_patient", is_flag=True, help="It is a Patient ID: all studies of the patient.")
@click.option("--issuer", default="", help="Issuer of the Patient ID, as the dataset or the source names it.")
@click.option("--project", default="default", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a tree.")
def trace(what: str, is_patient: bool, issuer: str, project: str, as_json: bool) -> None:
    """Say where a study or image is: how its intakes ended, what is indexed, which predictions it has.

    Give a Study or SOP Instance UID as sent, a pseudonymous Study UID, an accession number, an intake
    (SPOOL/SEGMENT/RECORD, as logs and dead letters name it), or with --patient a Patient ID. Nothing of it is
    logged.
    """
    with told():
        found = settings()
        with (
            audited(found, "trace", project=project) as entry,
            opened(found.trusted) as trusted,
            opened(found.clean) as clean,
        ):
            tracing = Tracing(found, project, trusted, clean)
            studies = tracing.of_patient(what, issuer) if is_patient else tracing.of(what)
            traced = [tracing.follow(study) for study in studies]
            entry["studies"] = " ".join(each["pseudonymous_study"] for each in traced)
    if as_json:
        click.echo(json.dumps(traced, indent=2))
    for each in [] if as_json else traced:
        Console().print(_tree(each))
    if not traced:
        click.echo(
            "not known in this project: nothing of it is settled, indexed, or kept in this machine's spool"
        )


class Tracing:
    """What is known of studies by their original UIDs, in one project."""

    def __init__(self, found: Settings, project: str, trusted: Tables, clean: Tables) -> None:
        self._project, self._trusted, self._clean = project, trusted, clean
        self._keys = ProjectKeys.derive(master_key(found), project, found.deidentify.key_id)
        self._vault = Vault(trusted, sealing_secrets(found), found.deidentify.key_id)
        self._readers = readers(Path(found.spool.path))

    def of(self, what: str) -> list[str]:
        """Return the original UIDs of the studies that are meant."""
        if (study := self._of_intake(what)) is not None:
            return [study]
        if not valid_uid(what):
            return self._originals(self._vault.studies_of_accession(self._project, what))
        if self._intakes(what):
            return [what]
        rows = self._clean.run(
            "SELECT study FROM instances_by_uid WHERE project = ? AND sop = ?",
            (self._project, self._keys.pseudonymous_uid(what)),
        )
        known = self._originals([row.study for row in rows] or [what])
        return known or self._originals(self._vault.studies_of_accession(self._project, what)) or sorted(
            {
                header.study_instance_uid
                for _, header in self._waiting()
                if header.study_instance_uid and what in (header.study_instance_uid, header.sop_instance_uid)
            }
        )  # fmt: skip

    def of_patient(self, patient_id: str, issuer: str) -> list[str]:
        """Return the original UIDs of a patient's indexed studies."""
        patient = patient_pseudonym(patient_id, issuer, "", self._keys)
        rows = self._clean.run(
            "SELECT study FROM patient_studies WHERE project = ? AND patient = ?", (self._project, patient)
        )
        return self._originals([row.study for row in rows])

    def follow(self, original: str) -> dict[str, Any]:
        """Return what is known of a study, step by step."""
        key = (self._project, self._keys.pseudonymous_uid(original))
        kept = self._vault.study(*key) or {}
        head = self._clean.run("SELECT revision FROM study_head WHERE project = ? AND study = ?", key)
        indexed = self._clean.run("SELECT sop FROM study_instances WHERE project = ? AND study = ?", key)
        return {
            "project": self._project,
            "pseudonymous_study": key[1],
            "pseudonymous_patient": kept.get("patient"),
            "source": kept.get("source"),
            "intakes": [*self._intakes(original), *self._in_flight(original)],
            "indexed_versions": len(indexed),
            "revision": head[0].revision if head else None,
            "predictions": [
                {k: p[k] for k in ("prediction_id", "outcome", "category", "score", "effective")}
                for p in predictions_of(self._clean, *key)
            ],
        }

    def _of_intake(self, text: str) -> str | None:
        """Return the study of an intake whose record is kept here."""
        try:
            intake = Intake.parse(text).origin
        except ValueError:
            return None
        reader = self._readers.get(intake.spool)
        if reader is None or intake.segment not in reader.segments():
            return None
        for record in reader.records(intake.segment):
            if record.number == intake.record and isinstance(record.header, InstanceHeader):
                mine = record.header.project == self._project
                return record.header.study_instance_uid if mine else None
        return None

    def _originals(self, studies: list[str]) -> list[str]:
        opened_ = (self._vault.study(self._project, study) for study in studies)
        return [kept["study_instance_uid"] for kept in opened_ if kept]

    def _intakes(self, study_uid: str) -> list[dict[str, Any]]:
        rows = self._trusted.run(
            "SELECT sop_uid, intake, outcome, reason FROM study_intakes WHERE project = ? AND study_uid = ?",
            (self._project, study_uid),
        )
        return [
            {"sop": r.sop_uid, "intake": r.intake, "outcome": r.outcome, "reason": r.reason,
             "ledger": outcome_of(self._trusted, Intake.parse(r.intake)) or "in flight"}
            for r in rows
        ]  # fmt: skip

    def _in_flight(self, study_uid: str) -> list[dict[str, Any]]:
        known = {row["intake"] for row in self._intakes(study_uid)}
        return [
            {"sop": header.sop_instance_uid, "intake": str(intake), "outcome": None, "reason": None,
             "ledger": "in flight"}
            for intake, header in self._waiting()
            if header.study_instance_uid == study_uid and str(intake) not in known
        ]  # fmt: skip

    def _waiting(self) -> Iterator[tuple[Intake, InstanceHeader]]:
        """What this machine's spools hold of the project and nobody has settled."""
        for reader in self._readers.values():
            for intake, header in unsettled(self._trusted, reader):
                if header.project == self._project:
                    yield intake, header


def _tree(traced: dict[str, Any]) -> Tree:
    tree = Tree(f"study {traced['pseudonymous_study']} of project {traced['project']}")
    tree.add(f"patient {traced['pseudonymous_patient']}, source {traced['source']}")
    intakes = tree.add(f"{len(traced['intakes'])} intakes")
    for i in traced["intakes"]:
        intakes.add(
            f"{i['sop']}  {i['intake']}  {i['outcome'] or 'on its way'} {i['reason'] or ''} (ledger: {i['ledger']})"
        )
    tree.add(f"{traced['indexed_versions']} versions indexed, revision {traced['revision']}")
    for p in traced["predictions"]:
        mark = "effective" if p["effective"] else "superseded"
        tree.add(f"prediction {p['prediction_id']}: {p['outcome']} {p['category'] or ''} ({mark})")
    return tree
