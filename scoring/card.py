"""The card of a model: what it accepts, what it gives, and what may be said about it.

A card is TOML, read into frozen structs; an unknown or missing field, a wrong type or a contradiction between
fields is refused with what was expected and what came. Cards hold no code: intake and preparation are named,
and looked up in `scoring.recipes`.
"""

import hashlib
import json
import math
import tomllib
from collections import Counter
from typing import Any, Literal

import msgspec

from schemas.errors import ProdromeError

Range = tuple[float, float]  # lowest and highest allowed value, both included
Word = str  # lower case, digits and `_`: a name that goes into events and metrics


class CardInvalid(ProdromeError):
    """A card does not say what a card must say."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts of a card: a misspelt field is an error, not a silence."""


class InputKind(_Part, frozen=True, kw_only=True):
    """The kind of instance that a model was made for; of it, the intake selects."""

    modality: str
    sop_classes: tuple[str, ...]
    bits_allocated: tuple[int, ...]
    photometric: tuple[str, ...]  # as stored; the model itself sees MONOCHROME2


class Views(_Part, frozen=True, kw_only=True, tag_field="kind", tag="views"):
    """One image of each named view (`scoring.views`).

    Attributes
    ----------
    names : tuple of str
        Laterality and view position, as ``L-CC``.
    rows, columns : pair of int
        Fewest and most pixels.
    frames : int
        At most.
    """

    names: tuple[str, ...]
    presentation_intent: str
    frames: int
    rows: tuple[int, int]
    columns: tuple[int, int]
    without_view_modifier: bool
    without_partial_view: bool
    of_several: Literal["latest_acquisition"]


class Series(_Part, frozen=True, kw_only=True, tag_field="kind", tag="series"):
    """One whole series of parallel slices (`scoring.series`).

    Attributes
    ----------
    name : str
        What the series is to the model.
    sequences : tuple of str
        Words of the boundary that name a fitting series where its parameters do not.
    positions : int
        Fewest slices.
    extent : float
        Least length that is covered along each axis, mm.
    spacing : float
        Most mm from slice to slice, where MRAcquisitionType does not say 3D.
    echo_time : float
        Below this, ms, a gradient echo is taken for T1-weighted.
    not_image_types : tuple of str
        Values of ImageType that a fitting series does not have.
    youngest : int
        Years; an age band that begins below is out of domain, an unknown one is flagged.
    """

    name: Word
    sequences: tuple[str, ...]
    positions: int
    extent: float
    spacing: float
    echo_time: float
    not_image_types: tuple[str, ...]
    youngest: int
    of_several: Literal["finest"]


class Images(_Part, frozen=True, kw_only=True, tag_field="kind", tag="images"):
    """Each fitting image on its own (`scoring.images`): answered as it comes, and once more for the study.

    Attributes
    ----------
    name : str
        What an image is to the model.
    rows, columns : pair of int
        Fewest and most pixels.
    most : int
        Images of a study that are looked at; a study with more is flagged.
    of_study : str
        Which image speaks for the study.
    """

    name: Word
    rows: tuple[int, int]
    columns: tuple[int, int]
    most: int
    of_study: Literal["highest_score"]


class Preparation(_Part, frozen=True, kw_only=True):
    """The preparation by name and version, with its parameters and the files of the package that it reads.

    Graphs that it runs are among the card's `graphs`, under the names of `uses`.
    """

    name: str
    version: str
    parameters: dict[str, float]
    files: dict[Word, str] = {}
    uses: tuple[Word, ...] = ()


class Check(_Part, frozen=True, kw_only=True):
    """One measure of the prepared input and its allowed range; outside of it the exam is `out_of_domain`."""

    measure: Word
    range: Range
    unit: str
    text: str


class Graph(_Part, frozen=True, kw_only=True):
    """An ONNX graph: tensors by name with their shape of one exam, and every operator that it may hold.

    `batch` is the most exams of one pass. `example` is an ``.npz`` with inputs and outputs by name, run at load.
    """

    name: Word
    file: str
    opset: int
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]
    operators: tuple[str, ...]
    example: str
    batch: int = 64


class Named(_Part, frozen=True, kw_only=True):
    """A name with its title; a class of `Classes`, in the order of the output."""

    name: Word
    title: str


class Classes(_Part, frozen=True, kw_only=True):
    """Probabilities of classes, one tensor; the category is the most probable one."""

    tensor: str
    names: tuple[Named, ...]


