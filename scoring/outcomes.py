"""What scoring ends in: prepared input, scores, or a word that says why not.

`OutOfDomain` and `Failed` are results like `Scores`: a study always gets an answer. A reason is
``word`` for what concerns the exam, ``word:view`` for what concerns one image.
"""

from dataclasses import dataclass
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
}

#: word -> one sentence for the operator
FAILED: Final[dict[str, str]] = {
    "undecodable": "The pixel data cannot be decoded, or disagrees with its own header.",
    "over_limit": "The image is larger than the limits of decoding.",
    "unsupported_transfer_syntax": "No decoder for this transfer syntax is installed.",
    "not_finite": "The model gave NaN or infinity.",
    "wrong_count": "The model gave another number of results than it was given exams.",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """One exam, ready for the forward pass."""

    set_id: str
    inputs: dict[str, str]  # SOP Instance UID by view
    features: NDArray[np.float32]  # (width,), unit by preparation
    quality_flags: tuple[str, ...]


class OutOfDomain(msgspec.Struct, frozen=True, kw_only=True, tag="out_of_domain"):
    """The gate refused: the model was not made for such images."""

    reason: str
    detail: str
    inputs: dict[str, str]


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """Scoring did not come to a result."""

    reason: str
    detail: str
    inputs: dict[str, str]


class Scores(msgspec.Struct, frozen=True, kw_only=True, tag="scores"):
    """The result of one exam; the same bytes for the same `prediction_key`."""

    set_id: str
    inputs: dict[str, str]  # SOP Instance UID by view
    probabilities: dict[str, float]  # by class name, in the model's order
    predicted_class: str  # of the highest probability
    score: float  # 0..1
    score_meaning: str
    calibrated: bool
    quality_flags: tuple[str, ...]


Outcome = Scores | OutOfDomain | Failed
