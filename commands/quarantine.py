"""`prodrome quarantine`: what waits there and why, and letting it go: on, or away. Trusted."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click
from pydicom.datadict import keyword_for_tag
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from commands.auditing import actor, audited, confirm
from commands.releases import Wanted, purge, release, together, waiting
from commands.wiring import fail, opened, settings, told
from consumers.deid.elements import Dataset, inflate, read_dataset
from consumers.deid.jsonmodel import json_of
from consumers.deid.part10 import file_meta
from consumers.deid.syntaxes import syntax_of
from consumers.kept import Kept
from infra.cassandra import Tables
from infra.clock import SystemClock
from infra.connections import kafka_of
from infra.settings import Settings
from schemas.errors import Quarantine
from schemas.events import Intake, Pointer, ReceivedInstance
from schemas.reasons import ADMISSIBLE, REASONS, kind_of

_SHOWN: Final = ("project", "day", "intake", "reason", "detail", "sop_class", "length")

_REASONS: Final = sorted(word for word in REASONS if kind_of(word) in ("quarantine", "deadletter"))


@click.group()
def quarantine() -> None:
    """Look at doubtful instances, release them to cross once more, or purge them. The bytes are sealed."""


def _filters(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--older-than", type=click.IntRange(min=0), help="Only of days before so many days ago."
        ),
        click.option("--reason", type=click.Choice(_REASONS), help="Only of this reason word."),
        click.option("--project", help="Only of this project."),
    ):
        command = option(command)
    return command


def _intake(_: object, __: object, given: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(str(Intake.parse(each)) for each in given)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_yes = click.option("--yes", is_flag=True, help="Do not ask.")
_dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done.")
_json = click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
_intakes = click.argument("intakes", nargs=-1, metavar="[INTAKE]...", callback=_intake)


@quarantine.command("list")
@_filters
@click.option("--released/--waiting", default=None, help="Only what was released, or only what was not.")
@click.option("--limit", default=100, show_default=True, help="Show so many; all are counted.")
@_json
def list_(
    project: str | None,
    reason: str | None,
    older_than: int | None,
    released: bool | None,
    limit: int,
    as_json: bool,
) -> None:
    """List what waits, newest day first: intake, reason, SOP class; and count it by reason."""
    counts: Counter[str] = Counter()
    table = Table(*_SHOWN, "released")
    with told(), opened(settings().trusted) as tables:
        rows = waiting(tables, Wanted(project, reason, older_than, released), SystemClock())
        for number, row in enumerate(rows):
            counts[row.reason] += 1
            shown = {name: getattr(row, name) for name in _SHOWN} | {"released": bool(row.released)}
            if number < limit and as_json:
                click.echo(json.dumps(shown))
            elif number < limit:
                table.add_row(*("yes" if v is True else "" if v is False else str(v) for v in shown.values()))
    if as_json:
        click.echo(json.dumps({"counts": counts}))
        return
    Console().print(table)
    click.echo("".join(f"{count:8} {word}\n" for word, count in counts.most_common()), nl=False)
    click.echo(f"{counts.total()} in quarantine" + (f", {limit} shown" if counts.total() > limit else ""))


@quarantine.command()
@click.argument("intake", callback=lambda c, p, given: _intake(c, p, (given,))[0])
@click.option("--values", is_flag=True, help="With the values of the header: they identify the patient.")
@click.option("--save", type=click.Path(path_type=Path), help="Write it as a DICOM file too, as received.")
@_json
def show(intake: str, values: bool, save: Path | None, as_json: bool) -> None:
    """Show why one INTAKE waits and what its header holds. Recorded in the audit trail."""
    with told():
        found = settings()
        saved = save is not None
        with (
            opened(found.trusted) as tables,
            audited(found, "quarantine-show", tables=tables, intakes=intake, values=values, saved=saved),
        ):
            row = next(waiting(tables, Wanted(intakes=(intake,)), SystemClock()), None)
            if row is None:
                fail(f"{intake} is not in quarantine")
            raw, instance = _kept_of(found, row)
            header = _header(raw, instance, values) if instance else []
            if save is not None:
                _save(save, raw, instance)
    facts = {name: getattr(row, name) for name in _SHOWN} | {"released": bool(row.released)}
    if as_json:
        click.echo(json.dumps(facts | {"header": header}))
        return
    for name, value in facts.items():
        click.echo(f"{name:10} {value}")
    table = Table("tag", "keyword", "VR", "bytes", *(["value"] if values else []))
    for each in header:
        table.add_row(*(str(value) for value in each.values()))
    Console().print(table)


@quarantine.command("release")
@_intakes
@_filters
@click.option(
    "--admit",
    type=click.Choice(sorted(ADMISSIBLE)),
    multiple=True,
    help="What you answer for: you have looked, and no text in the pixels identifies anybody.",
)
@_yes
@_dry_run
@_json
def release_(
    intakes: tuple[str, ...],
    project: str | None,
    reason: str | None,
    older_than: int | None,
    admit: tuple[str, ...],
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Let INTAKE..., or what the options say, cross once more: judged anew, but for what is admitted.

    Each becomes a new intake of a spool named with a `+`; what is still doubtful waits again under that name,
    with the same bytes. Without --admit: after an upgrade, or with another setting of its source.
    """
    from infra.kafka import Producer

    wanted = Wanted(project, reason, older_than, None if intakes else False, intakes)
    with told():
        found = settings()
        producer, kept = Producer(kafka_of(found.trusted)), Kept(found)
        what = " admitting " + " and ".join(admit) if admit else ""

        def step(tables: Tables, part: list[Any]) -> Counter[str]:
            with audited(found, "quarantine-release", begins=True, tables=tables, **_objects(part)) as entry:
                entry["admitted"] = " ".join(admit)
                done = release(tables, producer, kept, part, frozenset(admit), actor(found))
                entry.update(done)
                return done

        _each(found, wanted, step, f"Release {{}}{what}?", yes=yes, dry_run=dry_run, as_json=as_json)