class Calibrator(_Part, frozen=True, kw_only=True):
    """What makes a probability of what the model gives (`scoring.calibrate`).

    `table` is the reliability table of the fit, a CSV file of the package.
    """

    kind: Literal["platt", "temperature"]
    parameters: dict[str, float]
    fitted_to: str
    table: str


class Measurement(_Part, frozen=True, kw_only=True):
    """One number that the model gives.

    Attributes
    ----------
    tensor : str
        The output of the graph ``network`` that holds it.
    unit : str
        UCUM; ``1`` for a plain number.
    spread : bool
        Whether lowest and highest value of the shifted passes are said with it.
    shown_from : pair, optional
        Name of another measurement and its value from which on this one is said at all.
    confidence : str
        A word that goes with it, as ``low``.
    calibrator : Calibrator, optional
        What is said is the probability that it makes of the number.
    """

    name: Word
    title: str
    tensor: str
    unit: str
    text: str
    spread: bool = False
    shown_from: tuple[str, float] | None = None
    confidence: str | None = None
    calibrator: Calibrator | None = None


class Grade(_Part, frozen=True, kw_only=True):
    """A category of a graded measurement: from `at_least` on, up to the next one."""

    name: Word
    title: str
    at_least: float


class Score(_Part, frozen=True, kw_only=True):
    """One number between 0 and 1: the probability that `meaning` names.

    Either the sum of the probabilities of `classes`, or `measurement` through the calibrator.
    """

    meaning: Word
    text: str
    classes: tuple[str, ...] = ()
    measurement: str | None = None


class Threshold(_Part, frozen=True, kw_only=True):
    """An operating point, and where it comes from."""

    name: Word
    value: float
    text: str


class Population(_Part, frozen=True, kw_only=True):
    """How a quantity was distributed among those that the model was made for (`scoring.drift`).

    `of` is ``score``, a measurement, or a measure of the gate; `shares` are one more than the `edges`.
    """

    of: Word
    edges: tuple[float, ...]
    shares: tuple[float, ...]
    who: str


class Shift(_Part, frozen=True, kw_only=True):
    """Passes of the same exam, moved by so many voxels to both sides along each axis: how sure the model is."""

    voxels: int


class Licence(_Part, frozen=True, kw_only=True):
    """Licence of a part of the package."""

    of: str
    spdx: str
    file: str
    holder: str


class Card(_Part, frozen=True, kw_only=True):
    """The whole card."""

    format: Literal["prodrome.model/2"]
    id: str
    version: str
    title: str
    task: str
    body_part: str  # BodyPartExamined's defined term (PS3.16 Annex L)
    input: InputKind
    intake: Views | Series | Images
    preparation: Preparation
    checks: tuple[Check, ...]
    checks_fitted_to: str
    graphs: tuple[Graph, ...]
    classes: Classes | None = None
    measurements: tuple[Measurement, ...] = ()
    grades: tuple[Grade, ...] = ()
    score: Score
    calibrator: Calibrator | None = None
    shift: Shift | None = None
    occlusion: int = 10  # voxels, or features, a side of the blocks that an explanation blanks
    thresholds: tuple[Threshold, ...]
    populations: tuple[Population, ...] = ()
    licences: tuple[Licence, ...]
    intended_use: str
    limits: str
    disclaimer: str
    references: tuple[str, ...]
    changes: str

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of the model's output."""
        return tuple(c.name for c in self.classes.names) if self.classes else ()

    @property
    def network(self) -> Graph:
        """The graph of the forward pass."""
        return self.graph("network")

    def graph(self, name: str) -> Graph:
        """Return a graph by its name."""
        return next(graph for graph in self.graphs if graph.name == name)

    @property
    def preparation_version(self) -> str:
        """Name and version of the preparation, as in `prediction_key`."""
        return f"{self.preparation.name}/{self.preparation.version}"

    @property
    def parameter_digest(self) -> str:
        """SHA-256 over what steers a prediction beside the weights."""
        steering = (
            "intake", "preparation", "checks", "classes", "measurements", "grades", "score", "calibrator",
            "shift", "thresholds",
        )  # fmt: skip
        return digest_of({name: getattr(self, name) for name in steering})

    @property
    def signature(self) -> dict[str, Any]:
        """What subscribers rely on: a version that says something else is another model."""
        return {
            "score": self.score.meaning,
            "classes": list(self.class_names),
            "measurements": {m.name: m.unit for m in self.measurements},
            "grades": [grade.name for grade in self.grades],
            "calibrated": self.calibrator is not None,
        }

    @property
    def named_files(self) -> tuple[str, ...]:
        """The files of the package that the card names."""
        graphs = [name for graph in self.graphs for name in (graph.file, graph.example)]
        tables = [calibrator.table for calibrator in self.calibrators]
        return (*graphs, *self.preparation.files.values(), *tables, *(each.file for each in self.licences))

    @property
    def calibrators(self) -> tuple[Calibrator, ...]:
        """All calibrators: of the score, and of single measurements."""
        found = (self.calibrator, *(measurement.calibrator for measurement in self.measurements))
        return tuple(calibrator for calibrator in found if calibrator is not None)


