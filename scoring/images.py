"""The intake of models that look at one image at a time: every fitting image of a study, each on its own.

An image is answered as it comes, before its study is complete; the study's own result is that of the image with the
highest score. Images that do not fit are set aside, one word each.
"""

from collections.abc import Sequence

from scoring.card import Card, Images
from scoring.intake import (
    Input,
    Instance,
    Missing,
    NotApplicable,
    Selected,
    conflict_flags,
    is_of_kind,
    none_of_kind,
    pixels_fit,
    set_id,
)
from scoring.outcomes import Refusal


def select(card: Card, images: Images, instances: Sequence[Instance]) -> Selected | Missing | NotApplicable:
    """Select every fitting image, in the order of series and instance number.

    Parameters
    ----------
    card : Card
        What the model accepts.
    images : Images
        Its intake.
    instances : sequence of Instance
        The effective instances of one study, in any order; or one of them alone.
    """
    if not any(is_of_kind(card.input, instance) for instance in instances):
        return none_of_kind(card.input, instances)
    words = {i.sop_instance_uid: _why_not(card, images, i) for i in instances}
    fitting = sorted((i for i in instances if words[i.sop_instance_uid] is None), key=_order)
    set_aside = {uid: word for uid, word in words.items() if word is not None}
    set_aside |= {i.sop_instance_uid: "over_count" for i in fitting[images.most :]}
    taken = fitting[: images.most]
    if not taken:
        return NotApplicable(
            detail=f"expected a fitting image, found {len(instances)} others", set_aside=set_aside
        )
    chosen = {i.sop_instance_uid: i for i in taken}
    return Selected(
        set_id=set_id(chosen),
        instances=chosen,
        inputs=tuple(Input(name=images.name, sop_instance_uid=uid) for uid in chosen),
        quality_flags=(
            *conflict_flags(taken),
            *(("incomplete_series",) if len(fitting) > images.most else ()),
        ),
        set_aside=set_aside,
    )


def admit(_card: Card, _images: Images, _selected: Selected) -> Refusal | None:
    """Everything was looked at when it was selected: an image of another size is not asked about."""
    return None


def _why_not(card: Card, images: Images, instance: Instance) -> str | None:
    if not is_of_kind(card.input, instance):
        return "other_kind"
    if (instance.number_of_frames or 1) > 1:
        return "multi_frame"
    if not pixels_fit(card.input, instance):
        return "photometric"
    sizes = ((instance.rows, images.rows), (instance.columns, images.columns))
    fits = all(value is not None and low <= value <= high for value, (low, high) in sizes)
    return None if fits else "image_size"


def _order(instance: Instance) -> tuple[int, int, str]:
    return instance.series_number or 0, instance.instance_number or 0, instance.sop_instance_uid
