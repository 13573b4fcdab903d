"""Which code stands behind the names of a card: intakes by kind, preparations by name and version.

A new kind of input or preparation is a new file and one line here.
"""

from collections.abc import Sequence
from typing import Final

from scoring import images, series, views
from scoring.brain import BrainToTemplate
from scoring.calibrate import PARAMETERS
from scoring.card import Card, CardInvalid, Images, Views
from scoring.intake import Instance, Missing, NotApplicable, Selected
from scoring.outcomes import Refusal
from scoring.prepare import ImageHistograms, Preparation, ViewHistograms

#: (name, version) -> preparation of one exam
PREPARATIONS: Final[dict[tuple[str, str], type[Preparation]]] = {
    ("view-histograms", "2"): ViewHistograms,
    ("image-histograms", "2"): ImageHistograms,
    ("brain-to-template", "1"): BrainToTemplate,
}


def select(card: Card, instances: Sequence[Instance]) -> Selected | Missing | NotApplicable:
    """Return what the card's intake takes of the instances of a study."""
    if isinstance(card.intake, Views):
        return views.select(card, card.intake, instances)
    if isinstance(card.intake, Images):
        return images.select(card, card.intake, instances)
    return series.select(card, card.intake, instances)


def admit(card: Card, selected: Selected) -> Refusal | None:
    """Return why a selected set is out of domain, from what is known before its bytes are read; or None."""
    if isinstance(card.intake, Views):
        return views.admit(card, card.intake, selected)
    if isinstance(card.intake, Images):
        return images.admit(card, card.intake, selected)
    return series.admit(card, card.intake, selected)


def preparation_of(card: Card) -> type[Preparation]:
    """Return the preparation that a card names.

    Raises
    ------
    CardInvalid
        Where there is none of this name and version, or its parameters, or the calibrator's, are others.
    """
    name = (card.preparation.name, card.preparation.version)
    if name not in PREPARATIONS:
        raise CardInvalid(f"preparation: expected one of {sorted(PREPARATIONS)}, found {name}")
    found = PREPARATIONS[name]
    _expect("preparation", found.parameters, card.preparation.parameters)
    for calibrator in card.calibrators:
        _expect("calibrator", PARAMETERS[calibrator.kind], calibrator.parameters)
    return found


def _expect(part: str, names: Sequence[str], parameters: dict[str, float]) -> None:
    if set(parameters) != set(names):
        raise CardInvalid(f"{part}.parameters: expected {sorted(names)}, found {sorted(parameters)}")
