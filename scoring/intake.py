"""Selects the images that a model scores out of the instances of a study.

1. Is any instance of the card's kind (modality and SOP class)? If not: `NotApplicable`.
2. Set aside what the card's selection excludes, one word each (`EXCLUSIONS`).
3. Group the rest by view, and of several of one view take the latest acquisition.
4. A required view without an instance: `Missing`, and nothing is invented in its place.
5. Name the selected set: `set_id`, the same for the same content whatever else the study holds.

It reads no pixels, and nothing here knows the time: "latest" is a rank read at the boundary, since the
Basic profile removes acquisition times.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from scoring.card import Card


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """What intake knows of one clean instance; pseudonyms only.

    `acquisition_rank` grows with the time of acquisition within the study; None where it is unknown.
    `view_modifiers` are words (any word excludes the view); `conflict` says that another object came
    under the same SOP Instance UID.
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
    conflict: bool = False

    @property
    def view(self) -> str:
        """The view as cards name it, for example ``L-CC``."""
        return f"{self.image_laterality or '?'}-{self.view_position or '?'}"


class Selected(msgspec.Struct, frozen=True, kw_only=True):
    """The instances that a model scores, by view in the card's order.

    `set_aside` maps the SOP Instance UIDs that were not taken to a word of `EXCLUSIONS`; it is for
    people, and is no part of a prediction: the same selected set gives the same prediction.
    """

    set_id: str
    instances: dict[str, Instance]
    quality_flags: tuple[str, ...] = ()
    set_aside: dict[str, str] = {}

    @property
    def inputs(self) -> dict[str, str]:
        """SOP Instance UID by view."""
        return {view: instance.sop_instance_uid for view, instance in self.instances.items()}


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """Images of the card's kind are there, but not every required view."""

    views: tuple[str, ...]
    found: dict[str, str]
    set_aside: dict[str, str] = {}


class NotApplicable(msgspec.Struct, frozen=True, kw_only=True):
    """The study holds nothing of the card's kind."""

    detail: str


#: word -> is the instance set aside? The first word that applies is the one that is told.
EXCLUSIONS: Final[tuple[tuple[str, Callable[[Card, Instance], bool]], ...]] = (
    ("other_kind", lambda card, i: not _is_of_kind(card, i)),
    (
        "not_for_presentation",
        lambda card, i: i.presentation_intent_type not in (None, card.input.presentation_intent),
    ),
    ("multi_frame", lambda card, i: (i.number_of_frames or 1) > card.input.frames),
    ("view_modifier", lambda card, i: bool(i.view_modifiers) and card.selection.without_view_modifier),
    ("partial_view", lambda card, i: i.partial_view == "YES" and card.selection.without_partial_view),
    ("other_view", lambda card, i: i.view not in card.views),
)


def select(card: Card, instances: Sequence[Instance]) -> Selected | Missing | NotApplicable:
    """Select one instance for each required view of a card.

    Parameters
    ----------
    card : Card
        What the model accepts.
    instances : sequence of Instance
        The effective instances of one study, in any order.

    Returns
    -------
    Selected, Missing or NotApplicable
        The same for every order of `instances`.
    """
    if not any(_is_of_kind(card, instance) for instance in instances):
        return NotApplicable(
            detail=f"expected modality {card.input.modality} of {list(card.input.sop_classes)}, "
            f"found none in {len(instances)} instances"
        )
    set_aside = {i.sop_instance_uid: word for i in instances if (word := _why_not(card, i))}
    candidates = [i for i in instances if i.sop_instance_uid not in set_aside]
    chosen = _latest_by_view(card, candidates)
    taken = {i.sop_instance_uid for i in chosen.values()}
    set_aside |= {
        i.sop_instance_uid: "earlier_acquisition" for i in candidates if i.sop_instance_uid not in taken
    }
    missing = tuple(view for view in card.views if view not in chosen)
    if missing:
        found = {view: instance.sop_instance_uid for view, instance in chosen.items()}
        return Missing(views=missing, found=found, set_aside=set_aside)
    flags = ("uid_conflict",) if any(i.conflict for i in chosen.values()) else ()
    return Selected(set_id=set_id(chosen), instances=chosen, quality_flags=flags, set_aside=set_aside)


def set_id(chosen: dict[str, Instance]) -> str:
    """Return the SHA-256 over the sorted (view, SOP, content key, pixel key) of a selected set."""
    rows = sorted((view, i.sop_instance_uid, i.content_key, i.pixel_key) for view, i in chosen.items())
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


def _is_of_kind(card: Card, instance: Instance) -> bool:
    return instance.modality == card.input.modality and instance.sop_class_uid in card.input.sop_classes


def _why_not(card: Card, instance: Instance) -> str | None:
    return next((word for word, applies in EXCLUSIONS if applies(card, instance)), None)


def _latest_by_view(card: Card, candidates: Sequence[Instance]) -> dict[str, Instance]:
    ordered = sorted(candidates, key=_acquisition_order)
    by_view = {instance.view: instance for instance in ordered}  # the last one of a view stays
    return {view: by_view[view] for view in card.views if view in by_view}


def _acquisition_order(instance: Instance) -> tuple[int, int, str]:
    # An unknown rank or number comes before every known one, so that a known acquisition wins.
    rank = -1 if instance.acquisition_rank is None else instance.acquisition_rank
    number = -1 if instance.instance_number is None else instance.instance_number
    return rank, number, instance.sop_instance_uid
