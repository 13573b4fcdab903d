"""What each model has met of late, as metrics: how many exams in which bin of its references, and how far that is off.

In memory alone: a restart begins a new window. Quantities without a reference in the package are not watched.
"""

import math

from infra import metrics
from scoring.card import Card
from scoring.drift import Window
from scoring.outcomes import Outcome, OutOfDomain, Scores


class Drift:
    """The windows of all models, by package; asked from one thread."""

    def __init__(self) -> None:
        self._windows: dict[str, dict[str, Window]] = {}

    def saw(self, digest: str, card: Card, outcome: Outcome) -> None:
        """Count one answer of a model."""
        windows = self._windows.get(digest)
        if windows is None:
            windows = {each.of: Window(each.edges, each.shares) for each in card.populations}
            self._windows[digest] = windows
        for name, value in _values(outcome).items():
            if (window := windows.get(name)) is not None:
                found = window.add(value)
                metrics.inc("prodrome_score_met_total", model=card.id, quantity=name, bin=str(found))
                # NaN until enough exams were met: a panel shows that nothing is known yet, and no alert fires.
                index = math.nan if window.stability is None else window.stability
                metrics.put("prodrome_score_stability_index", index, model=card.id, quantity=name)


def _values(outcome: Outcome) -> dict[str, float]:
    if isinstance(outcome, Scores):
        measured = {each.name: each.value for each in outcome.measurements}
        return {"score": outcome.score, **measured, **_by_measure(outcome.measured)}
    return _by_measure(outcome.measured) if isinstance(outcome, OutOfDomain) else {}


def _by_measure(measured: dict[str, float]) -> dict[str, float]:
    """Return one value a measure: of several images the first; what is meant is the exam's kind, not each view."""
    found: dict[str, float] = {}
    for name, value in measured.items():
        found.setdefault(name.partition(":")[0], value)
    return found
