"""The intake of models that look at one whole series: which one of a study, and whether all of it is there.

1. Is any instance of the card's kind? If not: `NotApplicable`.
2. Series by series, a word where it does not fit (`why_not`): what it is, then where its slices lie.
3. A series that would fit and has a gap in position, in InstanceNumber, or fewer images than
   ImagesInAcquisition: it is waited for (`Missing`), unless another one is whole.
4. Of several whole ones the finest: smallest voxel, most slices, then number and UID. All are listed.

A slice that is lost at an end, in a series that does not say how many it has, cannot be seen here.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from scoring.card import Card, Series
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
from scoring.volume import Lattice, NoLattice, Plane, lattice_of, order_slices

#: Words of `NoLattice` after which a slice that comes later can mend the series.
MENDABLE: Final = ("gap",)
GRADIENT_ECHO: Final = "GR"


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The slices of one series in their order, with the lattice that they lie on."""

    slices: tuple[Instance, ...]
    lattice: Lattice

    @property
    def rank(self) -> tuple[float, int, int, str]:
        """The first of several is the finest; voxels are compared to a thousandth of a cubic millimetre."""
        first = self.slices[0]
        voxel = round(float(np.prod(self.lattice.spacing)), 3)
        return voxel, -len(self.slices), first.series_number or 0, first.series_instance_uid


class _Unfit(Exception):
    """A series that is not taken, with its word; `lost` where it could still become whole."""

    def __init__(self, word: str, *, lost: bool = False) -> None:
        self.word, self.lost = word, lost


def select(card: Card, series: Series, instances: Sequence[Instance]) -> Selected | Missing | NotApplicable:
    """Select the one series that a model scores.

    Parameters
    ----------
    card : Card
        What the model accepts.
    series : Series
        Its intake.
    instances : sequence of Instance
        The effective instances of one study, in any order.

    Returns
    -------
    Selected, Missing or NotApplicable
        The same for every order of `instances`.
    """
    by_series: dict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        if is_of_kind(card.input, instance):
            by_series[instance.series_instance_uid].append(instance)
    if not by_series:
        return none_of_kind(card.input, instances)
    whole: list[Stack] = []
    set_aside: dict[str, str] = {}
    lost: dict[str, str] = {}
    for uid, images in sorted(by_series.items()):
        try:
            whole.append(_stack(card, series, images))
        except _Unfit as unfit:
            (lost if unfit.lost else set_aside)[uid] = unfit.word
    if not whole and lost:
        first = min(lost)
        found = Input(
            name=series.name,
            sop_instance_uid=min(i.sop_instance_uid for i in by_series[first]),
            series_instance_uid=first,
            instances=len(by_series[first]),
        )
        return Missing(names=(f"{series.name}:{lost[first]}",), found=(found,), set_aside=set_aside)
    set_aside |= lost
    if not whole:
        words = dict(sorted(Counter(set_aside.values()).items()))
        return NotApplicable(
            detail=f"expected a fitting {series.name} series, found {words}", set_aside=set_aside
        )
    chosen, *others = sorted(whole, key=lambda stack: stack.rank)
    return _selected(series, chosen, others, set_aside)


def admit(_card: Card, series: Series, selected: Selected) -> Refusal | None:
    """Check the age band."""
    youngest = min((age for i in selected.instances.values() if (age := _age(i)) is not None), default=None)
    if youngest is not None and youngest < series.youngest:
        return Refusal(
            word="age", detail=f"expected {series.youngest} years or more, found a band from {youngest}"
        )
    return None


def plane_of(instance: Instance) -> Plane | None:
    """Return where an instance lies; None where its header does not say."""
    if (
        instance.image_position is None
        or instance.image_orientation is None
        or instance.pixel_spacing is None
    ):
        return None
    return Plane(
        position=instance.image_position,
        orientation=instance.image_orientation,
        spacing=instance.pixel_spacing,
        rows=instance.rows or 0,
        columns=instance.columns or 0,
    )


