"""`prodrome models`: the packages that score: list, verify, add, promote, retire.

A package that was added is checked whole and kept in the results store; a version is one package for ever. Which
version of a model runs is a row, moved by lightweight transaction; scorers look at it between batches. What says
something else to subscribers than the version that runs is another model, and is refused.
"""

import csv
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from commands.auditing import audited
from commands.wiring import opened, results_store, settings, told
from consumers.serving import keep, load_shipped
from infra.cassandra import Tables
from infra.clock import SystemClock
from infra.connections import store_of
from infra.objects import Store
from infra.settings import Settings
from schemas.errors import ProdromeError
from scoring.calibrate import fit_platt, held_out, platt, reliability, table_of
from scoring.card import Card, Series
from scoring.package import DIGESTS, MAX_FILE_BYTES, MAX_PACKAGE_BYTES, is_plain_name
from scoring.score import Model, load, load_preparer

_ADD: Final = (
    "INSERT INTO model_packages (model, version, digest, files, signature, added, actor)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS"
)
_ADDED: Final = "SELECT model, version, digest, signature, added FROM model_packages"
_ACTIVE: Final = "SELECT model, version, digest, since FROM models_active WHERE one = 'all'"
_FIRST: Final = "INSERT INTO models_active (one, model, version, digest, since, actor) VALUES ('all', ?, ?, ?, ?, ?) IF NOT EXISTS"
_MOVE: Final = (
    "UPDATE models_active SET version = ?, digest = ?, since = ?, actor = ?"
    " WHERE one = 'all' AND model = ? IF digest = ?"
)


class ModelRefused(ProdromeError):
    """What is asked of a model cannot be done."""


class Known(NamedTuple):
    """One version of a model: shipped or added."""

    model: str
    version: str
    digest: str
    signature: dict[str, Any]
    origin: str


