"""Which versions of models there are, and which one of each runs: the rows behind `prodrome models`.

A version is one package for ever. What runs is a row, moved by lightweight transaction, that scorers look at between
batches. What says something else to subscribers than the version that runs is another model, and is refused.
"""

import json
from typing import Any, Final, NamedTuple

from commands.wiring import results_store
from consumers.serving import keep, load_shipped
from infra.cassandra import Tables
from infra.clock import SystemClock
from infra.settings import Settings
from schemas.errors import ProdromeError
from scoring.package import DIGESTS
from scoring.score import Model

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
        known = {
            each.digest for each in self.known() if (each.model, each.version) == (card.id, card.version)
        }
        if known - {digest}:
            [other] = known
            raise ModelRefused(
                f"{card.id} {card.version} is another package already ({other[:16]}): give it a new version"
            )
        # also what is known: its files may have been damaged or lost since
        keep(results_store(self._found), digest, {**model.package.files, DIGESTS: digests})
        if known:
            return
        row = (
            card.id,
            card.version,
            digest,
            digests.decode(),
            json.dumps(card.signature),
            _now(),
            self._found.audit.actor,
        )
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


def _now() -> int:
    return int(SystemClock().now() * 1000)
