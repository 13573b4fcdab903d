"""The table of PS3.15 E.1-1, row by row: a value is planted for each, at the root and nested, and looked for.

`ours` plants them in every SOP class that may pass and asks of each row whether its action was done: removed is
absent, emptied is empty, a dummy is there and is another value, a UID is the project's. `planted_file` makes the
file in which any tool's output is searched for the values themselves.
"""

import io
import warnings
from collections import Counter, defaultdict
from typing import Final

import pydicom

from commands.benching.pages import Figures
from consumers.deid.elements import Dataset, Element, dictionary_vr
from consumers.deid.engine import IntakeContext, Profile, ProjectKeys, basic_profile, deidentify
from consumers.deid.part10 import file_meta
from consumers.deid.profile import Action, Actions
from consumers.deid.syntaxes import EXPLICIT_LITTLE, SYNTAXES
from consumers.deid.triage import SOP_CLASSES
from consumers.deid.writer import dataset_bytes
from schemas.errors import Quarantine

DEPTHS: Final = (0, 1, 3, 8)
CT: Final = "1.2.840.10008.5.1.4.1.1.2"
_KEYS: Final = ProjectKeys.derive(bytes(32), "default", "bench")
_STUDY, _SERIES, _SOP = 0x0020000D, 0x0020000E, 0x00080018
#: no row names them, and they may stand in each other
_CARRIERS: Final = (0x52009229, 0x00209113, 0x00289145)
#: at the root: what the instance needs to be one, and the pseudonyms
_ROOT: Final = frozenset({_STUDY, _SERIES, _SOP, 0x00100010, 0x00100020})
_NEVER: Final = frozenset({"document", "opaque", "directory"})
_DATES: Final = {"DA": "19{n:02d}0{m}17", "TM": "{n:02d}1{m}17.123456", "DT": "19{n:02d}0{m}17101112.123456"}
_BINARY: Final = frozenset({"US", "SS", "UL", "SL", "FL", "FD", "OB", "OW"})


def admissible() -> list[str]:
    """Return the SOP classes that may pass, each triage aside."""
    return [uid for uid, known in SOP_CLASSES.items() if known.triage not in _NEVER]


def ours(profile: Profile, classes: list[str]) -> Figures:
    """Return, by depth, how many rows of how many SOP classes had the right action."""
    right: Counter[int] = Counter()
    asked: Counter[int] = Counter()
    wrong: dict[int, set[str]] = defaultdict(set)
    for sop_class in classes:
        for depth in DEPTHS:
            outcome = row_outcomes(profile, sop_class, depth)
            for tag, good in outcome.items():
                asked[depth] += 1
                right[depth] += good
                if not good:
                    wrong[depth].add(f"{tag:08X}")
    lines = [
        [
            str(depth), str(len(classes)), f"{right[depth]:,} of {asked[depth]:,}",
            f"{100 * right[depth] / asked[depth]:.2f} %", " ".join(sorted(wrong[depth])[:5]),
        ]
        for depth in DEPTHS
    ]  # fmt: skip
    head = ["sequences deep", "SOP classes", "rows with the right action", "that is", "wrong"]
    return Figures("The table in every SOP class that may pass: ours", head, lines)


def planted_file(depth: int) -> tuple[bytes, list[bytes]]:
    """Return a CT file with every row planted so deep, and the values planted."""
    planted = _planted(basic_profile(), depth)
    meta = file_meta(CT, "1.2.3.4.1003", EXPLICIT_LITTLE)
    return meta + _dataset(CT, depth, planted), [canary.encode() for _, canary in planted.values()]


