"""Bounds and failing closed: bad bytes end as a quarantine reason, soon, and quote nothing."""

import struct
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planting import CT, KEYS, base, context, nested, run, text

from consumers.deid import engine
from consumers.deid.elements import MAX_DEPTH, Element, inflate
from consumers.deid.engine import Profile, basic_profile, deidentify
from consumers.deid.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE, SYNTAXES
from consumers.deid.writer import dataset_bytes
from schemas.errors import Quarantine

DEFLATED = "1.2.840.10008.1.2.1.99"
RAW = dataset_bytes(base(CT, nested(text(0x00180024, "FSE"))), SYNTAXES[EXPLICIT_LITTLE])


def _reason(raw: bytes, **changes: object) -> str:
    with pytest.raises(Quarantine) as stopped:
        deidentify(raw, context(**changes), basic_profile(), KEYS)
    return stopped.value.reason


@pytest.mark.parametrize("cut", [1, 4, 7, 9, 13])
def test_a_cut_dataset_is_truncated(cut: int) -> None:
    """A dataset that ends before its last element does is not taken for whole."""
    assert _reason(RAW[:-cut]) == "truncated"


def test_an_item_or_sequence_left_open_is_truncated() -> None:
    """Undefined lengths need their delimiters."""
    sequence = struct.pack("<HHL", 0x5200, 0x9229, 0xFFFFFFFF)
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closed = b"\xfe\xff\x0d\xe0" + bytes(4)
    for opened in (sequence, sequence + item, sequence + item + closed):
        assert _reason(opened, transfer_syntax_uid=IMPLICIT_LITTLE) == "truncated"


def test_a_false_length_is_truncated() -> None:
    """4 GiB declared and four bytes there: nothing is allocated, nothing accepted."""
    private = struct.pack("<HH2sHL", 0x7FE1, 0x1001, b"OB", 0, 0xFFFFFFF0) + b"abcd"
    assert _reason(RAW + private) == "truncated"


def test_missing_pixels_are_truncated(profile: Profile) -> None:
    """Pixel data shorter than rows by columns are not an image."""
    with pytest.raises(Quarantine, match=r"truncated: 8 bytes of pixels expected, 6 present"):
        run(base(CT, Element(0x7FE00010, "OW", bytes(6))), profile)


def test_bytes_behind_the_last_frame_do_not_pass(profile: Profile) -> None:
    """Zeros behind the pixels are padding; anything else is a hiding place."""
    run(base(CT, Element(0x7FE00010, "OW", bytes(64))), profile)
    with pytest.raises(Quarantine, match="unreadable_dataset"):
        run(base(CT, Element(0x7FE00010, "OW", bytes(8) + b"CANARY")), profile)


def test_missing_fragments_are_truncated(profile: Profile) -> None:
    """Two frames declared, one fragment there."""
    fragments = (
        b"\xfe\xff\x00\xe0"
        + bytes(4)
        + b"\xfe\xff\x00\xe0\x04\x00\x00\x00abcd"
        + b"\xfe\xff\xdd\xe0"
        + bytes(4)
    )
    pixels = Element(0x7FE00010, "OB", fragments, fragments=(b"", b"abcd"))
    jpeg = "1.2.840.10008.1.2.4.50"
    assert run(base(CT, pixels), profile, syntax=jpeg).part10.endswith(fragments)
    with pytest.raises(Quarantine, match="truncated: 2 fragments expected, 1 present"):
        run(base(CT, pixels, text(0x00280008, "2")), profile, syntax=jpeg)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 300, 20_000])
