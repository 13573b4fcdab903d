"""A loaded model, and the one flow of an exam through it.

1. `Model.select`: which instances (`scoring.views`, `scoring.series`).
2. `Preparer.prepare`: read, decode, gate, features; pure, for a process beside the forward path.
3. `Model.forward`: a batch of prepared exams to scores, one an exam, in order.

Preparing and forwarding are loaded apart: many processes prepare, one a device holds the network. Same selected
inputs, same `Model.key`, same result: nothing here depends on time, batch or neighbours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scoring import recipes
from scoring.card import Card, Images, digest_of
from scoring.decode import DecodeError
from scoring.encode import encode, passes, passes_of
from scoring.gate import Gate, Refused
from scoring.intake import Instance, Missing, NotApplicable, Selected
from scoring.keys import prediction_key
from scoring.outcomes import Failed, OutOfDomain, Prepared, Scores
from scoring.package import Package, read_package
from scoring.prepare import Preparation, Read
from scoring.runtime import CPU, FORWARD_SECONDS, ForwardFailed, Session

#: the packages that ship with the project
MODELS: Final = Path(__file__).parent / "models"


@dataclass(frozen=True, kw_only=True)
class Preparer:
    """The CPU's half of a package."""

    package: Package
    preparation: Preparation

    def prepare(self, selected: Selected, read: Read) -> Prepared | OutOfDomain | Failed:
        """Prepare one exam; may block in `read`, and lets what `read` raises pass.

        Parameters
        ----------
        selected : Selected
            The exam's instances.
        read : callable
            Gives the clean Part 10 bytes of an instance.
        """
        card = self.package.card
        refusal = recipes.admit(card, selected)
        gate = Gate(card.checks)
        if refusal is None:
            try:
                ready = self.preparation(selected, read, gate)
            except Refused as error:
                refusal = error.refusal
            except DecodeError as error:
                return Failed(reason=error.reason, detail=error.detail)
        if refusal is not None:
            return OutOfDomain(reason=refusal.word, detail=refusal.detail, measured=gate.measured)
        return Prepared(
            set_id=selected.set_id,
            features=ready.features,
            to_source=ready.to_source,
            measured=gate.measured,
        )


@dataclass(frozen=True, kw_only=True)
class Model:
    """A package with its warm network."""

    package: Package
    session: Session
    #: The passes of the last exam that was alone: a quarter of a gigabyte of a head, whose fresh pages cost more than its bytes.
    _room: list[NDArray[np.float32]] = field(default_factory=list, repr=False, compare=False)

    @property
    def card(self) -> Card:
        """The package's card."""
        return self.package.card

    def select(self, instances: Sequence[Instance]) -> Selected | Missing | NotApplicable:
        """Select this model's inputs out of a study."""
        return recipes.select(self.card, instances)

    def key(self, selected: Selected) -> str:
        """Return the `prediction_key` of a selected set under this model."""
        return prediction_key(
            selected.set_id, self.package.digest, self.card.preparation_version, self.card.parameter_digest
        )

    def prepared_key(self, selected: Selected) -> str:
        """Return the key of what is prepared of a selected set: another network after the same preparation has it too."""
        return digest_of([selected.set_id, self.package.preparation_digest])

    def forward(self, batch: Sequence[Prepared]) -> list[Scores | Failed]:
        """Score prepared exams: one result each, in order; never raises for what a model gives."""
        return [result for part in self._parts(batch) for result in self._forward(part)]

    def _parts(self, batch: Sequence[Prepared]) -> Iterator[list[Prepared]]:
        """Yield exams together of which the passes fit into one batch, at least one: passes take memory."""
        part: list[Prepared] = []
        count = 0
        for exam in batch:
            own = passes_of(self.card, exam)
            if part and count + own > self.card.network.batch:
                yield part
                part, count = [], 0
            part.append(exam)
            count += own
        if part:
            yield part

    def _forward(self, batch: Sequence[Prepared]) -> list[Scores | Failed]:
        [(name, shape)] = self.card.network.inputs.items()
        try:
            moved = [self._passes(exam, shape, alone=len(batch) == 1) for exam in batch]
            out = self.session.forward({name: moved[0] if len(moved) == 1 else np.concatenate(moved)})
        except ForwardFailed as error:
            if len(batch) > 1:  # one of them may be the cause: each alone
                return [result for exam in batch for result in self._forward([exam])]
            return [Failed(reason=error.reason, detail=error.detail)]
        ends = np.cumsum([len(rows) for rows in moved])
        return [
            encode(self.card, exam, {tensor: rows[end - len(own) : end] for tensor, rows in out.items()})
            for exam, own, end in zip(batch, moved, ends, strict=True)
        ]

    def _passes(self, exam: Prepared, shape: tuple[int, ...], *, alone: bool) -> NDArray[np.float32]:
        own = exam.features.shape
        if (own[1:] if isinstance(self.card.intake, Images) else own) != shape:
            raise ForwardFailed("wrong_count", f"expected {shape}, prepared were {own}")
        if self.card.shift is None or not alone:
            return passes(self.card, exam.features)
        self._room[:] = [passes(self.card, exam.features, *self._room)]
        return self._room[0]


def load(
    path: Path,
    *,
    expected_digest: str | None = None,
    providers: Sequence[str] = (CPU,),
    threads: int = 1,
    seconds: float = FORWARD_SECONDS,
) -> Model:
    """Load a model package and warm it up.

    Parameters
    ----------
    path : Path
        The package's directory, for example ``MODELS / "density"``.
    expected_digest : str, optional
        The package digest that the settings pin.
    providers, threads, seconds
        As in `scoring.runtime.Session`.
    """
    package = read_package(path, expected_digest)
    card = package.card
    recipes.preparation_of(card)
    session = Session(package.graph("network"), card.network, providers, threads, seconds)
    session.warm_up(package.files[card.network.example])
    return Model(package=package, session=session)


def load_preparer(path: Path, *, expected_digest: str | None = None, threads: int = 1) -> Preparer:
    """Load the CPU's half of a package; its own graphs are warmed up."""
    package = read_package(path, expected_digest)
    return Preparer(package=package, preparation=recipes.preparation_of(package.card)(package, threads))
