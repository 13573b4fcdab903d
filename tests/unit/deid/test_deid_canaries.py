"""Planted identifiers: none of them is in any byte that leaves, whatever carried it in."""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from planting import CT, KEPT_SEQUENCES, KEYS, base, everything, leaks, nested, run, text

from consumers.deid.elements import Dataset, Element, dictionary_vr
from consumers.deid.engine import Profile, basic_profile, deidentify_file, split_part10
from consumers.deid.syntaxes import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE

_LISTED = [
    tag
    for tag, code in sorted(basic_profile().rows.items())
    if tag >> 16 >= 8 and dictionary_vr(tag) in ("LO", "SH", "LT", "ST", "UT", "PN", "UC") and code != "U"
]


def _planted_words(dataset: pydicom.Dataset, profile: Profile) -> Iterator[str]:
    """Every value of a listed or private attribute of a real file, as far as it is long enough to be found."""
    for element in dataset.iterall():
        action = profile.actions(CT).of(int(element.tag), nested=False)
        if action != "K" and element.VR not in ("SQ", "OB", "OW", "UN", "US", "FD"):
            yield from (word for word in re.split(r"[\\^=\s]+", str(element.value)) if len(word) >= 7)


def test_no_planted_identifier_of_the_pairs_is_left(shared: Callable[[str], Path], profile: Profile) -> None:
    """The 26 files of the TCIA Pseudo-PHI pairs come out without one word of what the table covers."""
    files = sorted(shared("deid-pairs/exampleData/tcia/dicom").glob("*.dcm"))
    assert len(files) == 26
    searched = 0
    for path in files:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            original = pydicom.dcmread(path)
            planted = set(_planted_words(original, profile))
        planted -= {str(original.get("Manufacturer")), str(original.get("DeidentificationMethod"))}
        searched += len(planted)
        assert leaks(deidentify_file(path.read_bytes(), profile, KEYS), planted) == []
    print(f"{searched} planted words searched in {len(files)} files")
    assert searched > 26 * 20


@pytest.mark.parametrize("syntax", [IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, "1.2.840.10008.1.2.1.99"])
def test_listed_text_goes_in_every_encoding(profile: Profile, syntax: str) -> None:
    """Every listed text attribute at once, at the root and nested, in each way to write a dataset."""
    elements = [text(tag, f"CANARY{tag:08X}") for tag in _LISTED]
    big = syntax == EXPLICIT_BIG
    dataset = base(CT, *elements, nested(*elements))
    numbers = tuple(replace(e, value=bytes(e.value)[::-1]) if big and e.vr == "US" else e for e in dataset)
    result = run(numbers, profile, syntax=syntax)
    assert leaks(everything(result), [f"CANARY{tag:08X}" for tag in _LISTED]) == []
    assert result.facts.rows == 2


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192", "\\ISO 2022 IR 87"])
def test_names_of_other_character_sets_go(profile: Profile, charset: str) -> None:
    """Ideographic and accented names leave neither text nor bytes."""
    name = "Müller^Änne=山田^太郎"
    codec = {"ISO_IR 100": "latin-1", "ISO_IR 192": "utf-8"}.get(charset, "iso2022_jp")
    raw = name.encode(codec, "ignore")
    dataset = base(
        CT, text(0x00080005, charset), Element(0x00100010, "PN", raw), Element(0x00081070, "PN", raw)
    )
    result = run(dataset, profile)
    assert raw not in result.part10
    assert not any(part in everything(result) for part in re.split(rb"[\^=]", raw) if len(part) > 3)


def test_preamble_and_file_meta_are_our_own(profile: Profile) -> None:
    """A script in the preamble and AE titles in the file meta do not survive."""
    clean = run(base(), profile).part10
    meta_end = clean.index(b"\x08\x00\x08\x00CS")
    hostile = b"#!/bin/sh CANARY00001".ljust(128, b"\x00") + clean[128:meta_end]
    title = b"\x02\x00\x16\x00AE\x0c\x00CANARY00002 "
    out = deidentify_file(hostile + title + clean[meta_end:], profile, KEYS)
    assert out[:132] == bytes(128) + b"DICM"
    assert leaks(out, ["CANARY00001", "CANARY00002"]) == []
    meta = pydicom.dcmread(io.BytesIO(out)).file_meta
    assert meta.ImplementationVersionName == "PRODROME_1"
    assert set(meta.keys()) == {0x00020000 | n for n in (0, 1, 2, 3, 0x10, 0x12, 0x13)}


def test_a_file_without_preamble_is_split(profile: Profile) -> None:
    """A file whose meta group stands at its beginning, and one without any meta, are read."""
    whole = run(base(), profile).part10
    assert split_part10(whole[132:]) == split_part10(whole)
    syntax, sop_class, _, dataset = split_part10(split_part10(whole)[3])
    assert (syntax, sop_class) == (EXPLICIT_LITTLE, CT)
    assert dataset == split_part10(whole)[3]


@st.composite
def _datasets(draw: st.DrawFn) -> tuple[Dataset, list[str]]:
    """A random tree of listed, private and kept-sequence elements, each with a canary of its own."""
    canaries: list[str] = []

    def leaf(tag: int, vr: str) -> Element:
        canaries.append(f"CANARY{len(canaries):05d}Z")
        return text(tag, canaries[-1], vr)

    def items(depth: int) -> Dataset:
        tags = draw(st.lists(st.sampled_from(_LISTED), max_size=4, unique=True))
        private = draw(st.lists(st.integers(0, 0xFFFF), max_size=2, unique=True))
        group = draw(st.sampled_from([0x0009, 0x0029, 0x2005, 0x7FE1]))
        vr = draw(st.sampled_from(["LO", "UN", "OB", "UT", "PN"]))
        found = [leaf(tag, dictionary_vr(tag)) for tag in tags]
        found += [leaf(group << 16 | number, vr) for number in private if number]
        if depth:
            for tag in draw(st.lists(st.sampled_from(KEPT_SEQUENCES), max_size=2, unique=True)):
                inner = tuple(items(depth - 1) for _ in range(draw(st.integers(0, 2))))
                found.append(Element(tag, "SQ", items=inner))
        return tuple(sorted(found, key=lambda e: e.tag))

    return base(CT, *items(4)), canaries


@given(_datasets())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_nesting_keeps_a_canary(made: tuple[Dataset, list[str]]) -> None:
    """Whatever the shape of the dataset, no planted value is left."""
    dataset, canaries = made
    assert leaks(everything(run(dataset, basic_profile())), canaries) == []
