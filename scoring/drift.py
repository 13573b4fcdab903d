"""Whether what a model meets now is what its reference was: the population stability index. Pure.

A package may carry references: for its score, a measurement or a measure of its gate, edges and the share of each
bin among those that it was made for. Over a window of the newest exams the shares are compared:
``sum((now - then) * ln(now / then))``. Below 0.1 nothing has moved, above 0.25 much has: rules of thumb of credit
scoring, where the figure comes from (Siddiqi, Credit Risk Scorecards, 2006).
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Final

import numpy as np

#: Exams that are looked at, and the fewest that say anything: a bin of a tenth then holds ten.
WINDOW: Final = 1000
LEAST: Final = 100
#: Share that an empty bin is taken to have, so that its logarithm is finite.
FLOOR: Final = 1e-3


class Window:
    """The newest values of one quantity, counted in the bins of a reference.

    Parameters
    ----------
    edges : sequence of float
        Borders between the bins, growing; the outer bins are open.
    shares : sequence of float
        Of each bin in the reference, one more than there are edges.
    """

    def __init__(self, edges: Sequence[float], shares: Sequence[float]) -> None:
        self._edges, self._shares = tuple(edges), np.asarray(shares, dtype=np.float64)
        self._bins: deque[int] = deque(maxlen=WINDOW)
        self.counts = [0] * len(shares)

    def add(self, value: float) -> int:
        """Count a value, forget the oldest beyond the window, and return its bin."""
        if len(self._bins) == WINDOW:
            self.counts[self._bins[0]] -= 1
        found = bisect_right(self._edges, value)
        self._bins.append(found)
        self.counts[found] += 1
        return found

    @property
    def stability(self) -> float | None:
        """The index; None before there are `LEAST` values."""
        if len(self._bins) < LEAST:
            return None
        return stability(self._shares, np.asarray(self.counts) / len(self._bins))


def stability(then: Sequence[float] | np.ndarray, now: Sequence[float] | np.ndarray) -> float:
    """Return the population stability index of two distributions over the same bins."""
    a, b = (np.maximum(np.asarray(part, dtype=np.float64), FLOOR) for part in (then, now))
    return float(((b - a) * np.log(b / a)).sum())