@click.group(invoke_without_command=True)
@click.pass_context
def models(context: click.Context) -> None:
    """The model packages that score: list them, and say which version of each runs.

    Without a command it lists what ships with this checkout; with the stack up, `list` shows what was added too.
    """
    if context.invoked_subcommand is None:
        with told():
            table = Table("model", "version", "sha256", "accepts", "gives", "licence")
            for model in load_shipped(settings()):
                card = model.card
                table.add_row(
                    card.id, card.version, model.package.digest[:16], _accepts(card), card.score.meaning,
                    " ".join(dict.fromkeys(each.spdx for each in card.licences)),
                )  # fmt: skip
            Console().print(table)


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
def list_models(as_json: bool) -> None:
    """Every version of every model, shipped or added, and which one runs. Needs the stack."""
    with told(), opened(settings().clean) as tables:
        registry = Registry(settings(), tables)
        rows = [
            {**each._asdict(), "runs": registry.active(each.model) == each.digest}
            for each in registry.known()
        ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table("model", "version", "sha256", "from", "runs", "says")
    for row in rows:
        table.add_row(
            row["model"], row["version"], row["digest"][:16], row["origin"], "yes" if row["runs"] else "",
            row["signature"]["score"],
        )  # fmt: skip
    Console().print(table)


@models.command()
@click.argument("package")
def verify(package: str) -> None:
    """Check PACKAGE, a folder or a URL (s3://bucket/prefix, file:///folder), whole: nothing is added.

    Digests, card, graphs and their operators, tensors and shapes, and the declared examples, which are run.
    """
    with told(), _folder(settings(), package) as folder:
        model = _checked(folder)
        card = model.card
        click.echo(f"{card.id} {card.version}: whole, {model.package.digest}")
        click.echo(f"  {card.title}; {_accepts(card)}; gives {card.score.meaning}")
        click.echo(f"  {card.disclaimer} {card.intended_use}")


@models.command()
@click.argument("package")
def add(package: str) -> None:
    """Check PACKAGE as `verify` does and keep it, so that a version of it can be promoted."""
    with told():
        found = settings()
        with _folder(found, package) as folder, opened(found.clean) as tables:
            model = _checked(folder)
            card, digest = model.card, model.package.digest
            with audited(found, "models", model=card.id, version=card.version, what="add", digest=digest):
                Registry(found, tables).add(model, (folder / DIGESTS).read_bytes())
    click.echo(
        f"added {card.id} {card.version}, {digest[:16]}; `prodrome models promote {card.id}@{card.version}`"
    )


@models.command()
@click.argument("version", metavar="MODEL@VERSION")
def promote(version: str) -> None:
    """Let MODEL@VERSION run from the next batch on; what is scored already stays.

    To score again what an earlier version has scored: `prodrome rescore`.
    """
    _move(version, "promote")


@models.command()
@click.argument("model")
def retire(model: str) -> None:
    """Let no version of MODEL run, until one is promoted."""
    _move(model, "retire")


@models.command()
@click.argument("scores", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--score", required=True, help="Column of what the model gave, a number.")
@click.option("--label", required=True, help="Column of what was true; rows without it are left out.")
@click.option("--positive", required=True, help="The label that is meant.")
@click.option(
    "--table", type=click.Path(dir_okay=False, path_type=Path), help="Write the reliability table here."
)
def calibrate(scores: Path, score: str, label: str, positive: str, table: Path | None) -> None:
    """Fit a Platt calibrator to SCORES, a CSV file, and print what a card says of it.

    The parameters are of all rows. How well they hold is told by a half that the fit on the other half has not seen.
    """
    with told():
        with scores.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get(label)]
        try:
            x = np.array([float(row[score]) for row in rows])
            true = np.array([row[label] == positive for row in rows])
            parameters = fit_platt(x, true)
            before, after = held_out(x, true)
        except (KeyError, ValueError) as error:
            raise ModelRefused(
                f"{scores.name}: expected columns {score} (numbers) and {label} of both kinds, {error}"
            ) from None
    if table is not None:
        table.write_text(table_of(reliability(platt(x, parameters), true)))
    click.echo(
        f'[calibrator]\nkind = "platt"\nparameters = {{ a = {parameters["a"]:.6f}, b = {parameters["b"]:.6f} }}'
    )
    click.echo(f"# {len(x)} rows, {int(true.sum())} {positive}. Fitted on a half, of the other half:")
    if before is not None:
        click.echo(f"# as given: expected calibration error {before.ece:.3f}, Brier {before.brier:.3f}")
    click.echo(f"# calibrated: expected calibration error {after.ece:.3f}, Brier {after.brier:.3f}")


def _move(name: str, what: str) -> None:
    with told():
        found = settings()
        with opened(found.clean) as tables, audited(found, "models", what=what, model=name) as entry:
            registry = Registry(found, tables)
            entry["digest"] = registry.retire(name) if what == "retire" else registry.promote(name)
    click.echo(f"{name}: {'none runs' if what == 'retire' else 'runs'} from the next batch on")


class Registry:
    """The versions of all models, and which one of each runs.

    Parameters
    ----------
    found : Settings
        Where the shipped ones lie, and the results store.
    tables : Tables
        The clean keyspace.
    """

    def __init__(self, found: Settings, tables: Tables) -> None:
        self._found, self._tables = found, tables
        self._shipped = {
            model.card.id: Known(
                model.card.id, model.card.version, model.package.digest, model.card.signature, "shipped"
            )
            for model in load_shipped(found)
        }

    def known(self) -> list[Known]:
        """Return every version of every model."""
        added = [
            Known(row.model, row.version, row.digest, json.loads(row.signature), "added")
            for row in self._tables.run(_ADDED)
        ]
        return sorted((*self._shipped.values(), *added), key=lambda each: each[:2])

    def find(self, name: str) -> Known:
        """Return the version that ``MODEL@VERSION`` names.

        Raises
        ------
        ModelRefused
            With the versions that there are.
        """
        model, _, version = name.partition("@")
        versions = [each for each in self.known() if each.model == model]
        for each in versions:
            if each.version == version:
                return each
        raise ModelRefused(
            f"expected MODEL@VERSION of {[f'{e.model}@{e.version}' for e in versions or self.known()]}, came {name!r}"
        )

    def active(self, model: str) -> str:
        """Return the digest of the version that runs; empty where none does."""
        for row in self._tables.run(_ACTIVE):
            if row.model == model:
                return str(row.digest)
        return self._shipped[model].digest if model in self._shipped else ""

    def add(self, model: Model, digests: bytes) -> None:
        """Keep a checked package.

        Raises
        ------
        ModelRefused
            The version is known with other bytes.
        """
        card, digest = model.card, model.package.digest
        for each in self.known():
            if (each.model, each.version) == (card.id, card.version):
                if each.digest == digest:
                    return
                raise ModelRefused(
                    f"{card.id} {card.version} is another package already ({each.digest[:16]}): give it a new version"
                )
        keep(results_store(self._found), digest, {**model.package.files, DIGESTS: digests})
        now = _now()
        row = (
            card.id, card.version, digest, digests.decode(), json.dumps(card.signature), now, self._found.audit.actor,
        )  # fmt: skip
        if not self._tables.run_once(_ADD, row)[0]:
            raise ModelRefused(f"{card.id} {card.version} was added by somebody else just now")

    def promote(self, name: str) -> str:
        """Let a version run, and return its digest.

        Raises
        ------
        ModelRefused
            It is not known, says something else than the one that runs, or another was promoted meanwhile.
        """
        wanted = self.find(name)
        running = self.active(wanted.model)
        for each in self.known():
            if each.digest == running and each.signature != wanted.signature:
                raise ModelRefused(
                    f"{name}: expected what subscribers know of {each.model}, {each.signature},"
                    f" found {wanted.signature}; what says something else is another model"
                )
        self._put(wanted.model, wanted.version, wanted.digest, running)
        return wanted.digest

    def retire(self, model: str) -> str:
        """Let no version of a model run, and return the digest of the one that did."""
        running = self.active(model)
        if not running:
            raise ModelRefused(f"expected a model that runs, of {sorted({k.model for k in self.known()})}")
        self._put(model, "", "", running)
        return running

    def _put(self, model: str, version: str, digest: str, running: str) -> None:
        now, actor = _now(), self._found.audit.actor
        if self._tables.run_once(_FIRST, (model, version, digest, now, actor))[0]:
            return
        rows = {row.model: row.digest for row in self._tables.run(_ACTIVE)}
        if not self._tables.run_once(_MOVE, (version, digest, now, actor, model, rows[model]))[0]:
            raise ModelRefused(f"{model}: another version was promoted just now, in place of {running[:16]}")


def _checked(folder: Path) -> Model:
    """Load both halves of a package: all that can be checked is checked."""
    model = load(folder)
    load_preparer(folder, expected_digest=model.package.digest)
    return model


@contextmanager
def _folder(found: Settings, package: str) -> Iterator[Path]:
    """Yield the folder of a package; one behind a URL is fetched first, bounded, under plain names."""
    if "://" not in package:
        yield Path(package)
        return
    store = Store(package, "package", store_of(found.clean, "clean"))
    with tempfile.TemporaryDirectory(prefix="prodrome-package-") as name:
        folder, size = Path(name) / "package", 0
        for key, _written in store.entries():
            if not is_plain_name(key):
                raise ModelRefused(f"expected paths inside the package, found {key!r}")
            data = store.find(key) or b""
            size += len(data)
            if len(data) > MAX_FILE_BYTES or size > MAX_PACKAGE_BYTES:
                raise ModelRefused(f"expected at most {MAX_PACKAGE_BYTES} bytes, found more")
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (folder / key).write_bytes(data)
        yield folder


def _accepts(card: Card) -> str:
    what = card.intake
    return f"{card.input.modality} {what.name if isinstance(what, Series) else ' '.join(what.names)}"


def _now() -> int:
    return int(SystemClock().now() * 1000)
