"""Derived words: from closed lists, only where the profile permits, and never what they were derived from."""

import pytest
from planting import CT, KEYS, base, everything, run, text

from consumers.deid.derived import SEQUENCES, UNKNOWN, derived_words
from consumers.deid.engine import load_profile

MR = "1.2.840.10008.5.1.4.1.1.4"


class _Root(dict[int, str]):
    def text(self, tag: int) -> str:
        return self.get(tag, "")


def _words(**said: str) -> dict[str, str | None]:
    tags = {
        "age": 0x00101010, "birth": 0x00100030, "study": 0x00080020, "modality": 0x00080060, "series": 0x0008103E,
        "protocol": 0x00181030, "name": 0x00180024, "serial": 0x00181000, "maker": 0x00080070,
    }  # fmt: skip
    root = _Root({tags[key]: value for key, value in said.items()})
    return derived_words(root, KEYS, frozenset({"age_band", "sequence", "device"}))


@pytest.mark.parametrize(
    ("said", "band"),
    [
        ({"age": "034Y"}, "30-39"),
        ({"age": "018M"}, "00-09"),
        ({"age": "089Y"}, "80-89"),
        ({"age": "090Y"}, "90+"),
        ({"age": "112Y"}, "90+"),
        ({"birth": "19600615", "study": "20200614"}, "50-59"),
        ({"birth": "19600615", "study": "20200615"}, "60-69"),
        ({"age": "000Y"}, None),
        ({"birth": "1960", "study": "20200614"}, None),
        ({}, None),
    ],
)
def test_an_age_is_a_band(said: dict[str, str], band: str | None) -> None:
    """Ten years, one band above 89; None where it is not known."""
    assert _words(**said)["age_band"] == band


@pytest.mark.parametrize(
    ("series", "word"),
    [
        ("AX T1 MPRAGE", "t1"),
        ("t1_mprage_sag_p2_iso", "t1"),
        ("AX T2 TSE", "t2"),
        ("AX FLAIR", "flair"),
        ("t2_tirm_tra_dark-fluid", "flair"),
        ("T2 FLAIR SAG", "flair"),
        ("3D TOF MRA", "tof"),
        ("SWI_Images", "swi"),
        ("ep2d_diff_3scan_trace_p2_ADC", "dwi"),
        ("DWI b1000", "dwi"),
        ("AAHead_Scout", "localizer"),
        ("3-plane loc", "localizer"),
        ("AX T1 POST", "post_contrast"),
        ("t1 +C SAG", "post_contrast"),
        ("COR STIR", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_a_series_is_a_word(series: str, word: str) -> None:
    """Of what technicians write about MR series, one word of a closed list."""
    assert _words(modality="MR", series=series)["sequence"] == word
    assert word in {known for known, _ in SEQUENCES} | {UNKNOWN}


def test_what_the_description_does_not_say_the_protocol_may() -> None:
    """ProtocolName and then SequenceName are asked; other modalities have no such word."""
    assert _words(modality="MR", series="Meyer", protocol="flair")["sequence"] == "flair"
    assert _words(modality="MR", name="*tof3d")["sequence"] == "tof"
    assert _words(modality="CT", series="t1")["sequence"] is None


def test_a_device_is_a_keyed_id() -> None:
    """The same for the same device, another for another, none where nothing tells them apart."""
    one, same, other = (_words(maker=m, serial=s)["device"] for m, s in (("A", "1"), ("a", "1"), ("A", "2")))
    assert one == same != other
    assert _words(maker="A")["device"] is None


def test_only_permitted_words_cross() -> None:
    """Basic lets the sequence cross and no more; safe-harbor all three; what they come from never does."""
    elements = (text(0x00101010, "077Y"), text(0x0008103E, "T1 Meyer", "LO"), text(0x00181000, "SN-8812"))
    dataset = base(MR, *elements, text(0x00080060, "MR"))
    facts = {name: run(dataset, load_profile(name)).facts for name in ("basic", "safe-harbor")}
    assert (facts["basic"].age_band, facts["basic"].sequence, facts["basic"].device) == (None, "t1", None)
    assert (facts["safe-harbor"].age_band, facts["safe-harbor"].sequence) == ("70-79", "t1")
    assert facts["safe-harbor"].device is not None
    out = everything(run(dataset, load_profile("safe-harbor")))
    assert not any(word in out for word in (b"Meyer", b"077Y", b"SN-8812"))
    assert CT != MR
