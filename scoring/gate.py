"""The gate: is what was prepared something that the model was made for?

A preparation notes each measure as soon as it has it; the first one out of the card's range ends the work. A
model gives a score for noise too; the gate is what keeps that score from being published. It does not know how
a measure is made, and a measure without a range is noted only.
"""

from collections.abc import Sequence

from scoring.card import Check
from scoring.outcomes import Refusal


class Refused(Exception):
    """The exam is out of domain."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(refusal.detail)


class Gate:
    """The checks of one exam, and what was measured until now.

    Parameters
    ----------
    checks : sequence of Check
        The card's.
    """

    def __init__(self, checks: Sequence[Check]) -> None:
        self._ranges = {check.measure: check.range for check in checks}
        self.measured: dict[str, float] = {}

    def note(self, measure: str, value: float, where: str | None = None) -> None:
        """Note a measure of the exam, or of the image `where`.

        Raises
        ------
        Refused
            Where it is out of range; NaN always is.
        """
        name = measure if where is None else f"{measure}:{where}"
        self.measured[name] = round(value, 6)
        low, high = self._ranges.get(measure, (value, value))
        if not low <= value <= high:
            self.refuse(name, f"{measure}: expected {low} to {high}, found {value:.4f}")

    def refuse(self, word: str, detail: str) -> None:
        """End the work with a word of `OUT_OF_DOMAIN`."""
        raise Refused(Refusal(word=word, detail=detail))
