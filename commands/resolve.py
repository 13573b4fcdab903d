"""`prodrome resolve`: an operator decides which version of an instance is right.

A conflict is another pixel content under a known SOP Instance UID: both are kept, the first stays effective.
The decision is one clean event that says the versions again, the accepted one as the newest and none of them
in conflict; the catalog, sole owner of its rows, takes it as it takes a correction: revision n+1, and a
prediction that supersedes where the selected set has changed. The identities are told first, so that what
arrives later is compared with the accepted version. A repeat says the same and changes nothing.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import click
import msgspec
from rich.console import Console
from rich.table import Table

from commands.auditing import audited, confirm
from commands.wiring import opened, settings, told
from consumers.deid.keys import ProjectKeys
from consumers.vault import Vault
from infra.cassandra import Statement, Tables
from infra.connections import kafka_of
from infra.kafka import Producer
from infra.settings import Settings, master_key, sealing_secrets
from schemas.codec import Message, encode
from schemas.errors import SettingsError
from schemas.events import Arrival, CleanInstance, InstanceDeidentified, Lifecycle, Pointer
from schemas.ids import study_key, valid_uid

_ROWS = "SELECT * FROM study_instances WHERE project = ? AND study = ? AND sop = ?"
_IDENTITIES = (
    "SELECT content_id, pixel_id, intake, outcome, version FROM identities"
    " WHERE project = ? AND study_uid = ? AND sop_uid = ?"
)
_DECIDED = (
    "UPDATE identities SET outcome = 'corrected', version = ?"
    " WHERE project = ? AND study_uid = ? AND sop_uid = ? AND content_id = ? AND pixel_id = ?"
)


class Alternative(NamedTuple):
    """One version of an instance: as the trusted side knows it, and its clean row."""

    content_id: str
    pixel_id: str
    intake: str
    outcome: str
    version: int
    row: Any

    @property
    def name(self) -> str:
        """What a person says to mean this version: the beginnings of both digests."""
        return f"{self.content_id[:12]}-{self.pixel_id[:12]}"

    def shown(self) -> dict[str, Any]:
        """What helps to decide."""
        facts = json.loads(self.row.facts)
        return {
            "content": self.name,
            "intake": self.intake,
            "outcome": self.outcome,
            "version": self.version,
            "rows": facts.get("rows"),
            "columns": facts.get("columns"),
            "patient": self.row.patient,
            "object": msgspec.json.decode(self.row.object, type=Pointer).uri,
        }


class Place(NamedTuple):
    """Where an instance is: its study, pseudonymous and as sent."""

    project: str
    study: str
    sop: str
    study_uid: str
    sop_uid: str


@click.command()
@click.argument("uid", metavar="UID")
@click.option("--project", default="default", show_default=True)
@click.option("--accept", "content", help="The beginning of the content that is right, as it is shown.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
def resolve(uid: str, project: str, content: str | None, yes: bool, as_json: bool) -> None:
    """Show the versions of an instance (SOP Instance UID as sent), or make one of them the right one."""
    with told():
        if not valid_uid(uid):
            raise SettingsError("expected a SOP Instance UID: digits and dots, at most 64")
        found = settings()
        with opened(found.trusted) as trusted, opened(found.clean) as clean:
            keys = ProjectKeys.derive(master_key(found), project, found.deidentify.key_id)
            place = _place(found, keys, project, uid, trusted, clean)
            versions = alternatives(keys, trusted, clean, place)
            if content is None:
                _show(versions, as_json=as_json)
                return
            chosen = _chosen(versions, content)
            confirm(f"Make {chosen.name} of intake {chosen.intake} the right one?", yes=yes)
            with audited(
                found, "resolve", tables=trusted, study=place.study, sop=place.sop, intake=chosen.intake
            ):
                messages = decision(place, versions, chosen)
                trusted.run_all(_identities(place, versions, chosen))
                Producer(kafka_of(found.clean)).send(messages)
    click.echo("said: the catalog makes a new revision when the study is quiet")


def alternatives(keys: ProjectKeys, trusted: Tables, clean: Tables, place: Place) -> list[Alternative]:
    """Return the versions of an instance, oldest first."""
    rows = {
        (row.content_key, row.pixel_key): row
        for row in clean.run(_ROWS, (place.project, place.study, place.sop))
    }
    versions = []
    for known in trusted.run(_IDENTITIES, (place.project, place.study_uid, place.sop_uid)):
        content, pixels = known.content_id.hex(), known.pixel_id.hex()
        digests = keys.keyed_digest("content", content), keys.keyed_digest("pixel", pixels)
        if digests in rows:
            row = rows[digests]
            versions.append(Alternative(content, pixels, known.intake, known.outcome, known.version, row))
    return sorted(versions, key=lambda version: version.version)


def decision(place: Place, versions: Sequence[Alternative], chosen: Alternative) -> list[Message]:
    """Return what is said on the clean side: every version again, the chosen one the newest, and the word."""
    number = _number(versions, chosen)
    instances = tuple(
        _clean_instance(place, each, number if each is chosen else each.version, at)
        for at, each in enumerate(versions)
    )
    event = InstanceDeidentified(
        project=place.project,
        study_instance_uid=place.study,
        patient_id=chosen.row.patient,
        instances=instances,
    )
    word = Lifecycle(
        project=place.project, study_instance_uid=place.study, kind="resolved", sop_instance_uid=place.sop
    )
    key, identity = study_key(place.project, place.study), (place.sop, "resolved", number)
    return [
        encode("instance.deidentified.v1", key, event, identity=identity, source="operator", subject=place.study),
        encode("lifecycle.v1", key, word, identity=identity, source="operator", subject=place.study),
    ]  # fmt: skip


def _number(versions: Sequence[Alternative], chosen: Alternative) -> int:
    highest = max(versions, key=lambda version: version.version)
    settled = all(version.outcome != "conflict" for version in versions)
    return chosen.version if chosen is highest and settled else highest.version + 1


def _identities(place: Place, versions: Sequence[Alternative], chosen: Alternative) -> list[Statement]:
    number = _number(versions, chosen)
    return [
        (
            _DECIDED,
            (number if each is chosen else each.version, place.project, place.study_uid, place.sop_uid,
             bytes.fromhex(each.content_id), bytes.fromhex(each.pixel_id)),
        )
        for each in versions
        if each is chosen or each.outcome == "conflict"
    ]  # fmt: skip


def _clean_instance(place: Place, each: Alternative, version: int, at: int) -> CleanInstance:
    row = each.row
    inline = row.metadata and not row.metadata.startswith("{")
    return CleanInstance(
        sop_instance_uid=row.sop,
        series_instance_uid=row.series,
        sop_class_uid=row.sop_class,
        transfer_syntax_uid=row.transfer_syntax,
        content_key=row.content_key,
        pixel_key=row.pixel_key,
        version=version,
        conflict=False,
        object=msgspec.json.decode(row.object, type=Pointer),
        facts=json.loads(row.facts),
        # Of an association of its own, which never closes: the study is quiet the whole time.
        arrival=Arrival(association=f"resolve-{place.sop}", ordinal=at),
        metadata=row.metadata if inline else None,
        metadata_object=msgspec.json.decode(row.metadata, type=Pointer)
        if row.metadata and not inline
        else None,
        manifest=msgspec.json.decode(row.manifest, type=Pointer) if row.manifest else None,
    )


def _place(
    found: Settings, keys: ProjectKeys, project: str, uid: str, trusted: Tables, clean: Tables
) -> Place:
    sop = keys.pseudonymous_uid(uid)
    rows = clean.run("SELECT study FROM instances_by_uid WHERE project = ? AND sop = ?", (project, sop))
    vault = Vault(trusted, sealing_secrets(found), found.deidentify.key_id)
    for row in rows:
        if kept := vault.study(project, row.study):
            return Place(project, row.study, sop, kept["study_instance_uid"], uid)
    raise SettingsError("no instance with this SOP Instance UID is indexed in this project")


def _chosen(versions: Sequence[Alternative], content: str) -> Alternative:
    meant = [version for version in versions if version.name.startswith(content.lower())]
    if len(meant) != 1:
        raise SettingsError(
            f"expected the beginning of one of {len(versions)} contents, came one that fits {len(meant)}:"
            " `prodrome resolve UID` shows them"
        )
    return meant[0]


def _show(versions: Sequence[Alternative], *, as_json: bool) -> None:
    shown = [version.shown() for version in versions]
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    table = Table(*(shown[0] if shown else ("nothing is indexed",)))
    for row in shown:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
    click.echo("the newest that is no conflict counts; `--accept CONTENT` decides")