def digest_of(parts: Any) -> str:
    """Return the SHA-256 (hex) over parts of a card, the same on every machine."""
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
        card = msgspec.convert(tomllib.loads(data.decode()), type=Card)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError) as error:
        raise CardInvalid(f"card.toml: {error}") from error
    for text, holds in _expectations(card).items():
        if not holds:
            raise CardInvalid(f"card.toml: {text}")
    return card


def _expectations(card: Card) -> dict[str, bool]:
    """What the types alone cannot say."""
    graphs, measured = [g.name for g in card.graphs], [m.name for m in card.measurements]
    ranges = {check.measure: check.range for check in card.checks}
    tensors = next((list(g.outputs) for g in card.graphs if g.name == "network"), [])
    given = [m.tensor for m in card.measurements] + ([card.classes.tensor] if card.classes else [])
    at_least = [grade.at_least for grade in card.grades]
    shown = [m.shown_from[0] for m in card.measurements if m.shown_from]
    dimensions = [
        n for g in card.graphs for shape in (*g.inputs.values(), *g.outputs.values()) for n in shape
    ]
    score = card.score
    return {
        "intake.names: expected at least one, each once": (
            not isinstance(card.intake, Views)
            or (len(card.intake.names) > 0 and _each_once(card.intake.names))
        ),
        "classes: expected at least two, each once": (
            card.classes is None or (len(card.class_names) > 1 and _each_once(card.class_names))
        ),
        "classes and measurements: expected at least one of them": bool(card.classes or card.measurements),
        f"score: expected some of the classes {list(card.class_names)} or one of the measurements {measured}": (
            (
                bool(score.classes)
                and set(score.classes) <= set(card.class_names)
                and score.measurement is None
            )
            or (not score.classes and score.measurement in measured and card.calibrator is not None)
        ),
        f"graphs: expected one 'network', each name once, found {graphs}": (
            "network" in graphs and _each_once(graphs)
        ),
        f"preparation.uses: expected names of graphs, found {list(card.preparation.uses)}": (
            set(card.preparation.uses) <= set(graphs)
        ),
        "graphs: expected shapes and batches of positive numbers": all(n > 0 for n in dimensions)
        and all(g.batch > 0 for g in card.graphs)
        and card.occlusion > 0,
        f"measurements and classes: expected tensors of the network, {tensors}, found {given}": (
            set(given) <= set(tensors)
        ),
        "measurements: expected each name once, shown_from one of them": (
            _each_once(measured) and set(shown) <= set(measured)
        ),
        "intake: expected no shift where images are looked at one by one": (
            not isinstance(card.intake, Images) or (card.shift is None and card.intake.most > 0)
        ),
        "grades: expected growing at_least, the first -inf": (
            at_least == sorted(at_least) and _each_once(at_least) and at_least[:1] in ([], [-math.inf])
        ),
        f"checks: expected lowest <= highest in every range, found {ranges}": (
            all(low <= high for low, high in ranges.values()) and len(ranges) == len(card.checks)
        ),
        "populations: expected growing edges, a share more than edges, their sum 1": all(
            list(r.edges) == sorted(set(r.edges))
            and len(r.shares) == len(r.edges) + 1
            and abs(sum(r.shares) - 1) < 1e-3
            for r in card.populations
        ),
        "licences: expected at least one": bool(card.licences),
        "disclaimer: expected the words 'not for diagnosis'": "not for diagnosis" in card.disclaimer.lower(),
    }


def _each_once(names: Any) -> bool:
    return all(count == 1 for count in Counter(names).values())
