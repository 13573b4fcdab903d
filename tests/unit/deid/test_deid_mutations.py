"""Switched off, any one row, option, pattern or rule is noticed: the checks of the table can fail."""

import io
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace

import pydicom
import pytest
from planting import CT, KEYS, base, context, nested, text

from consumers.deid import admission, cleaning, engine, levels, residual, rules
from consumers.deid.elements import Dataset, Element, dictionary_vr
from consumers.deid.engine import Profile, deidentify, load_profile
from consumers.deid.syntaxes import EXPLICIT_LITTLE, SYNTAXES
from consumers.deid.writer import dataset_bytes
from schemas.errors import Quarantine

#: rows that no dataset can carry to the rules, and those that we write ourselves
_UNREACHED = {0x00001000, 0x00001001, 0x00020003, 0x00041511, 0x00100010, 0x00100020}
#: rows whose attribute no dictionary knows yet: removed whatever their code
_YOUNG = {tag for tag in load_profile("basic").rows if dictionary_vr(tag) == "UN"}
_TOGETHER = 40  # rows in a dataset: small ones are quick
_VALUES = {
    "AS": "034Y", "DA": "20240229", "DS": "7.5", "DT": "20240229101112", "IS": "7", "TM": "101112",
    "UI": "1.2.3.4.5678",
}  # fmt: skip


def _planted(tag: int) -> Element:
    vr = dictionary_vr(tag)
    if vr == "SQ":
        return Element(tag, "SQ", items=((text(0x00180024, "CHEST", "SH"),),))
    if vr in ("US", "SL", "FL", "FD", "UL", "SS", "OB", "OW", "UN"):
        return Element(tag, vr, b"\x01\x02\x03\x04\x05\x06\x07\x08")
    return text(
        tag, "Q77889911" if vr == "PN" or tag in residual.IDENTIFYING else _VALUES.get(vr, "CHEST MILLER")
    )


def _dataset(tags: list[int]) -> Dataset:
    root = [_planted(tag) for tag in tags if tag not in (0x00080018, 0x0020000D, 0x0020000E, 0x00080005)]
    more = (
        Element(0x00091001, "LO", b"words"),
        Element(0x50000010, "US", b"\x01\x00"),
        Element(0x60003000, "OW", b"\x01\x00"),
    )
    return base(CT, *root, nested(*root), *more, Element(0x60004000, "LT", b"words"))


def _clean(raw: bytes, profile: Profile) -> pydicom.Dataset | str:
    levels.forget()
    try:
        return pydicom.dcmread(io.BytesIO(deidentify(raw, context(), profile, KEYS).part10))
    except Quarantine as stopped:
        return str(stopped)


def _said(dataset: pydicom.Dataset | str) -> object:
    if isinstance(dataset, str):
        return dataset
    dataset.pop("DeidentificationMethod", None)  # names the digest of the profile
    return dataset.to_json_dict()


def _cleaned(profile: Profile) -> set[int]:
    """Rows that an option cleans: of text and dates, for times and ages of no great age stay as they are."""
    kinds = ("DA", "DT", "LO", "LT", "SH", "ST", "UC", "UT")
    return {t for t, a in profile.above.items() if a == "C" and dictionary_vr(t) in kinds and t != 0x00080201}


@pytest.mark.parametrize("name", ["basic", "research"])
def test_each_row_is_noticed(name: str) -> None:
    """A dataset that has every row, at the root and nested, comes out otherwise without any one of them."""
    profile = load_profile(name)
    tags = sorted((_cleaned(profile) or profile.rows.keys()) - _UNREACHED - _YOUNG)
    survivors = []
    for some in (tags[n : n + _TOGETHER] for n in range(0, len(tags), _TOGETHER)):
        raw = dataset_bytes(_dataset(some), SYNTAXES[EXPLICIT_LITTLE])
        right = _said(_clean(raw, profile))
        assert not isinstance(right, str)
        survivors += [f"{tag:08X}" for tag in some if _said(_clean(raw, profile.without(tag))) == right]
    print(f"{len(tags)} rows, {len(survivors)} survive: {survivors}")
    assert survivors == []


