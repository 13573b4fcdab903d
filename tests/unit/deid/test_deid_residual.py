"""The residual search: it finds identifiers that the rules do not reach, and leaves good data alone."""

import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planting import CT, SOP, base, nested, text, verdict

from consumers.deid import residual
from consumers.deid.codestream import comments
from consumers.deid.elements import Element
from consumers.deid.engine import Profile

FREE_TEXT = 0x00181250  # ReceiveCoilName: no row names it, and any text fits


def _found(profile: Profile, *extra: Element, syntax: str = "1.2.840.10008.1.2.1") -> bool:
    said = verdict(base(CT, *extra), profile, syntax=syntax)
    assert said == "" or said.startswith("residual_identifier: in (")
    return said != ""


@pytest.mark.parametrize(
    ("identifier", "leak"),
    [
        (text(0x00100010, "Mustermann^Erika"), "coil of MUSTERMANN, left"),
        (text(0x00100010, "Mustermann^Erika"), "erika"),
        (text(0x00100020, "ID0815123"), "see 0815123"),
        (text(0x00100020, "A1"), "A1"),
        (text(0x00080050, "ACC998877"), "ACC998877"),
        (text(0x00100030, "19610317"), "born 19610317"),
        (text(0x00080090, "Sauerbruch^F"), "Dr. Sauerbruch"),
        (text(0x00101040, "Lindenstrasse 5"), "Lindenstrasse"),
        (text(0x0020000D, "1.2.3.4.5678"), "study 1.2.3.4.5678"),
        (nested(text(0x00100010, "Mustermann^Erika")), "Mustermann"),
    ],
)
def test_an_identifier_in_kept_text_stops_the_instance(
    profile: Profile, identifier: Element, leak: str
) -> None:
    """Names, numbers, dates, addresses and UIDs of the instance are found in text that the table keeps."""
    assert _found(profile, identifier, text(FREE_TEXT, leak))
    if identifier.items is None:
        assert _found(profile, identifier, nested(text(FREE_TEXT, leak)))
    assert not _found(profile, identifier, text(FREE_TEXT, "BODY COIL 16"))


@pytest.mark.parametrize(
    ("identifier", "good"),
    [
        (text(0x00100010, "Head^Al"), text(FREE_TEXT, "HE")),
        (text(0x00100020, "02"), text(FREE_TEXT, "coil 02 of 12")),
        (text(0x00100020, "12"), text(0x00180060, "12")),
        (text(0x00100010, "Philips^Anna"), text(0x00080070, "Philips Medical Systems")),
        (text(0x00100010, "Axial^Test"), text(0x00080008, "ORIGINAL\\PRIMARY\\AXIAL")),
        (text(0x00100010, "Test^Phantom"), text(FREE_TEXT, "test phantom coil")),
        (text(0x00100010, "Anna^B"), text(FREE_TEXT, "Annabel coil")),
        (text(0x00100020, "1200"), text(FREE_TEXT, "1200 mm")),
    ],
)
def test_good_data_are_no_hit(profile: Profile, identifier: Element, good: Element) -> None:
    """Short values inside text, makers, coded strings, words of test objects and parts of words are no leak."""
    assert not _found(profile, identifier, good)


def test_an_original_uid_in_an_unlisted_element_is_found(profile: Profile) -> None:
    """A UID that was replaced must not stand in a UI element that no row names."""
    assert _found(profile, text(0x0008010C, SOP))


def test_binary_values_are_searched_also_wide(profile: Profile) -> None:
    """ICC profiles and other small binary values are searched as bytes and as 16-bit text."""
    name = text(0x00100010, "Mustermann^Erika")
    for form in (b"\x00\x01Mustermann\x00", "Mustermann".encode("utf-16-le")):
        assert _found(profile, name, Element(0x00282000, "OB", form))


def test_comments_of_codestreams_are_searched(profile: Profile) -> None:
    """A name in the COM segment of a JPEG, or of a JPEG 2000 codestream, stops the instance."""
    name = text(0x00100010, "Mustermann^Erika")
    for start, marker in ((b"\xff\xd8", b"\xff\xfe"), (b"\xff\x4f", b"\xff\x64")):
        stream = start + marker + b"\x00\x10" + b"Mustermann E.." + b"\xff\xda"
        length = len(stream).to_bytes(4, "little")
        value = (
            b"\xfe\xff\x00\xe0"
            + bytes(4)
            + b"\xfe\xff\x00\xe0"
            + length
            + stream
            + b"\xfe\xff\xdd\xe0"
            + bytes(4)
        )
        pixels = Element(0x7FE00010, "OB", value, fragments=(b"", stream))
        assert list(comments([stream])) == [b"Mustermann E.."]
        assert _found(profile, name, pixels, syntax="1.2.840.10008.1.2.4.50")
        assert not _found(profile, pixels, syntax="1.2.840.10008.1.2.4.50")


@pytest.mark.parametrize("case", [str.lower, str.upper, str.title])
@pytest.mark.parametrize("shift", ["", "a", "ab"])
def test_a_name_in_disguise_stops_the_instance(
    profile: Profile, case: Callable[[str], str], shift: str
) -> None:
    """In base64 at each phase, and in wide characters, in what the table keeps, short or long."""
    name = text(0x00100010, "Mustermann^Erika")
    hidden = base64.b64encode((shift + case("mustermann")).encode()).decode()
    assert "in wide characters or base64" in verdict(base(CT, name, text(FREE_TEXT, hidden)), profile)
    wide = Element(0x00282000, "OB", bytes(700) + case("mustermann").encode("utf-16-be"))  # ICCProfile
    assert verdict(base(CT, name, wide), profile).startswith("residual_identifier")
    assert verdict(base(CT, name, text(FREE_TEXT, base64.b64encode(b"body coil").decode())), profile) == ""


FORMS = sorted(residual._disguises(frozenset({"wmustermann", "werika", "wmüller-lüdenscheidt"})).forms)


@pytest.mark.parametrize("before", [-5, -4, -3, -1, 0, 1])
def test_a_form_is_found_where_one_look_ends_and_the_next_begins(before: int) -> None:
    """Places are looked at in portions: a form over their edge is in one of them."""
    disguises = residual._disguises(frozenset({"wmustermann"}))
    for form in disguises.forms:
        data = bytes(residual._AT_ONCE + before) + form + bytes(100)
        assert residual._is_disguised(data, disguises)
        assert not residual._is_disguised(data.replace(form, form[:-1]), disguises)


@given(
    forms=st.lists(st.sampled_from(FORMS), max_size=3),
    between=st.lists(st.binary(max_size=40), min_size=3, max_size=3),
    cut=st.integers(0, 3),
)
def test_one_look_at_each_place_finds_what_searching_finds(
    forms: list[bytes], between: list[bytes], cut: int
) -> None:
    """Whatever stands around a form, and where the last one is cut: the answer is that of a search for every form."""
    disguises = residual._disguises(frozenset({"wmustermann", "werika", "wmüller-lüdenscheidt"}))
    parts = [part for pair in zip(between, forms, strict=False) for part in pair]
    data = b"".join(parts)[: -cut or None]
    assert residual._is_disguised(data, disguises) == any(form in data for form in FORMS)
