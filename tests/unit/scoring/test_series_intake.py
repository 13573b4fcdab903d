"""Which series of a study, and whether all of it is there: every word bites, and order changes nothing."""

import random

import msgspec
import numpy as np
import pytest

from scoring.card import Card, read_card
from scoring.intake import Instance, Missing, NotApplicable, Selected
from scoring.package import CARD
from scoring.recipes import admit, select
from scoring.score import MODELS

MR = "1.2.840.10008.5.1.4.1.1.4"


@pytest.fixture(scope="module")
def card() -> Card:
    return read_card((MODELS / "dementia" / CARD).read_bytes())


def series(uid: str = "1.5", count: int = 160, step: float = 1.0, **changes: object) -> list[Instance]:
    """A whole sagittal T1 series of 160 slices."""
    facts: dict[str, object] = {
        "modality": "MR",
        "sop_class_uid": MR,
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "series_instance_uid": uid,
        "rows": 256,
        "columns": 256,
        "bits_allocated": 16,
        "photometric_interpretation": "MONOCHROME2",
        "image_type": ("ORIGINAL", "PRIMARY"),
        "image_orientation": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
        "pixel_spacing": (1.0, 1.0),
        "mr_acquisition_type": "3D",
        "scanning_sequence": ("GR", "IR"),
        "echo_time": 2.98,
        "sequence": "t1",
        "series_number": 3,
        "age_band": "70-79",
    }
    return [
        msgspec.convert(
            {
                **facts,
                "sop_instance_uid": f"{uid}.{i}",
                "content_key": f"c{uid}.{i}",
                "pixel_key": "p",
                "instance_number": i + 1,
                "image_position": (-80.0 + step * i, -128.0, 128.0),
                **changes,
            },
            Instance,
        )
        for i in range(count)
    ]


def changed(images: list[Instance], **changes: object) -> list[Instance]:
    return [msgspec.structs.replace(image, **changes) for image in images]


def test_a_whole_series_is_selected(card: Card) -> None:
    """One input, named by what it is to the model, with its number of slices."""
    found = select(card, series())
    assert isinstance(found, Selected)
    [entry] = found.inputs
    assert (entry.name, entry.series_instance_uid, entry.instances) == ("t1", "1.5", 160)
    assert found.quality_flags == ()
    assert admit(card, found) is None


def test_order_of_arrival_changes_nothing(card: Card) -> None:
    """Shuffled slices of two series are the same selection."""
    images = [*series(), *series("1.6", step=1.2)]
    shuffled = random.Random(1).sample(images, len(images))
    assert select(card, shuffled) == select(card, images)


@pytest.mark.parametrize(("lost", "whole"), [(0, True), (80, False), (159, True)])
def test_a_lost_slice_is_seen_in_the_middle_and_not_at_the_ends(card: Card, lost: int, whole: bool) -> None:
    """First, middle and last: at an end nothing but a count could tell, and this series has none."""
    images = series()
    del images[lost]
    found = select(card, images)
    assert isinstance(found, Selected if whole else Missing)
    if not whole:
        assert found.names == ("t1:gap",)


@pytest.mark.parametrize("lost", [0, 80, 159])
def test_with_a_count_every_lost_slice_is_seen(card: Card, lost: int) -> None:
    """ImagesInAcquisition tells what positions cannot."""
    images = series(images_in_acquisition=160)
    del images[lost]
    assert select(card, images) == select(card, images[::-1])
    assert select(card, images).names == ("t1:count",)


def test_every_second_slice_lost_is_seen_by_the_numbers(card: Card) -> None:
    """The positions are even; the numbers are not."""
    found = select(card, series(count=300, step=0.6)[::2])
    assert isinstance(found, Missing)
    assert found.names == ("t1:number",)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"image_type": ("DERIVED", "SECONDARY", "MPR")}, "image_type"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "P")}, "image_type"),
        ({"number_of_frames": 10}, "multi_frame"),
        ({"angio_flag": "Y"}, "angiography"),
        ({"contrast": "yes"}, "contrast"),
        ({"sequence": "post_contrast"}, "other_sequence"),
        ({"sequence": "t2"}, "other_sequence"),
        ({"sequence": "tof"}, "other_sequence"),
        ({"echo_time": 20.0}, "other_sequence"),
        ({"scanning_sequence": ("SE",)}, "other_sequence"),
        ({"scanning_sequence": (), "echo_time": None, "sequence": "unknown"}, "other_sequence"),
        ({"scanning_sequence": (), "echo_time": None, "sequence": None}, "other_sequence"),
        ({"image_position": None}, "no_geometry"),
        ({"photometric_interpretation": "MONOCHROME1"}, "photometric"),
        ({"bits_allocated": 8}, "photometric"),
        ({"rows": 100}, "small_extent"),
    ],
)
def test_every_word_bites(card: Card, changes: dict[str, object], word: str) -> None:
    """One change of a fitting series, and it is set aside under its own word."""
    found = select(card, changed(series(), **changes))
    assert isinstance(found, NotApplicable)
    assert found.set_aside == {"1.5": word}


