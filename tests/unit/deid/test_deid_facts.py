"""What the clean side may ask, and what the vault keeps for the way back."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planting import CT, SERIES, SOP, STUDY, base, leaks, run, text

from consumers.deid.elements import Element
from consumers.deid.engine import Profile
from consumers.deid.order import acquisition_rank, acquisition_time

MG = "1.2.840.10008.5.1.4.1.1.1.2"
_KEY = bytes(32)


def _code(tag: int, value: str, *inner: Element) -> Element:
    return Element(tag, "SQ", items=((text(0x00080100, value), *inner),))


def _mammogram(*extra: Element) -> tuple[Element, ...]:
    named = (
        text(0x00080060, "MG"),
        text(0x00080068, "FOR PRESENTATION"),
        text(0x00200062, "L"),
        text(0x00200013, "3"),
        text(0x00281350, "NO"),
    )
    return base(MG, *named, *extra)


def test_facts_of_a_mammogram(profile: Profile) -> None:
    """Everything that a model's intake asks is there, as words and numbers."""
    facts = run(_mammogram(_code(0x00540220, "399162004")), profile).facts
    assert (facts.modality, facts.presentation_intent_type) == ("MG", "FOR PRESENTATION")
    assert (facts.rows, facts.columns, facts.bits_allocated, facts.number_of_frames) == (2, 2, 16, None)
    assert facts.photometric_interpretation == "MONOCHROME2"
    assert facts.image_type == ("ORIGINAL", "PRIMARY", "AXIAL")
    assert (facts.view_position, facts.image_laterality, facts.view_modifiers) == ("CC", "L", ())
    assert (facts.instance_number, facts.partial_view) == (3, False)


@pytest.mark.parametrize(
    ("extra", "view"),
    [
        (_code(0x00540220, "R-10226"), "MLO"),
        (_code(0x00540220, "399368009"), "MLO"),
        (_code(0x00540220, "1234"), "OTHER"),
        (text(0x00185101, "CC"), "CC"),
        (text(0x00185101, "Doe Jane"), "OTHER"),
        (text(0x00280010, "2"), None),
    ],
)
def test_views_are_words_of_a_closed_list(profile: Profile, extra: Element, view: str | None) -> None:
    """SNOMED CT, SRT and plain ViewPosition become one word; free text becomes OTHER."""
    dataset = _mammogram(extra) if extra.tag != 0x00280010 else _mammogram()
    assert run(dataset, profile).facts.view_position == view


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("399055006", "spot"),
        ("R-102D6", "magnification"),
        ("399209000", "implant_displaced"),
        ("399110001", "tangential"),
        ("399161006", "other"),
    ],
)
@pytest.mark.parametrize("inside", [True, False])
def test_view_modifiers_inside_or_beside_the_view(
    profile: Profile, value: str, word: str, inside: bool
) -> None:
    """The modifier's code is found in the view's item, where the IOD has it, and at the root."""
    modifier = _code(0x00540222, value)
    extra = (
        (_code(0x00540220, "399162004", modifier),) if inside else (_code(0x00540220, "399162004"), modifier)
    )
    assert run(_mammogram(*extra), profile).facts.view_modifiers == (word,)


def test_metadata_is_clean_json_without_pixels(profile: Profile) -> None:
    """The metadata are DICOM JSON of the clean dataset: serialisable, no bulk, no big value."""
    extra = (text(0x00180060, "120"), text(0x00080070, "A" * 2000), text(0x00280030, "0.5\\NaN"))
    metadata = run(base(CT, *extra), profile).metadata
    json.dumps(metadata, allow_nan=False)
    assert metadata["00180060"] == {"vr": "DS", "Value": [120.0]}
    assert metadata["00280030"]["Value"] == [0.5, "NaN"]
    assert metadata["00100010"]["Value"] == [{"Alphabetic": run(base(), profile).patient}]
    assert not {"7FE00010", "00080070"} & set(metadata)


