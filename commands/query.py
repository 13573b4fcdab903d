"""`prodrome query`: find studies, instances and predictions by pseudonym, as a table or JSON.

One query, one table. What the profile took away cannot be asked for, and the command says so.
"""

import base64
import json
import zlib
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.table import Table

from commands.wiring import clean_store, opened, settings, told
from infra.cassandra import Tables
from infra.objects import Store
from schemas.events import Pointer

CANNOT: Final = (
    "Under the basic profile these cannot be asked for, because they were removed: names, birth dates, ages, sex, "
    "dates and times, accession numbers, institutions, stations, descriptions. Start from a pseudonym; a trusted "
    "user finds one with `prodrome trace UID`."
)


@click.group(epilog=CANNOT)
@click.option("--project", default="default", show_default=True, help="The project to look in.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@click.pass_context
def query(ctx: click.Context, project: str, as_json: bool) -> None:
    """Find what is indexed, by pseudonymous identifiers."""
    ctx.obj = (project, as_json)


@query.command()
@click.argument("uid")
@click.pass_obj
def study(obj: tuple[str, bool], uid: str) -> None:
    """Show the instances of study UID, and its newest revision."""
    with told(), opened(settings().clean) as tables:
        _show(instances_of(tables, obj[0], uid), obj[1])


@query.command()
@click.argument("pseudonym")
@click.pass_obj
def patient(obj: tuple[str, bool], pseudonym: str) -> None:
    """Show the studies of the patient with this pseudonym."""
    with told(), opened(settings().clean) as tables:
        _show(studies_of(tables, obj[0], pseudonym), obj[1])


@query.command()
@click.argument("uid")
@click.option("--metadata", is_flag=True, help="The whole clean DICOM JSON.")
@click.option("--manifest", is_flag=True, help="What was done to it: profile, action and rule by tag.")
@click.pass_obj
def instance(obj: tuple[str, bool], uid: str, metadata: bool, manifest: bool) -> None:
    """Show the instance with this pseudonymous SOP Instance UID."""
    found = settings()
    with told(), opened(found.clean) as tables:
        rows = instance_by_uid(tables, clean_store(found), obj[0], uid, metadata=metadata, manifest=manifest)
        _show(rows, obj[1] or metadata or manifest)


@query.command()
@click.argument("uid")
@click.pass_obj
def predictions(obj: tuple[str, bool], uid: str) -> None:
    """Show the predictions of study UID; the effective one of each model is marked."""
    with told(), opened(settings().clean) as tables:
        _show(predictions_of(tables, obj[0], uid), obj[1])


def instances_of(tables: Tables, project: str, study_uid: str) -> list[dict[str, Any]]:
    """Return the indexed instances of a study, a row a version."""
    rows = tables.run(
        "SELECT sop, series, modality, sop_class, version, conflict, facts FROM study_instances"
        " WHERE project = ? AND study = ?",
        (project, study_uid),
    )
    return [_facts(row) for row in rows]


def studies_of(tables: Tables, project: str, pseudonym: str) -> list[dict[str, Any]]:
    """Return the studies of a pseudonymous patient with their newest revision."""
    rows = tables.run(
        "SELECT study FROM patient_studies WHERE project = ? AND patient = ?", (project, pseudonym)
    )
    heads = tables.run_all(
        ("SELECT revision, set_id FROM study_head WHERE project = ? AND study = ?", (project, row.study))
        for row in rows
    )
    return [
        {
            "study": row.study,
            "revision": head[0].revision if head else None,
            "set_id": head[0].set_id if head else None,
        }
        for row, head in zip(rows, heads, strict=True)
    ]


def instance_by_uid(
    tables: Tables, store: Store, project: str, uid: str, *, metadata: bool, manifest: bool = False
) -> list[dict[str, Any]]:
    """Return the versions of an instance; with `metadata` its clean DICOM JSON, with `manifest` what was done to it."""
    found = []
    for row in tables.run("SELECT study FROM instances_by_uid WHERE project = ? AND sop = ?", (project, uid)):
        versions = tables.run(
            "SELECT sop, series, modality, sop_class, version, conflict, facts, metadata, manifest FROM study_instances"
            " WHERE project = ? AND study = ? AND sop = ?",
            (project, row.study, uid),
        )
        for version in versions:
            shown = {"study": row.study, **_facts(version)}
            if metadata:
                shown["metadata"] = _metadata(store, version.metadata)
            if manifest and version.manifest:
                shown["manifest"] = json.loads(store.get(_pointer(version.manifest)))
            found.append(shown)
    return found


def predictions_of(tables: Tables, project: str, study_uid: str) -> list[dict[str, Any]]:
    """Return the predictions of a study, whole bodies, the effective ones marked."""
    heads = tables.run(
        "SELECT model, prediction FROM prediction_head WHERE project = ? AND study = ?", (project, study_uid)
    )
    effective = {row.prediction for row in heads}
    rows = tables.run(
        "SELECT prediction, body FROM predictions WHERE project = ? AND study = ?", (project, study_uid)
    )
    return [{"effective": row.prediction in effective, **json.loads(row.body)} for row in rows]


def _facts(row: Any) -> dict[str, Any]:
    shown = {"sop": row.sop, "series": row.series, "modality": row.modality, "sop_class": row.sop_class}
    return {**shown, "version": row.version, "conflict": row.conflict, **json.loads(row.facts)}


def _metadata(store: Store, text: str) -> Any:
    if text.startswith("{"):  # a pointer: it was too large for the row
        text = store.get(_pointer(text)).decode()
    return json.loads(zlib.decompress(base64.b64decode(text)))


def _pointer(text: str) -> Pointer:
    return msgspec.json.decode(text, type=Pointer)


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo(f"nothing found. {CANNOT}")
        return
    names = [name for name in rows[0] if any(row.get(name) not in (None, "", [], {}) for row in rows)]
    table = Table(*names)
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in names))
    Console().print(table)