def test_each_pattern_is_noticed() -> None:
    """So it is without private attributes, curves or overlays; the row of comments is within that of overlays."""
    profile = load_profile("basic")
    raw = dataset_bytes(_dataset([]), SYNTAXES[EXPLICIT_LITTLE])
    right = _said(_clean(raw, profile))
    survivors = [n for n in profile.patterns if _said(_clean(raw, profile.without(patterns=(n,)))) == right]
    assert survivors == ["OverlayComments"]


def test_each_option_is_noticed() -> None:
    """Each option of `research` changes what comes out."""
    profile = load_profile("research")
    tags = sorted(profile.rows.keys() - _UNREACHED - _YOUNG)
    private = (Element(0x00190010, "LO", b"SIEMENS MR HEADER "), Element(0x0019100C, "IS", b"1000"))
    raw = dataset_bytes(
        base(CT, *(_planted(t) for t in tags if t >> 16 > 0x20), *private), SYNTAXES[EXPLICIT_LITTLE]
    )
    right = _said(_clean(raw, profile))
    less = (replace(profile, private=frozenset()), replace(profile, above={}), replace(profile, rows={}))
    assert all(_said(_clean(raw, other)) != right for other in less)


def _broken_rules() -> Iterator[tuple[str, object, str, Callable[..., object]]]:
    yield "values are not dummied", rules, "dummy", lambda element: element
    yield "UIDs are not mapped", rules, "map_uids", lambda value, keys: bytes(value)
    yield "unreadable elements stay", levels, "readable", lambda element: True
    yield "ages are not capped", cleaning, "capped_age", lambda text: text
    yield "dates are not moved", cleaning, "shifted_date", lambda text, days: text
    yield "text is not cleaned", cleaning, "clean_text", lambda text, days, more: text
    yield "nothing is searched", engine, "check_residual", lambda clean, names: None
    yield "names are not collected", residual, "names_in", lambda element, encodings: frozenset()
    yield "content items are not judged", levels, "item_action", lambda item, options: "K"
    yield "duplicates of a UID are not refused", engine, "check_uids", lambda header, context: None
    yield "bytes are not searched", engine, "check_output", lambda steady, other, names: None
    yield "burned-in text is not judged", admission, "triage", lambda *args, **kwargs: None
    yield "pixels are not checked", admission, "check_pixels", lambda *args: None


def _probes() -> list[bytes]:
    person = (text(0x0040A040, "PNAME"), Element(0x0040A123, "PN", b"Doe^Jane"))
    elements = (
        text(0x00101010, "097Y"), text(0x00080020, "20240229"), text(0x00081030, "CHEST Miller"),
        Element(0x00081140, "SQ", items=((text(0x00081155, "1.2.3.4.77"),),)),
        text(0x00081050, "Doe^Anna"), Element(0x0018FFFF, "LO", b"of no dictionary"),
    )  # fmt: skip
    sr = "1.2.840.10008.5.1.4.1.1.88.11"
    us = "1.2.840.10008.5.1.4.1.1.6.1"
    datasets = [
        base(CT, *elements),
        base(sr, Element(0x0040A730, "SQ", items=(person, (text(0x0040A040, "TEXT"),)))),
        base(CT, text(0x00180024, "Doe Jane 4711")),
        base(CT, text(0x00100010, "Mustermann"), text(0x00181250, b64encode(b"Mustermann").decode())),
        base(CT, text(0x0020000D, "1.2.x")),
        base(us),
        base(CT, Element(0x7FE00010, "OW", bytes(2))),
        base(CT, Element(0x00080023, "DA", b"")),
    ]
    return [dataset_bytes(d, SYNTAXES[EXPLICIT_LITTLE]) for d in datasets]


@pytest.mark.parametrize(
    ("what", "module", "name", "broken"), list(_broken_rules()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_each_rule_is_noticed(
    monkeypatch: pytest.MonkeyPatch, what: str, module: object, name: str, broken: Callable[..., object]
) -> None:
    """Each rule that is replaced by doing nothing changes the outcome of a probe."""
    profiles = [load_profile("basic"), load_profile("research")]
    right = [_said(_clean(raw, profile)) for raw in _probes() for profile in profiles]
    monkeypatch.setattr(module, name, broken)
    assert [_said(_clean(raw, profile)) for raw in _probes() for profile in profiles] != right, what
