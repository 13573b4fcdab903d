"""`prodrome models`: the packages that score: list, verify, add, promote, retire; and calibrators for their cards.

A package that is added is checked whole, its examples run, and kept in the results store. Which versions there are, and
which runs, stands in `commands.registry`.
"""

import csv
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from commands.auditing import audited
from commands.registry import ModelRefused, Registry
from commands.wiring import opened, settings, told
from consumers.serving import load_shipped
from infra.connections import store_of
from infra.objects import Store
from infra.settings import Settings
from scoring.calibrate import fit_platt, held_out, platt, reliability, table_of
from scoring.card import Card, Views
from scoring.package import DIGESTS, MAX_FILE_BYTES, MAX_PACKAGE_BYTES, is_plain_name
from scoring.score import Model, load, load_preparer


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

    To score again what an earlier version has scored: `prodrome replay --model`.
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
    return f"{card.input.modality} {' '.join(what.names) if isinstance(what, Views) else what.name}"