@pytest.mark.parametrize(
    ("images", "word"),
    [
        (series(count=119, step=1.4), "few_slices"),
        (series(count=1), "few_slices"),
        (series(count=130, step=1.6, mr_acquisition_type="2D"), "thick"),
        (
            [*series(count=80), *changed(series(count=80), image_orientation=(1.0, 0, 0, 0, 1.0, 0))],
            "orientation",
        ),
        ([*series(), *changed(series(), sop_instance_uid="9.9")[:1]], "doubled"),
    ],
)
def test_what_is_no_volume_is_set_aside(card: Card, images: list[Instance], word: str) -> None:
    """Too few, too thick, localizers in three planes, two images at one place."""
    found = select(card, images)
    assert isinstance(found, NotApplicable)
    assert found.set_aside == {"1.5": word}


def test_the_shared_kind_without_parameters_goes_by_its_word(card: Card) -> None:
    """A series without EchoTime or ScanningSequence is T1 where the boundary says so."""
    found = select(card, series(scanning_sequence=(), echo_time=None, mr_acquisition_type=None))
    assert isinstance(found, Selected)


def test_of_several_the_finest_is_taken_and_all_are_listed(card: Card) -> None:
    """Smallest voxel, then number and UID; the others are candidates, not lost."""
    coarse, fine, same = series("1.1", step=1.2), series("1.2"), series("1.3")
    found = select(card, [*same, *coarse, *fine])
    assert isinstance(found, Selected)
    assert found.candidates == ("1.2", "1.3", "1.1")
    assert found.set_aside == {"1.3": "coarser", "1.1": "coarser"}


def test_a_series_with_a_gap_does_not_stand_in_the_way_of_a_whole_one(card: Card) -> None:
    """Nobody waits for the one when the other is there."""
    broken = series("1.1", step=0.9, count=170)
    del broken[80]
    found = select(card, [*broken, *series("1.2")])
    assert isinstance(found, Selected)
    assert found.set_aside == {"1.1": "gap"}


def test_another_study_is_not_applicable(card: Card) -> None:
    """CT, and nothing at all."""
    assert isinstance(select(card, changed(series(), modality="CT")), NotApplicable)
    assert isinstance(select(card, []), NotApplicable)


@pytest.mark.parametrize(
    ("band", "word"), [("40-49", "age"), ("00-09", "age"), ("50-59", None), ("90+", None)]
)
def test_the_young_are_out_of_domain(card: Card, band: str, word: str | None) -> None:
    """By the band that crossed the boundary."""
    found = select(card, series(age_band=band))
    refusal = admit(card, found)
    assert (refusal.word if refusal else None) == word


def test_an_unknown_age_is_flagged(card: Card) -> None:
    """As under the Basic profile: the score is never plain."""
    found = select(card, series(age_band=None))
    assert found.quality_flags == ("age_unverified",)
    assert admit(card, found) is None


def test_the_name_of_the_set_depends_on_each_slice(card: Card) -> None:
    """One corrected slice is another set; another series beside it is not."""
    images = series()
    other = [msgspec.structs.replace(images[7], content_key="corrected"), *images[:7], *images[8:]]
    assert select(card, other).set_id != select(card, images).set_id
    assert select(card, [*images, *series("1.9", step=1.3)]).set_id == select(card, images).set_id


def test_rounded_positions_are_no_gap(card: Card) -> None:
    """Files round to a hundredth of a millimetre; a slice is ten times as thick."""
    rng = np.random.default_rng(0)
    images = [
        msgspec.structs.replace(
            image,
            image_position=tuple(
                float(v) for v in np.round(image.image_position + rng.normal(0, 0.01, 3), 2)
            ),
        )
        for image in series()
    ]
    assert isinstance(select(card, images), Selected)
