"""Which models run: those that ship, and those that were added and promoted; replaced between batches.

1. At the start every package of the model folders is loaded.
2. `Resident.models` reads, now and then, which version of each model is promoted, and fetches and loads what is new.
3. A package that cannot be loaded is refused loudly, and the old one serves on. What says something else is never
   promoted: `commands.registry`.

A package is fetched from the results store file by file, and then read as any other: by its digests.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any, Final, Protocol

from consumers.predictions import begin_counting
from infra import metrics
from infra.cassandra import Tables
from infra.clock import Clock
from infra.objects import Store
from infra.settings import Settings
from schemas.errors import ProdromeError, SettingsError, SlowDown
from scoring.package import CARD, DIGESTS, PackageRefused, is_plain_name, package_digest
from scoring.score import Model, load

log = logging.getLogger(__name__)

_ACTIVE: Final = "SELECT model, version, digest FROM models_active WHERE one = 'all'"
_FILES: Final = "SELECT digest, files FROM model_packages WHERE model = ? AND version = ?"


class Serving(Protocol):
    """The models that run, by id. Asked between batches, from one thread."""

    def models(self) -> dict[str, Model]:
        """Return the loaded models by id; may load. Raises `SlowDown` while tables or store are away."""
        ...


class Resident:
    """Models that stay loaded; see the module.

    Parameters
    ----------
    settings : Settings
        Model folders, pins, providers, threads.
    tables : Tables
        The clean keyspace.
    results : Store
        Where added packages lie.
    clock : Clock
        For the time between two looks.
    """

    def __init__(self, settings: Settings, tables: Tables, results: Store, clock: Clock) -> None:
        self._settings, self._tables, self._results, self._clock = settings, tables, results, clock
        self._shipped = {model.card.id: model for model in load_shipped(settings)}
        self._loaded = dict(self._shipped)
        self._refused: set[str] = set()
        self._looked = -float("inf")

    def models(self) -> dict[str, Model]:
        """See `Serving.models`."""
        if self._clock.monotonic() - self._looked >= self._settings.score.look_seconds:
            promoted = {row.model: row for row in self._tables.run(_ACTIVE)}
            for model in {*self._shipped, *promoted}:
                row = promoted.get(model)
                self._follow(model, row)
                refused = row is not None and row.digest in self._refused
                metrics.put("prodrome_score_model_refused", refused, model=model)
                begin_counting(model)
            self._looked = self._clock.monotonic()
        return self._loaded

    def _follow(self, model: str, row: Any | None) -> None:
        now = self._loaded.get(model)
        if row is None or (model in self._shipped and row.digest == self._shipped[model].package.digest):
            self._loaded[model] = self._shipped[model]
        elif not row.digest:
            self._loaded.pop(model, None)
        elif (now is None or now.package.digest != row.digest) and row.digest not in self._refused:
            try:
                wanted = (model, row.version, row.digest)
                self._loaded[model] = load_added(self._settings, self._tables, self._results, wanted)
                log.info("model %s: version %s serves now", model, row.version)
            except SlowDown:
                raise
            except ProdromeError as error:
                self._refused.add(row.digest)
                log.error(
                    "model %s: version %s is refused, the one before serves on: %s", model, row.version, error
                )


def load_added(settings: Settings, tables: Tables, results: Store, wanted: tuple[str, str, str]) -> Model:
    """Fetch and load a package that was added, by (model, version, digest).

    Raises
    ------
    PackageRefused
        It is not among those that were added, or not whole.
    """
    model, version, digest = wanted
    rows = tables.run(_FILES, (model, version))
    if not rows or rows[0].digest != digest:
        raise PackageRefused(f"expected version {version} among the added packages, found another")
    folder = settings.home / "work" / "score" / "models" / digest
    fetch(results, digest, json.loads(rows[0].files), folder)
    try:
        return _load(settings, folder, digest)
    except PackageRefused:  # not what its digests say: fetched again, once the store has it whole
        shutil.rmtree(folder, ignore_errors=True)
        raise


def load_promoted(settings: Settings, tables: Tables, results: Store, model: str) -> Model:
    """Load the version of a model that runs: for commands that look at what a scorer would do."""
    rows = {row.model: row for row in tables.run(_ACTIVE)}
    shipped = {each.card.id: each for each in load_shipped(settings)}
    row = rows.get(model)
    if row is None or (model in shipped and row.digest == shipped[model].package.digest):
        return shipped[model]
    return load_added(settings, tables, results, (model, row.version, row.digest))


def load_shipped(settings: Settings) -> list[Model]:
    """Load every package of the model folders, warm."""
    folders = [Path(folder) for folder in settings.score.models.split(":")]
    packages = sorted(card.parent for folder in folders for card in folder.glob(f"*/{CARD}"))
    pinned = dict(item.split("=", 1) for item in settings.score.pinned)
    models = [_load(settings, path) for path in packages]
    for model in models:
        expected = pinned.get(model.card.id, model.package.digest)
        if expected != model.package.digest:
            raise SettingsError(
                f"model {model.card.id}: expected the pinned digest {expected}, came {model.package.digest}"
            )
    return models


def _load(settings: Settings, folder: Path, digest: str | None = None) -> Model:
    score = settings.score
    return load(
        folder,
        expected_digest=digest,
        providers=score.providers,
        threads=score.threads,
        seconds=score.forward_seconds,
    )


def keep(results: Store, digest: str, files: dict[str, bytes]) -> None:
    """Put the files of a package, its list of digests among them, into the results store."""
    for name, data in files.items():
        results.put(_key(digest, name), data)


def fetch(results: Store, digest: str, digests: dict[str, str], folder: Path) -> None:
    """Fetch a package into `folder`, unless it is there; half a package is never seen.

    Raises
    ------
    PackageRefused
        The list of digests is another, names a path outside, or a file is not there.
    SlowDown
        The store does not answer.
    """
    if folder.is_dir():
        return
    if package_digest(digests) != digest:
        raise PackageRefused(f"expected the files of package {digest[:16]}, found a list of others")
    beside = folder.with_name(f".{folder.name}")
    shutil.rmtree(beside, ignore_errors=True)
    for name in (*digests, DIGESTS):
        if not is_plain_name(name):
            raise PackageRefused(f"expected paths inside the package, found {name!r}")
        data = results.find(_key(digest, name))
        if data is None:
            raise PackageRefused(f"expected {name} in the results store, found none")
        (beside / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (beside / name).write_bytes(data)
    beside.rename(folder)


def _key(digest: str, name: str) -> str:
    return f"models/{digest}/{name}"
