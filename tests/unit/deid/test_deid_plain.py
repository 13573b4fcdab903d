"""The engine and the plain one on pydicom give the same dataset, element for element, and the same digest."""

import contextlib
import dataclasses
import struct
import warnings
from collections import Counter
from operator import attrgetter
from pathlib import Path
from random import Random

import plain
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from planting import CT, KEYS, base, text
from pydicom.datadict import DicomDictionary

from consumers.deid.elements import TEXT_VRS, Dataset, Element, dictionary_vr
from consumers.deid.engine import Profile, basic_profile, clean_file, load_profile
from consumers.deid.part10 import file_meta
from consumers.deid.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE, SYNTAXES
from consumers.deid.writer import dataset_bytes, deflated, element_bytes
from schemas.errors import Quarantine

DEFLATED = "1.2.840.10008.1.2.1.99"
BRAIN_STEP = 32  # of 384 slices of one series, 12 tell the same
CLASSES = (CT, "1.2.840.10008.5.1.4.1.1.1.2", "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.66.4")
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_PIXELS = range(0x7FE00000, 0x7FE10000)
_TAGS = [
    tag
    for tag in DicomDictionary
    if 0x00080000 < tag < 0xFFFA0000 and tag & 0xFFFF and tag not in _PIXELS and tag >> 16 != 0x0028
]
_SEQUENCES = [tag for tag in _TAGS if dictionary_vr(tag) == "SQ"]
_LISTED = [tag for tag in basic_profile().rows if tag in set(_TAGS)]
_FIXED = frozenset(element.tag for element in base()) | {0x00080005}
#: the plain engine keeps nothing private
_RESEARCH = load_profile("research")
PROFILES = [
    basic_profile(),
    load_profile("safe-harbor"),
    dataclasses.replace(
        _RESEARCH, name="plain", options=_RESEARCH.options - {"safe_private"}, private=frozenset()
    ),
]
_VALUES = {
    "AS": b"034Y", "DA": b"20210304", "DS": b"1.5\\-2 ", "DT": b"20210304112233", "IS": b"3\\7 ", "TM": b"112233",
    "AT": b"\x08\x00\x20\x00",
}  # fmt: skip


