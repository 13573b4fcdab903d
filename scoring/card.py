"""The card of a model: what it accepts, what it gives, and what may be said about it.

A card is JSON, read into frozen structs; an unknown or missing field, a wrong type or a contradiction
between fields is refused with what was expected and what came. Cards hold no code: a preparation is
named, and looked up in `scoring.prepare.PREPARATIONS`.
"""

import hashlib
import json
from typing import Literal

import msgspec

from schemas.errors import ProdromeError

Range = tuple[float, float]  # lowest and highest allowed value, both included


class CardInvalid(ProdromeError):
    """A card does not say what a card must say."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts of a card: a misspelt field is an error, not a silence."""


class InputKind(_Part, frozen=True, kw_only=True):
    """The kind of instance that a model was made for."""

    modality: str
    sop_classes: tuple[str, ...]
    presentation_intent: str
    frames: int  # at most
    bits_allocated: tuple[int, ...]
    photometric: tuple[str, ...]  # as stored; the model itself sees MONOCHROME2


class Selection(_Part, frozen=True, kw_only=True):
    """Which instances of a view are taken."""

    without_view_modifier: bool
    without_partial_view: bool
    of_several: Literal["latest_acquisition"]


class Preparation(_Part, frozen=True, kw_only=True):
    """The preparation by name and version; its parameters are part of every prediction's key."""

    name: str
    version: str
    parameters: dict[str, int]


class Gate(_Part, frozen=True, kw_only=True):
    """Allowed ranges, per view; outside of one the study is `out_of_domain`."""

    rows: tuple[int, int]  # pixels
    columns: tuple[int, int]  # pixels
    dark_below: float  # share of the image's own grey range that counts as background
    background: Range  # share of background pixels
    roughness: Range  # share of horizontal neighbours that cross between background and breast
    chest_wall: Range  # share of breast pixels in the 2 % of columns at the fuller side
    far_edge: Range  # share of breast pixels in the 2 % of columns at the other side
    fitted_to: str


class Graph(_Part, frozen=True, kw_only=True):
    """The ONNX graph: tensors by name, and every operator that it may hold."""

    file: str
    input: str
    width: int  # features of one exam
    output: str
    operators: tuple[str, ...]
    example: str  # JSON file with "input" (N, width) and "output" (N, classes), run at load


class ClassName(_Part, frozen=True, kw_only=True):
    """One class, in the order of the model's output."""

    name: str
    title: str


class Score(_Part, frozen=True, kw_only=True):
    """One number between 0 and 1: the sum of the probabilities of `classes`."""

    meaning: str
    text: str
    classes: tuple[str, ...]
    calibrated: bool


class Threshold(_Part, frozen=True, kw_only=True):
    """An operating point, and where it comes from."""

    name: str
    value: float
    text: str


class Licence(_Part, frozen=True, kw_only=True):
    """Licence of weights and example."""

    spdx: str
    file: str
    holder: str


class Card(_Part, frozen=True, kw_only=True):
    """The whole card."""

    format: Literal["prodrome.model/1"]
    id: str
    version: str
    title: str
    task: str
    body_part: str  # BodyPartExamined's defined term (PS3.16 Annex L)
    input: InputKind
    views: tuple[str, ...]
    selection: Selection
    preparation: Preparation
    gate: Gate
    graph: Graph
    classes: tuple[ClassName, ...]
    score: Score
    thresholds: tuple[Threshold, ...]
    licence: Licence
    source: str
    citation: str
    changes: str
    limits: str
    disclaimer: str

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of the model's output."""
        return tuple(c.name for c in self.classes)

    @property
    def preparation_version(self) -> str:
        """Name and version of the preparation, as in `prediction_key`."""
        return f"{self.preparation.name}/{self.preparation.version}"

    @property
    def parameter_digest(self) -> str:
        """SHA-256 over what steers a prediction beside the weights."""
        parts = {
            "parameters": self.preparation.parameters,
            "selection": self.selection,
            "gate": self.gate,
            "score": self.score,
            "thresholds": self.thresholds,
        }
        text = json.dumps(msgspec.to_builtins(parts), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def read_card(data: bytes) -> Card:
    """Read and check a card.

    Raises
    ------
    CardInvalid
        With the path of the field, what was expected and what came.
    """
    try:
        card = msgspec.json.decode(data, type=Card)
    except msgspec.DecodeError as error:
        raise CardInvalid(f"card.json: {error}") from error
    for problem in _contradictions(card):
        raise CardInvalid(f"card.json: {problem}")
    return card


def _contradictions(card: Card) -> list[str]:
    """What the types alone cannot say."""
    gate = {
        name: getattr(card.gate, name)
        for name in ("rows", "columns", "background", "roughness", "chest_wall", "far_edge")
    }
    checks = {
        "views: expected at least one, each once": len(set(card.views)) == len(card.views) > 0,
        "classes: expected at least two, each once": len(set(card.class_names)) == len(card.classes) >= 2,
        f"score.classes: expected some of {list(card.class_names)}, found {list(card.score.classes)}": (
            bool(card.score.classes) and set(card.score.classes) <= set(card.class_names)
        ),
        f"gate: expected lowest <= highest in every range, found {gate}": all(
            a <= b for a, b in gate.values()
        ),
        f"graph.width: expected a positive number, found {card.graph.width}": card.graph.width > 0,
        "thresholds: expected values between 0 and 1": all(0 <= t.value <= 1 for t in card.thresholds),
        "disclaimer: expected the words 'not for diagnosis'": "not for diagnosis" in card.disclaimer.lower(),
    }
    return [text for text, holds in checks.items() if not holds]
