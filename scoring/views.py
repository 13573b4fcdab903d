"""The intake of models that look at single views: one image for each view that the card names.

1. Is any instance of the card's kind (modality and SOP class)? If not: `NotApplicable`.
2. Set aside what the card excludes, one word each (`EXCLUSIONS`).
3. Group the rest by view, and of several of one view take the latest acquisition.
4. A required view without an instance: `Missing`, and nothing is invented in its place.
"""

from collections.abc import Callable, Sequence
from typing import Final

from scoring.card import Card, InputKind, Range, Views
from scoring.intake import (
    Input,
    Instance,
    Missing,
    NotApplicable,
    Selected,
    conflict_flags,
    is_of_kind,
    none_of_kind,
    set_id,
)
from scoring.outcomes import Refusal

#: word -> is the instance set aside? The first word that applies is the one that is told.
EXCLUSIONS: Final[tuple[tuple[str, Callable[[InputKind, Views, Instance], bool]], ...]] = (
    ("other_kind", lambda kind, _, i: not is_of_kind(kind, i)),
    (
        "not_for_presentation",
        lambda _, views, i: i.presentation_intent_type not in (None, views.presentation_intent),
    ),
    ("multi_frame", lambda _, views, i: (i.number_of_frames or 1) > views.frames),
    ("view_modifier", lambda _, views, i: bool(i.view_modifiers) and views.without_view_modifier),
    ("partial_view", lambda _, views, i: i.partial_view == "YES" and views.without_partial_view),
    ("other_view", lambda _, views, i: i.view not in views.names),
)


def select(card: Card, views: Views, instances: Sequence[Instance]) -> Selected | Missing | NotApplicable:
    """Select one instance for each required view of a card.

    Parameters
    ----------
    card : Card
        What the model accepts.
    views : Views
        Its intake.
    instances : sequence of Instance
        The effective instances of one study, in any order.

    Returns
    -------
    Selected, Missing or NotApplicable
        The same for every order of `instances`.
    """
    if not any(is_of_kind(card.input, instance) for instance in instances):
        return none_of_kind(card.input, instances)
    set_aside = {i.sop_instance_uid: word for i in instances if (word := _why_not(card.input, views, i))}
    candidates = [i for i in instances if i.sop_instance_uid not in set_aside]
    chosen = _latest_by_view(views, candidates)
    taken = {i.sop_instance_uid for i in chosen.values()}
    set_aside |= {
        i.sop_instance_uid: "earlier_acquisition" for i in candidates if i.sop_instance_uid not in taken
    }
    inputs = tuple(
        Input(name=view, sop_instance_uid=instance.sop_instance_uid) for view, instance in chosen.items()
    )
    missing = tuple(view for view in views.names if view not in chosen)
    if missing:
        return Missing(names=missing, found=inputs, set_aside=set_aside)
    return Selected(
        set_id=set_id(chosen),
        instances=chosen,
        inputs=inputs,
        quality_flags=conflict_flags(chosen.values()),
        set_aside=set_aside,
    )


def admit(card: Card, views: Views, selected: Selected) -> Refusal | None:
    """Check size, photometric interpretation and bit depth of the selected instances, before a byte is read."""
    for view, instance in selected.instances.items():
        refusal = check_header(card.input, views, instance)
        if refusal is not None:
            return Refusal(word=f"{refusal.word}:{view}", detail=refusal.detail)
    return None


def check_header(kind: InputKind, views: Views, instance: Instance) -> Refusal | None:
    """Check one instance, from what is known of it."""
    sizes: tuple[tuple[str, int | None, Range], ...] = (
        ("rows", instance.rows, views.rows),
        ("columns", instance.columns, views.columns),
    )
    for name, value, (low, high) in sizes:
        if value is None or not low <= value <= high:
            return Refusal(word="image_size", detail=f"{name}: expected {low} to {high}, found {value}")
    for name, found, allowed in (
        ("photometric interpretation", instance.photometric_interpretation, kind.photometric),
        ("bits allocated", instance.bits_allocated, kind.bits_allocated),
    ):
        if found not in allowed:
            return Refusal(
                word="photometric", detail=f"{name}: expected one of {list(allowed)}, found {found}"
            )
    return None


def _why_not(kind: InputKind, views: Views, instance: Instance) -> str | None:
    return next((word for word, applies in EXCLUSIONS if applies(kind, views, instance)), None)


def _latest_by_view(views: Views, candidates: Sequence[Instance]) -> dict[str, Instance]:
    ordered = sorted(candidates, key=_acquisition_order)
    by_view = {instance.view: instance for instance in ordered}  # the last one of a view stays
    return {view: by_view[view] for view in views.names if view in by_view}


def _acquisition_order(instance: Instance) -> tuple[int, int, str]:
    # An unknown rank or number comes before every known one, so that a known acquisition wins.
    rank = -1 if instance.acquisition_rank is None else instance.acquisition_rank
    number = -1 if instance.instance_number is None else instance.instance_number
    return rank, number, instance.sop_instance_uid