def _both(file: bytes, profile: Profile) -> tuple[list[str], bool]:
    """What the two engines' datasets differ in, and whether they agree on the content."""
    fast = clean_file(file, profile, KEYS, admit_burned_in=True)
    slow = plain.deidentify(file, profile, KEYS, fast.patient, fast.vault.date_offset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        differences = list(plain.differences(slow, plain.read(fast.part10)))
        # In big endian the plain digest, which takes values as they are, is another.
        same = fast.transfer_syntax_uid == _BIG_ENDIAN or plain.content_id(file) == fast.content_id
    return differences, same


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_every_shared_file_comes_out_alike(dicom_files: list[Path], profile: Profile) -> None:
    """Each file that passes is the same dataset by both engines, and has the same content."""
    brain = [path for path in dicom_files if "brain-mri" in path.parts]
    outcomes: Counter[str] = Counter()
    for path in [p for p in dicom_files if "brain-mri" not in p.parts] + brain[::BRAIN_STEP]:
        try:
            differences, same = _both(path.read_bytes(), profile)
        except Quarantine:
            outcomes["quarantined"] += 1
            continue
        assert differences == [], path
        assert same, path
        outcomes["alike"] += 1
    print(dict(outcomes))
    assert outcomes["alike"] > 300


@given(st.integers(0, 1 << 32))
@example(9172964)  # an offset from UTC that is none
@settings(max_examples=100, deadline=None)
def test_random_datasets_come_out_alike(seed: int) -> None:
    """Any attributes of the dictionary and private ones, any nesting, lengths and little endian syntax."""
    random = Random(seed)
    made = base(random.choice(CLASSES), *_items(random, depth=4, root=True))
    uid = random.choice((IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED))
    body = _encoded(made, uid, random)
    meta = file_meta(str(bytes(_value(made, 0x00080016)), "ascii"), "1.2.3.4.1003", uid)
    with contextlib.suppress(Quarantine):
        file = meta + (deflated(body) if uid == DEFLATED else body)
        differences, same = _both(file, random.choice(PROFILES))
        assert differences == []
        assert same


def test_the_comparison_sees_a_difference(profile: Profile) -> None:
    """One row switched off in one of the two engines shows, at the root and three deep."""
    element = text(0x00081030, "CHEST")
    file = file_meta(CT, "1.2.3.4.1003", EXPLICIT_LITTLE) + dataset_bytes(
        base(CT, element, Element(0x52009229, "SQ", items=((element,),))), SYNTAXES[EXPLICIT_LITTLE]
    )
    slow = plain.deidentify(file, profile.without(0x00081030), KEYS, "p")
    differences = list(plain.differences(slow, plain.deidentify(file, profile, KEYS, "p")))
    assert [d.split(" only")[0] for d in differences[:1]] == ["(0008,1030)"]
    assert any(d.startswith("(5200,9229)[0](0008,1030)") for d in differences)


def _value(dataset: Dataset, tag: int) -> bytes:
    return next(bytes(e.value) for e in dataset if e.tag == tag)


def _items(random: Random, depth: int, *, root: bool = False) -> Dataset:
    tags = set(random.sample(_TAGS, random.randint(0, 6)) + random.sample(_LISTED, random.randint(0, 6)))
    if depth:
        tags |= set(random.sample(_SEQUENCES, random.randint(0, 3)))
    private = {random.choice((0x0009, 0x0029, 0x7FE1)) << 16 | random.randint(1, 0xFFFF) for _ in range(2)}
    found = [_element(random, tag, depth) for tag in tags | private]
    return tuple(sorted((e for e in found if not (root and e.tag in _FIXED)), key=attrgetter("tag")))


def _element(random: Random, tag: int, depth: int) -> Element:
    vr = dictionary_vr(tag)
    if (tag >> 16) & 1:
        vr = random.choice(("LO", "OB", "US", "SQ", "UN"))
    if vr == "SQ":
        items = tuple(_items(random, depth - 1) for _ in range(random.randint(0, 2))) if depth else ()
        return Element(tag, "SQ", items=items)
    if random.random() < 0.1:
        return Element(tag, vr)
    if vr == "UI":
        return text(tag, "\\".join(f"1.2.3.{random.randint(100, 999)}" for _ in range(random.randint(1, 2))))
    if vr in TEXT_VRS:
        words = (
            random.choice(("", "AX T1 ", "Chest ", "20210304 Dr. Hand 5mm ")) + f"W{random.randint(100, 999)}"
        )
        return Element(tag, vr, _VALUES.get(vr) or words[:16].rstrip().encode())
    count = random.randint(1, 3)
    if vr in ("FD", "FL"):  # pydicom does not give every NaN back as it was
        return Element(tag, vr, struct.pack(f"<{2 * count}f", *(random.random() for _ in range(2 * count))))
    return Element(tag, vr, _VALUES.get(vr) or random.randbytes(8 * count))


def _encoded(dataset: Dataset, uid: str, random: Random) -> bytes:
    """Encode in little endian with lengths of sequences and items left undefined now and then."""
    syntax = SYNTAXES[uid]
    out = b""
    for element in dataset:
        if element.items is None:
            out += b"".join(element_bytes(element, syntax))
            continue
        body = b""
        for item in element.items:
            inner = _encoded(item, uid, random)
            open_ended = random.random() < 0.5
            body += struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF if open_ended else len(inner)) + inner
            body += struct.pack("<HHL", 0xFFFE, 0xE00D, 0) if open_ended else b""
        open_ended = random.random() < 0.5
        length = struct.pack("<L", 0xFFFFFFFF if open_ended else len(body))
        head = struct.pack("<HH", element.tag >> 16, element.tag & 0xFFFF)
        out += head + (b"SQ\0\0" if syntax.explicit else b"") + length + body
        out += struct.pack("<HHL", 0xFFFE, 0xE0DD, 0) if open_ended else b""
    return out
