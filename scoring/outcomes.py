"""What scoring ends in: prepared input, scores, or a word that says why not.

`OutOfDomain` and `Failed` are results like `Scores`: a study always gets an answer. A reason is
``word`` for what concerns the exam, ``word:view`` for what concerns one image.
"""

from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

#: word -> one sentence for the operator
OUT_OF_DOMAIN: Final[dict[str, str]] = {
    "image_size": "Rows or columns are not those that the model was made for.",
    "photometric": "The photometric interpretation or bit depth is not one that the card accepts.",
    "flat": "The image holds one grey level only.",
    "background": "The share of background pixels is out of range: inverted, noise or uncropped.",
    "roughness": "Background and breast alternate from pixel to pixel: noise.",
    "chest_wall": "Neither side of the image is filled by the breast: uncropped or shifted.",
    "far_edge": "Both sides of the image are filled: inverted or cut.",
    "age": "The age band lies outside of what the model was made for.",
    "volume_ml": "What was found as a brain has not the volume of one: noise, no head, or lost slices.",
    "registration": "The volume could not be fitted onto the template.",
    "determinant": "Fitted onto the template, the volume is scaled by more than brains differ.",
    "mutual_information": "Fitted onto the template, the volume says too little of it: turned, shuffled or no brain.",
    "ncc": "Fitted onto the template, the volume does not look like it.",
    "dice": "Fitted onto the template, the brain's outline is not the template's: cut, turned or no brain.",
    "nets_mm": "Registration and the affine net disagree about where the brain lies.",
}

#: word -> one sentence for the operator
FAILED: Final[dict[str, str]] = {
    "undecodable": "The pixel data cannot be decoded, or disagrees with its own header.",
    "over_limit": "The image is larger than the limits of decoding.",
    "unsupported_transfer_syntax": "No decoder for this transfer syntax is installed.",
    "not_finite": "The model gave NaN or infinity.",
    "wrong_count": "The model gave another number of results than it was given exams.",
    "over_time": "The forward pass took longer than it may.",
    "out_of_memory": "There was no memory for the forward pass of one exam.",
    "forward_failed": "The runtime broke off the forward pass.",
    "preparation_failed": "The preparation broke off; the log says at what.",
    "crashed_worker": "The exam ended its process three times.",
    "over_budget": "The preparation took longer than it may, three times.",
    "missing_object": "An image is not in the clean store any more, or is damaged.",
}


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The first check that failed: a word of `OUT_OF_DOMAIN`, what was expected and what came."""

    word: str
    detail: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """One exam, ready for the forward pass.

    Attributes
    ----------
    features : float32 array
        Of the shape of the network's one input, unit by preparation; of images one by one, a row an image.
    measured : dict
        What the card's checks have looked at.
    to_source : (4, 4), optional
        From an index into the last three axes (x, y, z, 1) to mm in the source's frame of reference.
    """

    set_id: str
    features: NDArray[np.float32]
    to_source: NDArray[np.float64] | None = None
    measured: dict[str, float] = field(default_factory=dict)


class OutOfDomain(msgspec.Struct, frozen=True, kw_only=True, tag="out_of_domain"):
    """The gate refused: the model was not made for such images. `measured` ends with what was refused."""

    reason: str
    detail: str
    measured: dict[str, float] = {}


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """Scoring did not come to a result."""

    reason: str
    detail: str


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One number that the model gave; `low` and `high` of the shifted passes, where the card asks for them."""

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    confidence: str | None = None


class Scores(msgspec.Struct, frozen=True, kw_only=True, tag="scores"):
    """The result of one exam; the same for the same `prediction_key`."""

    set_id: str
    probabilities: dict[str, float]  # by class name, in the model's order
    category: str | None  # the most probable class, or the grade, where the card has either
    score: float  # 0..1
    measurements: tuple[Measured, ...] = ()
    measured: dict[str, float] = {}
    row: int = 0  # which of several images speaks for the exam


Outcome = Scores | OutOfDomain | Failed