def row_outcomes(
    profile: Profile, sop_class: str, depth: int, expected: Actions | None = None
) -> dict[int, bool]:
    """Return for each row, by tag, whether its action was done: the profile's own, or what is expected of it."""
    expected = expected or profile.actions(sop_class)
    planted = _planted(basic_profile(), depth)
    context = IntakeContext(
        project="default",
        transfer_syntax_uid=EXPLICIT_LITTLE,
        sop_class_uid=sop_class,
        sop_instance_uid="",
        admit_burned_in=True,
    )
    try:
        part10 = deidentify(_dataset(sop_class, depth, planted), context, profile, _KEYS).part10
    except Quarantine:
        return dict.fromkeys(planted, False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        item: pydicom.Dataset = pydicom.dcmread(io.BytesIO(part10))
        for carrier in _carriers(depth):
            item = item[carrier].value[0]
        return {
            tag: _right(expected.of(tag, nested=depth > 0), item, tag, canary)
            for tag, (_, canary) in planted.items()
        }


def _right(action: Action, item: pydicom.Dataset, tag: int, canary: str) -> bool:
    # What no dictionary knows cannot be judged nor made a dummy of, and groups before 0008 have no place here.
    if action == "X" or dictionary_vr(tag) == "UN" or tag >> 16 < 8:
        return tag not in item
    if tag not in item:
        return False
    if action == "Z":
        return bool(item[tag].is_empty)
    if dictionary_vr(tag) == "SQ":
        return canary not in str(item[tag])
    if action == "U":
        return bool(item[tag].value == _KEYS.pseudonymous_uid(canary))
    return not item[tag].is_empty and canary not in str(item[tag].value)


def _carriers(depth: int) -> list[int]:
    return [_CARRIERS[level % len(_CARRIERS)] for level in range(depth)]


def _planted(profile: Profile, depth: int) -> dict[int, tuple[Element, str]]:
    """Return an element and its value for each row that can stand there: not in a group before 0008 at the root."""
    rows = (tag for tag in sorted(profile.rows) if tag >> 16 >= 8)
    return {tag: _plant(tag, n) for n, tag in enumerate(rows) if depth or tag not in _ROOT}


def _plant(tag: int, number: int) -> tuple[Element, str]:
    vr = dictionary_vr(tag)
    if vr == "SQ":
        canary = _canary(number, "UI")  # a reference: two rows keep it and replace its UIDs
        return Element(tag, "SQ", items=((Element(0x00081155, "UI", canary.encode()),),)), canary
    vr = "LO" if vr == "UN" else vr  # some rows are younger than the dictionary
    canary = _canary(number, vr)
    return Element(tag, vr, canary.encode()), canary


def _canary(number: int, vr: str) -> str:
    if vr in _DATES:
        return _DATES[vr].format(n=number % 10 + 10, m=number // 10 % 9 + 1)
    if vr == "UI":
        return f"1.2.826.0.1.{7700000 + number}"
    if vr in _BINARY:
        return f"CN{number:06d}"
    return f"77{number:06d}" if vr in ("IS", "DS") else f"CANARY{number:05d}"


def _dataset(sop_class: str, depth: int, planted: dict[int, tuple[Element, str]]) -> bytes:
    inner: Dataset = tuple(element for element, _ in planted.values())
    for carrier in reversed(_carriers(depth)):
        inner = (Element(carrier, "SQ", items=(inner,)),)
    elements = {element.tag: element for element in (*_base(sop_class), *inner)}
    return dataset_bytes(tuple(elements[tag] for tag in sorted(elements)), SYNTAXES[EXPLICIT_LITTLE])


def _base(sop_class: str) -> Dataset:
    texts = {
        0x00080008: ("CS", "ORIGINAL\\PRIMARY\\AXIAL"), 0x00080016: ("UI", sop_class), _SOP: ("UI", "1.2.3.4.1003"),
        0x00080060: ("CS", "OT"), 0x00100010: ("PN", "Doe^Jane"), 0x00100020: ("LO", "PID-4711"),
        _STUDY: ("UI", "1.2.3.4.1001"), _SERIES: ("UI", "1.2.3.4.1002"), 0x00280004: ("CS", "MONOCHROME2"),
    }  # fmt: skip
    numbers = {
        0x00280002: 1, 0x00280010: 2, 0x00280011: 2, 0x00280100: 16, 0x00280101: 16, 0x00280102: 15, 0x00280103: 0,
    }  # fmt: skip
    return (
        *(Element(tag, vr, value.encode()) for tag, (vr, value) in texts.items()),
        *(Element(tag, "US", value.to_bytes(2, "little")) for tag, value in numbers.items()),
        Element(0x7FE00010, "OW", bytes(8)),
    )
