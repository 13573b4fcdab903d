"""Intake selects four views, names what is missing, and invents nothing."""

import msgspec
import pytest

from infra.demo import repeated_view, spot_view
from scoring.intake import Instance, Missing, NotApplicable, Selected
from scoring.views import EXCLUSIONS

VIEWS = ["L-CC", "R-CC", "L-MLO", "R-MLO"]


def taken(chosen: Selected | Missing) -> dict[str, str]:
    """SOP Instance UID by view."""
    inputs = chosen.found if isinstance(chosen, Missing) else chosen.inputs
    return {each.name: each.sop_instance_uid for each in inputs}


def changed(instance: Instance, **changes: object) -> Instance:
    return msgspec.structs.replace(instance, **changes)


def test_four_views_are_selected_in_the_card_s_order(density, facts):
    """The inputs are named by view, whatever the order of arrival."""
    chosen = density.select(facts[::-1])
    assert isinstance(chosen, Selected)
    assert list(taken(chosen)) == VIEWS
    assert set(taken(chosen).values()) == {i.sop_instance_uid for i in facts}


def test_order_of_arrival_changes_nothing(density, facts):
    """Intake is a function of the set of instances."""
    assert density.select(facts) == density.select(facts[::-1])


@pytest.mark.parametrize("absent", VIEWS)
def test_a_missing_view_is_named(density, facts, absent):
    """Three views are not four: the absent one is named, and none is invented."""
    outcome = density.select([i for i in facts if i.view != absent])
    assert isinstance(outcome, Missing)
    assert outcome.names == (absent,)
    assert absent not in taken(outcome)


def test_another_study_is_not_applicable(density, facts):
    """A study without an instance of the card's kind is no incomplete exam."""
    others = [changed(i, modality="CT", sop_class_uid="1.2.840.10008.5.1.4.1.1.2") for i in facts]
    assert isinstance(density.select(others), NotApplicable)
    assert isinstance(density.select([]), NotApplicable)


def test_for_processing_images_are_not_applicable(density, facts):
    """The class of images For Processing is another one, and is not scored."""
    raw = [changed(i, sop_class_uid="1.2.840.10008.5.1.4.1.1.1.2.1") for i in facts]
    assert isinstance(density.select(raw), NotApplicable)


def test_a_spot_view_changes_nothing(density, facts, exams, know):
    """A spot compression of the same view, later, leaves the selected set as it was."""
    spot = know(spot_view(exams[0]))
    before, after = density.select(facts), density.select([*facts, spot])
    assert (before.set_id, before.inputs) == (after.set_id, after.inputs)
    assert after.set_aside == {spot.sop_instance_uid: "view_modifier"}


def test_a_repeated_view_takes_the_place_of_the_earlier(density, facts, exams, know):
    """Of several of one view the latest acquisition is taken, and the set has another name."""
    again = know(repeated_view(exams[0], "L-CC"))
    before, after = density.select(facts), density.select([again, *facts])
    assert taken(after) == taken(before) | {"L-CC": again.sop_instance_uid}
    assert after.set_id != before.set_id
    assert after.set_aside == {taken(before)["L-CC"]: "earlier_acquisition"}


def test_rank_decides_before_number_and_uid(density, facts):
    """A later rank wins over a higher instance number; equal ranks are told apart by number, then UID."""
    first = facts[0]
    low = changed(first, sop_instance_uid="9.9", acquisition_rank=1, instance_number=99)
    high = changed(first, sop_instance_uid="1.1", acquisition_rank=2, instance_number=1)
    same = changed(high, sop_instance_uid="1.2")
    unknown = changed(first, sop_instance_uid="9.8", acquisition_rank=None, instance_number=100)
    chosen = density.select([low, high, same, unknown, *facts[1:]])
    assert taken(chosen)["L-CC"] == "1.2"


@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("other_kind", {"modality": "DX"}),
        ("not_for_presentation", {"presentation_intent_type": "FOR PROCESSING"}),
        ("multi_frame", {"number_of_frames": 2}),
        ("view_modifier", {"view_modifiers": ("magnification",)}),
        ("partial_view", {"partial_view": "YES"}),
        ("other_view", {"view_position": "ML"}),
    ],
)
def test_every_exclusion_bites(density, facts, word, change):
    """One change of one image, and it is set aside under its own word."""
    outcome = density.select([changed(facts[0], **change), *facts[1:]])
    assert isinstance(outcome, Missing)
    assert outcome.set_aside == {facts[0].sop_instance_uid: word}


def test_the_table_of_exclusions_is_tested():
    """A new exclusion needs a line in the test above."""
    marks = test_every_exclusion_bites.pytestmark[0].args[1]
    assert [word for word, _ in EXCLUSIONS] == [word for word, _ in marks]


def test_a_conflict_is_flagged_only_where_it_is_used(density, facts):
    """A conflict in a selected instance is a quality flag; in one that was set aside it is none."""
    used = density.select([changed(facts[0], conflict=True), *facts[1:]])
    unused = changed(facts[0], sop_instance_uid="1.1", conflict=True, view_modifiers=("spot",))
    assert used.quality_flags == ("uid_conflict",)
    assert density.select([unused, *facts]).quality_flags == ()


@pytest.mark.parametrize("field", ["sop_instance_uid", "content_key", "pixel_key"])
def test_the_name_of_the_set_depends_on_each_part(density, facts, field):
    """Other content, other pixels or another UID is another set."""
    other = density.select([changed(facts[0], **{field: "1.2.3"}), *facts[1:]])
    assert other.set_id != density.select(facts).set_id


def test_instances_are_read_from_json_by_name(facts):
    """Another room fills the fields by name, and may send more than is read."""
    sent = msgspec.to_builtins(facts[0]) | {"something_newer": 1}
    assert msgspec.convert(sent, Instance) == facts[0]
