"""`prodrome models`, and the loading of all packages."""

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from commands.wiring import settings, told
from infra.settings import Settings
from schemas.errors import SettingsError
from scoring.score import Model, load


def load_all(found: Settings) -> list[Model]:
    """Load every package of the model folders, warm."""
    folders = [Path(folder) for folder in found.score.models.split(":")]
    packages = sorted(card.parent for folder in folders for card in folder.glob("*/card.json"))
    models = [load(path, providers=found.score.providers, threads=found.score.threads) for path in packages]
    pinned = dict(item.split("=", 1) for item in found.score.pinned)
    for model in models:
        expected = pinned.get(model.package.card.id, model.package.digest)
        if expected != model.package.digest:
            raise SettingsError(
                f"model {model.package.card.id}: expected the pinned digest {expected}, came {model.package.digest}"
            )
    return models


@click.command()
def models() -> None:
    """List the model packages, with their digests, what they accept and their licence."""
    with told():
        table = Table("model", "version", "sha256", "accepts", "views", "licence")
        for model in load_all(settings()):
            card = model.package.card
            table.add_row(
                card.id, card.version, model.package.digest[:16], card.input.modality, " ".join(card.views),
                card.licence.spdx,
            )  # fmt: skip
        Console().print(table)