def _stack(card: Card, series: Series, images: Sequence[Instance]) -> Stack:
    word = next((word for image in images if (word := _why_not(card, series, image))), None)
    if word is not None:
        raise _Unfit(word)
    planes = [plane for image in images if (plane := plane_of(image)) is not None]
    if len(planes) < len(images):
        raise _Unfit("no_geometry")
    declared = max((image.images_in_acquisition or 0 for image in images), default=0)
    try:
        order = order_slices(planes)
        if len(images) < declared and declared >= series.positions:
            raise _Unfit("count", lost=True)
        if len(images) < 2:
            raise _Unfit("few_slices")
        lattice = lattice_of([planes[i] for i in order])
    except NoLattice as error:
        mendable = error.word in MENDABLE and _length(planes) >= series.extent
        raise _Unfit(error.word, lost=mendable) from None
    slices = tuple(images[i] for i in order)
    _check_lattice(series, slices, lattice)
    return Stack(slices=slices, lattice=lattice)


def _why_not(card: Card, series: Series, image: Instance) -> str | None:
    """Return the word why an image is not of a fitting series, from what it is."""
    words = {value.upper() for value in image.image_type}
    if words & set(series.not_image_types):
        return "image_type"
    if (image.number_of_frames or 1) > 1:
        return "multi_frame"
    if image.angio_flag == "Y":
        return "angiography"
    if image.contrast == "yes":
        return "contrast"
    if not pixels_fit(card.input, image):
        return "photometric"
    return None if _is_t1(series, image) else "other_sequence"


def _is_t1(series: Series, image: Instance) -> bool:
    """Return whether an image is T1-weighted: by its parameters; by the boundary's word where it has none.

    A word that names something else is believed against the parameters: an angiography by time of flight, a
    localizer and a field map are short gradient echoes too.
    """
    if image.sequence not in (None, "unknown", *series.sequences):
        return False
    if image.scanning_sequence and image.echo_time is not None:
        return GRADIENT_ECHO in image.scanning_sequence and image.echo_time < series.echo_time
    return image.sequence in series.sequences


def _check_lattice(series: Series, slices: Sequence[Instance], lattice: Lattice) -> None:
    numbers = sorted(i.instance_number for i in slices if i.instance_number is not None)
    if len(numbers) == len(slices) and len(set(numbers)) == len(numbers):
        steps = numbers[-1] - numbers[0] + 1
        if steps != len(numbers) and steps >= series.positions:
            raise _Unfit("number", lost=True)
    if slices[0].mr_acquisition_type != "3D" and lattice.spacing[2] > series.spacing:
        raise _Unfit("thick")
    if len(slices) < series.positions:
        raise _Unfit("few_slices")
    if lattice.extent.min() < series.extent:
        raise _Unfit("small_extent")


def _length(planes: Sequence[Plane]) -> float:
    """Return how far the slices reach along their normal, mm."""
    along = [float(np.dot(plane.position, planes[0].normal)) for plane in planes]
    return max(along) - min(along)


def _selected(series: Series, chosen: Stack, others: Sequence[Stack], set_aside: dict[str, str]) -> Selected:
    named = {f"{index:05d}": instance for index, instance in enumerate(chosen.slices)}
    first = chosen.slices[0]
    unverified = () if _age(first) is not None else ("age_unverified",)
    entry = Input(
        name=series.name,
        sop_instance_uid=first.sop_instance_uid,
        series_instance_uid=first.series_instance_uid,
        instances=len(chosen.slices),
    )
    return Selected(
        set_id=set_id(named),
        instances=named,
        inputs=(entry,),
        quality_flags=(*conflict_flags(chosen.slices), *unverified),
        candidates=tuple(stack.slices[0].series_instance_uid for stack in (chosen, *others)),
        set_aside=set_aside | {stack.slices[0].series_instance_uid: "coarser" for stack in others},
    )


def _age(instance: Instance) -> int | None:
    """Return the youngest age of a band such as "60-69" or "90+", years; None where it is not known."""
    found = re.match(r"[0-9]+", instance.age_band or "")
    return int(found[0]) if found else None
