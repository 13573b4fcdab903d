"""What a model's intake knows of the instances of a study, and what it may answer.

How the instances are chosen stands in `scoring.views` and `scoring.series`. No intake reads pixels, and nothing
here knows the time: "latest" is a rank read at the boundary, since the Basic profile removes acquisition times.
"""

import hashlib
import json
from collections.abc import Iterable

import msgspec

from scoring.card import InputKind


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """What intake knows of one clean instance; pseudonyms only.

    `acquisition_rank` grows with the time of acquisition within the study; None where it is unknown.
    `view_modifiers` are words (any word excludes the view); `conflict` says that another object came
    under the same SOP Instance UID. `sequence`, `contrast` and `age_band` are words of the boundary
    (docs/profiles.md). Geometry is as in DICOM, mm.
    """

    sop_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    content_key: str
    pixel_key: str
    modality: str | None = None
    rows: int | None = None  # pixels
    columns: int | None = None  # pixels
    number_of_frames: int | None = None
    bits_allocated: int | None = None
    photometric_interpretation: str | None = None
    image_type: tuple[str, ...] = ()
    presentation_intent_type: str | None = None
    view_position: str | None = None  # "CC", "MLO", ...
    image_laterality: str | None = None  # "L", "R"
    view_modifiers: tuple[str, ...] = ()
    partial_view: str | None = None  # "YES", "NO"
    acquisition_rank: int | None = None
    series_number: int | None = None
    instance_number: int | None = None
    image_position: tuple[float, float, float] | None = None
    image_orientation: tuple[float, float, float, float, float, float] | None = None
    pixel_spacing: tuple[float, float] | None = None  # row to row, column to column
    mr_acquisition_type: str | None = None  # "2D", "3D"
    scanning_sequence: tuple[str, ...] = ()
    echo_time: float | None = None  # ms
    angio_flag: str | None = None  # "Y", "N"
    images_in_acquisition: int | None = None
    sequence: str | None = None
    contrast: str | None = None
    age_band: str | None = None
    conflict: bool = False

    @property
    def view(self) -> str:
        """The view as cards name it, for example ``L-CC``."""
        return f"{self.image_laterality or '?'}-{self.view_position or '?'}"


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """One selected input, named by what it is to the model: an image, or a series with its number of images."""

    name: str
    sop_instance_uid: str
    series_instance_uid: str | None = None
    instances: int = 1


class Selected(msgspec.Struct, frozen=True, kw_only=True):
    """The instances that a model scores, by name in the card's order.

    `set_aside` maps the UIDs of instances or series that were not taken to a word; `candidates` are the series
    that would have fitted, the chosen one first. Both are for people, and no part of a prediction's key: the same
    selected set gives the same prediction.
    """

    set_id: str
    instances: dict[str, Instance]
    inputs: tuple[Input, ...]
    quality_flags: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    set_aside: dict[str, str] = {}


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """Instances of the card's kind are there, but not everything that is needed; `names` says what is missing."""

    names: tuple[str, ...]
    found: tuple[Input, ...]
    set_aside: dict[str, str] = {}


class NotApplicable(msgspec.Struct, frozen=True, kw_only=True):
    """The study holds nothing that the model is for."""

    detail: str
    set_aside: dict[str, str] = {}


def set_id(chosen: dict[str, Instance]) -> str:
    """Return the SHA-256 over the sorted (name, SOP, content key, pixel key) of a selected set."""
    rows = sorted((name, i.sop_instance_uid, i.content_key, i.pixel_key) for name, i in chosen.items())
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


def is_of_kind(kind: InputKind, instance: Instance) -> bool:
    """Return whether an instance is of the modality and a SOP class of the card."""
    return instance.modality == kind.modality and instance.sop_class_uid in kind.sop_classes


def pixels_fit(kind: InputKind, instance: Instance) -> bool:
    """Return whether photometric interpretation and bit depth are those that the card accepts."""
    return (
        instance.photometric_interpretation in kind.photometric
        and instance.bits_allocated in kind.bits_allocated
    )


def none_of_kind(kind: InputKind, instances: Iterable[Instance]) -> NotApplicable:
    """Return the answer for a study without any instance of the card's kind."""
    return NotApplicable(
        detail=f"expected modality {kind.modality} of {list(kind.sop_classes)}, "
        f"found none in {len(list(instances))} instances"
    )


def conflict_flags(chosen: Iterable[Instance]) -> tuple[str, ...]:
    """Return the flag of a selected set in which an instance exists in a second version."""
    return ("uid_conflict",) if any(instance.conflict for instance in chosen) else ()