def test_deep_nesting_is_over_the_limit(depth: int) -> None:
    """Sequences of undefined length, one in another, end at a depth of 64 and not at Python's."""
    opened = (struct.pack("<HHL", 0x5200, 0x9229, 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * depth
    assert _reason(opened, transfer_syntax_uid=IMPLICIT_LITTLE) == "over_limit"


def test_nesting_within_the_limit_passes(profile: Profile) -> None:
    """Sixty levels are read and written."""
    element = text(0x00180024, "FSE")
    for _ in range(60):
        element = Element(0x52009229, "SQ", items=((element,),))
    assert b"FSE" in run(base(CT, element), profile).part10


def test_private_nesting_costs_no_stack(profile: Profile) -> None:
    """Items in UN in items in UN, far deeper than Python's stack, end as a reason."""
    value = b"A1"
    for _ in range(3000):
        item = struct.pack("<HHL", 0x0009, 0x1001, len(value)) + value
        value = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(item)) + item
    with pytest.raises(Quarantine):
        run(base(CT, Element(0x00091001, "UN", value)), profile)


def test_a_bomb_is_over_the_limit() -> None:
    """A deflated dataset that grows beyond 200:1 is stopped while it inflates, in short time."""
    worker = zlib.compressobj(9, wbits=-15)
    bomb = worker.compress(bytes(64_000_000)) + worker.flush()
    began = time.process_time()
    assert _reason(bomb, transfer_syntax_uid=DEFLATED) == "over_limit"
    assert time.process_time() - began < 2
    assert _reason(bomb[: len(bomb) // 400], transfer_syntax_uid=DEFLATED) == "truncated"
    assert _reason(b"\xff" * 64, transfer_syntax_uid=DEFLATED) == "unreadable_dataset"


def test_deflated_data_come_back() -> None:
    """What is inflated is what was deflated."""
    worker = zlib.compressobj(9, wbits=-15)
    assert inflate(worker.compress(RAW) + worker.flush()) == RAW


@pytest.mark.parametrize(
    ("raw", "changes", "reason"),
    [
        (RAW, {"transfer_syntax_uid": "1.2.3"}, "unsupported_transfer_syntax"),
        (RAW, {"transfer_syntax_uid": IMPLICIT_LITTLE}, "truncated"),
        (RAW, {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.4"}, "dataset_mismatch"),
        (RAW, {"sop_instance_uid": "1.2.3.4.9999"}, "dataset_mismatch"),
        (b"", {}, "missing_uid"),
        (b"\x00" * 64, {}, "unreadable_dataset"),
        (b"\x04\x00\x20\x12UI\x00\x00", {}, "directory_record"),
        (RAW + RAW[-20:], {}, "unreadable_dataset"),
    ],
)
def test_what_cannot_be_judged_is_quarantined(raw: bytes, changes: dict[str, object], reason: str) -> None:
    """Each kind of bad instance has its word."""
    assert _reason(raw, **changes) == reason


def test_a_directory_record_is_seen_however_often_it_came() -> None:
    """Also where elements of other groups before 0008 stand around it."""
    media = b"".join(
        struct.pack("<HH2sH4s", group, 0x1000 + number, b"CS", 4, b"ABCD")
        for group in (0x0003, 0x0004, 0x0005)
        for number in range(4)
    )
    assert {_reason(media + RAW) for _ in range(5)} == {"directory_record"}


@pytest.mark.parametrize("tag", [0x00080016, 0x00080018, 0x0020000D, 0x0020000E])
def test_uids_must_be_there_and_be_uids(profile: Profile, tag: int) -> None:
    """Absent, empty, hostile or overlong UIDs never come near a path or a key."""
    for value, reason in (
        ("", "missing_uid"),
        ("../../../../tmp/evil", "invalid_uid"),
        ("1.2.3\n", "invalid_uid"),
        ("1." * 32 + "1", "invalid_uid"),
        ("1.2.3\\1.2.4", "invalid_uid"),
    ):
        with pytest.raises(Quarantine) as stopped:
            run(base(CT, text(tag, value)), profile)
        assert stopped.value.reason == reason


@pytest.mark.parametrize(
    "error", [ValueError("Doe^Jane"), RecursionError(), MemoryError(), KeyError("PID-4711")]
)
def test_any_error_inside_fails_closed(
    profile: Profile, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """An unexpected error becomes deid_failed, and its text, which may quote the dataset, is dropped."""

    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(engine, "check_residual", broken)
    with pytest.raises(Quarantine) as stopped:
        run(base(), profile)
    assert str(stopped.value) == f"deid_failed: {type(error).__name__}"
    assert stopped.value.__cause__ is None


@given(st.integers(0, len(RAW) - 1), st.binary(min_size=1, max_size=12))
@settings(max_examples=300, deadline=None)
def test_broken_bytes_never_crash(place: int, noise: bytes) -> None:
    """Whatever is overwritten in a dataset: a clean file or a reason, no other error, no value in the text."""
    raw = RAW[:place] + noise + RAW[place + len(noise) :]
    said = _outcome(raw)
    assert not said.startswith("deid_failed")
    assert "Doe" not in said


def _outcome(raw: bytes) -> str:
    try:
        deidentify(raw, context(), basic_profile(), KEYS)
    except Quarantine as stopped:
        return str(stopped)
    return "clean"


def test_nothing_is_logged(
    profile: Profile, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """pydicom's warnings quote values: a wrong character set and odd text leave no line."""
    odd = (text(0x00080005, "ISO_IR CANARY"), Element(0x00081030, "LO", b"\xff\xfeCANARY"))
    run(base(CT, *odd, Element(0x00100010, "PN", b"\xff\x1bCANARY")), profile)
    assert caplog.records == []
    assert list(recwarn) == []