def test_the_vault_keeps_the_way_back(profile: Profile) -> None:
    """Original UIDs, whole Patient and Study modules with character set, accession and its issuer, requests."""
    request = (text(0x00401001, "RP-9"), text(0x00321060, "CT CHEST"))
    extra = (
        text(0x00080005, "ISO_IR 192"),
        text(0x00100010, "Müller^Änne"),
        text(0x00100040, "F"),
        text(0x00104000, "long " * 400),
        text(0x00080020, "20260102"),
        text(0x00080050, "ACC-77"),
        Element(0x00080051, "SQ", items=((text(0x00400031, "RIS"),),)),
        text(0x00200052, "1.2.3.4.1004"),
        Element(0x00400275, "SQ", items=(request,)),
    )
    result = run(base(CT, *extra), profile, issuer="clinic")
    vault = result.vault
    assert (vault.study_instance_uid, vault.series_instance_uid, vault.sop_instance_uid) == (
        STUDY,
        SERIES,
        SOP,
    )
    assert (vault.sop_class_uid, vault.frame_of_reference_uid) == (CT, "1.2.3.4.1004")
    assert (vault.patient_id, vault.issuer, vault.accession_number) == ("PID-4711", "clinic", "ACC-77")
    assert vault.specific_character_set == ("ISO_IR 192",)
    assert vault.patient_module["00100010"]["Value"] == [{"Alphabetic": "Müller^Änne"}]
    assert len(vault.patient_module["00104000"]["Value"][0]) > 1900
    assert vault.study_module["00080020"]["Value"] == ["20260102"]
    assert vault.accession_issuer == {"00400031": {"vr": "UT", "Value": ["RIS"]}}
    assert vault.request_attributes[0]["00401001"]["Value"] == ["RP-9"]
    assert leaks(repr(result).encode(), ["Müller", "PID-4711", "ACC-77", STUDY, "20260102"]) == []


def test_later_acquisitions_rank_higher(profile: Profile) -> None:
    """The rank follows the best time there is; the time itself is only in the vault."""
    times = ["101500", "101501", "143000", "235959"]
    results = [
        run(
            _mammogram(text(0x00080020, "20260102"), text(0x00080022, "20260102"), text(0x00080032, t)),
            profile,
        )
        for t in times
    ]
    ranks = [r.facts.acquisition_rank for r in results]
    assert ranks == sorted(set(ranks))
    assert results[0].vault.acquisition_time == "20260102101500"
    assert max(ranks) < 2**63


@given(st.lists(st.integers(0, 3 * 86400 - 1), min_size=2, max_size=8, unique=True))
def test_ranks_order_any_times(seconds: list[int]) -> None:
    """For any times within days of the study date the order of ranks is the order of times."""

    def rank(second: int) -> int:
        day, rest = divmod(second, 86400)
        clock = f"{rest // 3600:02d}{rest // 60 % 60:02d}{rest % 60:02d}"
        return acquisition_rank(f"2026010{day + 1}{clock}", "20260102", STUDY, _KEY)

    ranks = [rank(second) for second in sorted(seconds)]
    assert ranks == sorted(set(ranks))


def test_a_rank_tells_no_distance() -> None:
    """The same interval has ranks apart by orders of magnitude in other studies: no clock can be read off."""
    gaps = []
    for study in range(40):
        first, second = (
            acquisition_rank(f"20260102{t}", "20260102", str(study), _KEY) for t in ("101500", "101600")
        )
        gaps.append(second - first)
    assert max(gaps) > 1000 * min(gaps)


def test_without_a_time_the_numbers_order(profile: Profile) -> None:
    """Where no time is known the rank is 0, and acquisition, series and instance number decide."""
    first, second = (run(_mammogram(text(0x00200013, n)), profile).facts for n in ("3", "11"))
    assert first.acquisition_rank == second.acquisition_rank == 0
    assert first.latest_key < second.latest_key


@pytest.mark.parametrize(
    ("values", "time"),
    [
        ({0x0008002A: "20260102101112.5+0100", 0x00080022: "20250101"}, "20260102101112.5"),
        ({0x00080022: "20260102", 0x00080032: "1011"}, "20260102101100"),
        ({0x00080022: "2026.01.02", 0x00080032: "10:11:12"}, "20260102101112"),
        ({0x00080022: "20260102"}, None),
        ({0x00080023: "20260102", 0x00080033: "101112"}, "20260102101112"),
        ({0x00080022: "nonsense", 0x00080032: "x"}, None),
        ({}, None),
    ],
)
def test_the_best_time_is_taken(values: dict[int, str], time: str | None) -> None:
    """Acquisition before content before series; what is no time is none."""
    assert acquisition_time(values) == time
