"""A loaded model, and the one flow of an exam through it.

1. `load`: check the package, open the session, warm it up on the declared example.
2. `Model.select`: which images (`scoring.intake`).
3. `Model.prepare`: read, decode, gate, features; pure, for a thread beside the forward path.
4. `Model.forward`: a batch of prepared exams to scores, one an exam, in order.

Same selected inputs, same `Model.key`, same result: nothing here depends on time, batch or neighbours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from scoring.card import CardInvalid
from scoring.decode import DecodeError, Limits, decode
from scoring.gate import check_header, check_image
from scoring.intake import Instance, Missing, NotApplicable, Selected, select
from scoring.keys import prediction_key
from scoring.outcomes import Failed, OutOfDomain, Prepared, Scores
from scoring.package import Package, read_package
from scoring.prepare import PREPARATIONS
from scoring.runtime import CPU, ForwardFailed, Session

#: the packages that ship with the project
MODELS: Final = Path(__file__).parent / "models"

Read = Callable[[Instance], bytes]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A package with its warm session."""

    package: Package
    session: Session
    limits: Limits = field(default_factory=Limits)

    def select(self, instances: Sequence[Instance]) -> Selected | Missing | NotApplicable:
        """Select this model's inputs out of a study."""
        return select(self.package.card, instances)

    def key(self, selected: Selected) -> str:
        """Return the `prediction_key` of a selected set under this model."""
        card = self.package.card
        return prediction_key(
            selected.set_id, self.package.digest, card.preparation_version, card.parameter_digest
        )

    def prepare(self, selected: Selected, read: Read) -> Prepared | OutOfDomain | Failed:
        """Prepare one exam; may block in `read`, and lets what `read` raises pass.

        Parameters
        ----------
        selected : Selected
            The exam's images.
        read : callable
            Gives the clean Part 10 bytes of an instance.
        """
        card = self.package.card
        images: list[NDArray[Any]] = []
        for view, instance in selected.instances.items():
            refusal = check_header(card.input, card.gate, instance)
            if refusal is None:
                try:
                    image = decode(read(instance), self.limits)  # (rows, columns)
                except DecodeError as error:
                    return Failed(
                        reason=f"{error.reason}:{view}", detail=error.detail, inputs=selected.inputs
                    )
                images.append(image)
                refusal = check_image(card.gate, image)
            if refusal is not None:
                return OutOfDomain(
                    reason=f"{refusal.word}:{view}", detail=refusal.detail, inputs=selected.inputs
                )
        features = PREPARATIONS[_preparation(self.package)](images, card.preparation.parameters)
        return Prepared(
            set_id=selected.set_id,
            inputs=selected.inputs,
            features=features,
            quality_flags=selected.quality_flags,
        )

    def forward(self, batch: Sequence[Prepared]) -> list[Scores | Failed]:
        """Score prepared exams: one result each, in order; never raises for what a model gives."""
        if not batch:
            return []
        try:
            out = self.session.forward(np.stack([exam.features for exam in batch]))  # (N, classes)
        except ForwardFailed as error:
            return [Failed(reason=error.reason, detail=error.detail, inputs=exam.inputs) for exam in batch]
        return [self._result(exam, row) for exam, row in zip(batch, out, strict=True)]

    def _result(self, exam: Prepared, row: NDArray[np.float32]) -> Scores | Failed:
        card = self.package.card
        if not np.isfinite(row).all():
            return Failed(
                reason="not_finite", detail="expected finite probabilities, found others", inputs=exam.inputs
            )
        probabilities = dict(zip(card.class_names, map(float, row), strict=True))
        score = sum(probabilities[name] for name in card.score.classes)
        return Scores(
            set_id=exam.set_id,
            inputs=exam.inputs,
            probabilities=probabilities,
            predicted_class=card.class_names[int(np.argmax(row))],
            score=min(1.0, max(0.0, score)),  # float32 softmax may sum to a hair over 1
            score_meaning=card.score.meaning,
            calibrated=card.score.calibrated,
            quality_flags=exam.quality_flags,
        )


def load(
    path: Path, *, expected_digest: str | None = None, providers: Sequence[str] = (CPU,), threads: int = 1
) -> Model:
    """Load a model package and warm it up.

    Parameters
    ----------
    path : Path
        The package's directory, for example ``MODELS / "density"``.
    expected_digest : str, optional
        The package digest that the settings pin.
    providers, threads
        As in `scoring.runtime.Session`.
    """
    package = read_package(path, expected_digest)
    card = package.card
    _preparation(package)
    session = Session(package.graph, card.graph, len(card.classes), providers, threads)
    session.warm_up(package.files[card.graph.example])
    return Model(package=package, session=session)


def _preparation(package: Package) -> tuple[str, str]:
    name = (package.card.preparation.name, package.card.preparation.version)
    if name not in PREPARATIONS:
        raise CardInvalid(f"preparation: expected one of {sorted(PREPARATIONS)}, found {name}")
    return name