@quarantine.command("purge")
@_intakes
@_filters
@click.option("--released/--waiting", default=None, help="Only what was released, or only what was not.")
@_yes
@_dry_run
@_json
def purge_(
    intakes: tuple[str, ...],
    project: str | None,
    reason: str | None,
    older_than: int | None,
    released: bool | None,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Delete the bytes of INTAKE..., or of what the options say, and their rows: for good.

    The ledger keeps how each intake ended; what is clean of a release stays.
    """
    wanted = Wanted(project, reason, older_than, released, intakes)
    with told():
        found = settings()
        kept = Kept(found)

        def step(tables: Tables, part: list[Any]) -> Counter[str]:
            with audited(found, "quarantine-purge", begins=True, tables=tables, **_objects(part)) as entry:
                done = purge(tables, kept, part)
                entry.update(done)
                return done

        _each(found, wanted, step, "Delete {} for good?", yes=yes, dry_run=dry_run, as_json=as_json)


def _each(
    found: Settings,
    wanted: Wanted,
    step: Callable[[Tables, list[Any]], Counter[str]],
    question: str,
    *,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Count what is meant, ask, and take it step by step; say what became of it."""
    if wanted[:3] == (None, None, None) and not wanted.intakes:
        fail("say which: INTAKE..., --reason, --project or --older-than")
    with opened(found.trusted) as tables:
        count = sum(1 for _ in waiting(tables, wanted, SystemClock()))
        done: Counter[str] = Counter()
        if dry_run or not count:
            done["would be taken"] = count
        else:
            confirm(question.format(count), yes=yes)
            # Only what was counted: a release that is quarantined again joins the list meanwhile.
            rows = islice(waiting(tables, wanted, SystemClock()), count)
            with Progress(disable=not sys.stderr.isatty(), console=Console(stderr=True)) as progress:
                task = progress.add_task("", total=count)
                for part in together(rows):
                    done += step(tables, part)
                    progress.advance(task, len(part))
    click.echo(json.dumps(done) if as_json else ", ".join(f"{n} {what}" for what, n in done.items()))


def _objects(part: list[Any]) -> dict[str, str]:
    return {"intakes": " ".join(row.intake for row in part)}


def _kept_of(found: Settings, row: Any) -> tuple[bytes, ReceivedInstance | None]:
    kept, intake = Kept(found), Intake.parse(row.intake)
    raw = kept.bytes_of(row.project, intake, Pointer(uri=row.object, offset=0, length=row.length))
    if row.received is None:
        return raw, None
    return raw, kept.event_of(row.project, intake, row.received).instances[0]


def _save(path: Path, raw: bytes, instance: ReceivedInstance | None) -> None:
    if instance is None:
        fail("it was kept by an older release: its transfer syntax is not known")
    meta = file_meta(instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid)
    # It identifies the patient: for the owner alone, and over nothing that is there.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(meta + raw)


def _header(raw: bytes, instance: ReceivedInstance, values: bool) -> list[dict[str, object]]:
    """Return the elements of the dataset's first level; nothing where it cannot be parsed."""
    try:
        syntax = syntax_of(instance.transfer_syntax_uid)
        dataset: Dataset = read_dataset(inflate(raw) if syntax.deflated else raw, syntax)
    except Quarantine as error:
        click.echo(f"the dataset does not parse: {error}", err=True)
        return []
    said = json_of(dataset, big=syntax.big) if values else {}
    return [
        {
            "tag": f"{e.tag:08X}",
            "keyword": keyword_for_tag(e.tag),
            "vr": e.vr,
            "bytes": f"{len(e.items)} items" if e.items is not None else len(e.value),
            **({"value": _value(said, e.tag)} if values else {}),
        }
        for e in dataset
    ]


def _value(said: dict[str, dict[str, Any]], tag: int) -> str:
    found = said.get(f"{tag:08X}", {}).get("Value", [])
    return json.dumps(found[0] if len(found) == 1 else found, ensure_ascii=False) if found else ""
