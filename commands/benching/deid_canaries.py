"""Canaries: identifiers by class and carrier, each once in the world, looked for in all that leaves.

1. `patients` makes synthetic patients: instances of many SOP classes in several syntaxes, with a canary for each of
   the identifier classes A to R of 45 CFR 164.514(b)(2)(i) in every carrier: listed attributes at the root and
   1, 3 and 8 sequences deep, private ones, overlays, curves, structured content, graphics, file meta, preamble,
   padding. Beside them stand values that must stay, references from one instance to another, and dates.
2. `measured` de-identifies them, under each profile in turn, and searches every output byte: raw, wide, reversed
   and in base64. It counts what is found by class and carrier, what was lost that should have stayed, UIDs and
   patients that were mapped in two ways, references that point nowhere, intervals that changed; and gives the same
   by the actions of the MIDI-B challenge's scorer (unweighted; data of our own, so no rank in it).

Pixels are not read here. What was quarantined is counted apart: it is no success.
"""

import base64
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import date, timedelta
from operator import attrgetter
from typing import Final, NamedTuple

import pydicom
from rich.progress import Progress

from commands.benching.pages import Figures, console
from consumers.deid.elements import Dataset, Element, dictionary_vr, inflate
from consumers.deid.engine import ProjectKeys, clean_file, load_profile
from consumers.deid.model import Deidentified
from consumers.deid.part10 import file_meta, split_part10
from consumers.deid.profile import Profile
from consumers.deid.profiles import SHIPPED
from consumers.deid.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE, SYNTAXES
from consumers.deid.triage import SOP_CLASSES
from consumers.deid.writer import dataset_bytes
from schemas.errors import Quarantine

#: class -> how its value begins; what follows is a word that is nowhere else
CLASSES: Final = {
    "A name": "Zor", "B place": "Street ", "C date": "", "D telephone": "+49 30 ", "E fax": "Fax ",
    "F e-mail": "m@", "G social security": "SSN ", "H record": "MRN-", "I health plan": "HP", "J account": "AC ",
    "K licence": "LIC", "L vehicle": "B-", "M device": "SN", "N URL": "https://", "O address": "ip ",
    "P biometric": "iris ", "Q photograph": "photo ", "R other": "code ",
}  # fmt: skip
_NAMES: Final = tuple(CLASSES)
_DATE_CLASS: Final = "C date"
_TEXT: Final = ("LO", "LT", "SH", "ST", "UC", "UT")
_CARRIERS: Final = (0x52009229, 0x00209113, 0x00289145)  # no row names them
_DEPTHS: Final = (1, 3, 8)
#: of the listed rows, so many at each depth of each instance; the next instance takes the next ones
_NESTED_ROWS: Final = 24
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_SYNTAXES: Final = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, _DEFLATED)
_KEYS: Final = ProjectKeys.derive(bytes(32), "default", "canaries")
_WINDOW: Final = 360  # days: less than the least offset, so that no moved date is another canary
_ROOT: Final = b"1.2.826.0.1.1924"
_SR: Final = "1.2.840.10008.5.1.4.1.1.88."
#: SOP classes by name: images, and objects without pixels
_KINDS: Final = (
    "CT Image", "Enhanced CT Image", "MR Image", "Enhanced MR Image", "Positron Emission Tomography Image",
    "Nuclear Medicine Image", "Computed Radiography Image", "Digital X-Ray Image - For Presentation",
    "Digital Mammography X-Ray Image - For Presentation", "Breast Tomosynthesis Image", "Ultrasound Image",
    "Ultrasound Multi-frame Image", "X-Ray Angiographic Image", "Secondary Capture Image",
    "Multi-frame Grayscale Byte Secondary Capture Image", "VL Whole Slide Microscopy Image", "Segmentation",
    "Basic Text SR", "Comprehensive SR", "Key Object Selection Document", "Grayscale Softcopy Presentation State",
    "RT Structure Set", "RT Plan", "RT Dose",
)  # fmt: skip
#: what must stay as it is, wherever it stands
KEPT: Final = {
    0x00080008: ("CS", b"ORIGINAL\\PRIMARY\\AXIAL "), 0x00080070: ("LO", b"ACME"), 0x00081090: ("LO", b"SCANNER 3000"),
    0x00180015: ("CS", b"CHEST "), 0x00180022: ("CS", b"HELIX "), 0x00180050: ("DS", b"1.25"), 0x00180060: ("DS", b"120 "),
    0x00180088: ("DS", b"1.5 "), 0x00181100: ("DS", b"360 "), 0x00181151: ("IS", b"220 "), 0x00185100: ("CS", b"HFS "),
    0x00200011: ("IS", b"4 "), 0x00200012: ("IS", b"1 "), 0x00200013: ("IS", b"17"),
    0x00200032: ("DS", b"-180\\-180\\40.5 "), 0x00200037: ("DS", b"1\\0\\0\\0\\1\\0 "), 0x00201041: ("DS", b"40.5"),
    0x00281050: ("DS", b"40"), 0x00281051: ("DS", b"400 "), 0x00281052: ("DS", b"-1024 "), 0x00281053: ("DS", b"1 "),
}  # fmt: skip
_PIXELS: Final = {
    0x00280002: 1, 0x00280010: 2, 0x00280011: 2, 0x00280100: 16, 0x00280101: 16, 0x00280102: 15, 0x00280103: 0,
}  # fmt: skip


class Canary(NamedTuple):
    """A planted value: its class, what carries it, and the bytes that must not be found."""

    kind: str
    carrier: str
    value: bytes


class Made(NamedTuple):
    """One instance with its canaries, and what the checks over a patient need."""

    file: bytes
    canaries: list[Canary]
    patient: str
    sop: str
    reference: str
    study_date: date


class _Sower:
    """Makes canaries, each once."""

    def __init__(self) -> None:
        self._count = 0
        self.sown: list[Canary] = []
        self.day = date(1901, 1, 1)
        self._days = 0

    def begin(self) -> None:
        """Begin an instance."""
        self.sown, self._days = [], 0

    def value(self, carrier: str, vr: str = "LO") -> bytes:
        """Return a value of the next class that is valid for the VR."""
        self._count += 1
        kind = _NAMES[self._count % len(_NAMES)]
        if vr in ("DA", "DT") or (kind == _DATE_CLASS and vr in _TEXT):
            kind = _DATE_CLASS
            self._days += 1
            raw = (self.day + timedelta(self._days % _WINDOW)).strftime("%Y%m%d").encode()
            written = raw + (b"101112" if vr == "DT" else b"")
        elif vr == "UI":
            raw = written = _ROOT + b"%08d" % self._count
        elif vr in ("DS", "IS"):
            raw = written = b"9%08d" % self._count
        else:
            raw = _word(self._count)
            written = raw if vr in ("PN", "SH", "AE", "CS") else CLASSES[kind].encode() + raw
        if kind != _DATE_CLASS or self._days < _WINDOW:
            self.sown.append(Canary(kind, carrier, raw))
        return written

    def element(self, tag: int, carrier: str, vr: str = "") -> Element:
        """Return an element that carries a canary."""
        vr = vr or dictionary_vr(tag)
        return Element(tag, vr, self.value(carrier, vr))


def patients(instances: int) -> Iterator[Made]:
    """Yield so many instances, those of a patient behind each other."""
    sower, rows, classes = _Sower(), _rows(), [_uid(name) for name in _KINDS]
    for number in range(instances):
        patient, kind = divmod(number, len(classes))
        yield _instance(sower, rows, patient, kind, classes[kind])


def measured(instances: int) -> list[Figures]:
    """De-identify so many instances and return what was found."""
    profiles = [load_profile(name) for name in SHIPPED]
    found = _Findings()
    with Progress(console=console) as progress:
        task = progress.add_task("canaries", total=instances)
        for number, made in enumerate(patients(instances)):
            profile = profiles[number // len(_KINDS) % len(profiles)]
            try:
                done = clean_file(made.file, profile, _KEYS, admit_burned_in=True)
            except Quarantine as doubt:
                found.quarantined[doubt.reason] += 1
            else:
                found.add(made, done, profile)
            progress.advance(task)
    return found.figures(instances)


class _Findings:
    def __init__(self) -> None:
        self.quarantined: Counter[str] = Counter()
        self._sown: Counter[tuple[str, str]] = Counter()
        self._leaked: Counter[tuple[str, str]] = Counter()
        self._kept: Counter[bool] = Counter()
        self._uids: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._patients: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._references: list[tuple[str, str]] = []
        self._written: set[str] = set()
        self._dates: dict[str, set[int]] = defaultdict(set)
        self._actions: dict[str, Counter[bool]] = defaultdict(Counter)

    def add(self, made: Made, done: Deidentified, profile: Profile) -> None:
        """Search one output, and note what is compared with others."""
        output = b"".join(
            (
                done.part10,
                _inflated(done),
                done.metadata_json,
                done.manifest_json,
                repr(done.facts).encode(),
                done.patient.encode(),
            )
        )
        for canary in made.canaries:
            place = (canary.kind, canary.carrier)
            self._sown[place] += 1
            leaked = _is_in(output, canary)
            self._leaked[place] += leaked
            self._actions[_action(canary)][not leaked] += 1
        clean = pydicom.dcmread(io.BytesIO(done.part10))
        for tag, (_, value) in KEPT.items():
            self._kept[tag in clean and _text(clean, tag) == value.decode().strip()] += 1
            self._actions["tag_retained"][tag in clean] += 1
            self._actions["text_notnull"][tag in clean and not clean[tag].is_empty] += 1
            self._actions["text_retained"][tag in clean and _text(clean, tag) == value.decode().strip()] += 1
        self._actions["pixels_retained"][clean.PixelData == bytes(8)] += 1
        self._uids[profile.name, made.sop].add(done.sop_instance_uid)
        self._patients[profile.name, made.patient].add(done.patient)
        self._written.add(done.sop_instance_uid)
        self._references.append(
            (made.reference, str(clean.ReferencedSOPSequence[0].ReferencedSOPInstanceUID))
        )
        if "modified_dates" in profile.options:
            moved = pydicom.valuerep.DA(str(clean.StudyDate))
            self._dates[made.patient].add((moved - made.study_date).days if moved else 0)

    def figures(self, instances: int) -> list[Figures]:
        """Return the tables."""
        by_kind, by_carrier = [_line(self._sown, self._leaked, n) for n in (0, 1)]
        sown, leaked = self._sown.total(), self._leaked.total()
        twice = sum(len(mapped) > 1 for mapped in (*self._uids.values(), *self._patients.values()))
        astray = sum(new not in self._written for old, new in self._references if old)
        uneven = sum(len(offsets) != 1 for offsets in self._dates.values())
        self._actions["uid_consistent"].update(len(mapped) == 1 for mapped in self._uids.values())
        self._actions["patid_consistent"].update(len(mapped) == 1 for mapped in self._patients.values())
        total = sum((counts for counts in self._actions.values()), Counter[bool]())
        score = [[name, _share(counts)] for name, counts in sorted(self._actions.items())]
        told = {
            "instances": f"{instances:,}, of them quarantined {self.quarantined.total()} {dict(self.quarantined) or ''}",
            "canaries found of those planted": f"{leaked} of {sown:,}",
            "values lost that had to stay": f"{self._kept[False]} of {self._kept.total():,}",
            "UIDs and patients mapped in two ways": f"{twice} of {len(self._uids) + len(self._patients):,}",
            "references that point nowhere": f"{astray} of {len(self._references):,}",
            "patients whose intervals changed": f"{uneven} of {len(self._dates):,}",
        }
        return [
            Figures(
                "Canaries: what is found in all that leaves", ["", "found"], [[k, v] for k, v in told.items()]
            ),
            Figures("By action", ["action", "right"], [*score, ["all", _share(total)]]),
            Figures("By class", ["class", "found of planted"], by_kind),
            Figures("By carrier", ["carrier", "found of planted"], by_carrier),
        ]


def _inflated(done: Deidentified) -> bytes:
    dataset = split_part10(done.part10)[3]
    return inflate(dataset) if done.transfer_syntax_uid == _DEFLATED else b""


def _share(counts: Counter[bool]) -> str:
    return f"{counts[True]:,} of {counts.total():,}, {100 * counts[True] / max(counts.total(), 1):.3f} %"


def _action(canary: Canary) -> str:
    if canary.kind == _DATE_CLASS:
        return "date_shifted"
    return "uid_changed" if canary.value.startswith(_ROOT) else "text_removed"


def _line(sown: Counter[tuple[str, str]], leaked: Counter[tuple[str, str]], part: int) -> list[list[str]]:
    names = sorted({place[part] for place in sown})
    counts = (
        (n, *(sum(c for p, c in counter.items() if p[part] == n) for counter in (leaked, sown)))
        for n in names
    )
    return [[str(name), f"{found} of {planted:,}"] for name, found, planted in counts]


def _rows() -> list[int]:
    """Return the listed rows that carry text, dates, numbers or UIDs and that no profile keeps as they are."""
    basic, kept = load_profile("basic"), set[int]()
    for name in SHIPPED:
        profile = load_profile(name)
        kept |= {t for t, a in profile.above.items() if a == "K" or dictionary_vr(t) in ("TM", "CS", "AS")}
    vrs = {*_TEXT, "PN", "AE", "DA", "DT", "DS", "IS", "UI"}
    # of the patient, and not of each instance: the identifiers and who issued them
    fixed = {0x00080018, 0x0020000D, 0x0020000E, 0x00080020, 0x00100010, 0x00100020, 0x00100021, 0x00080201}
    return [
        t for t in sorted(basic.rows) if t >> 16 >= 8 and t not in kept | fixed and dictionary_vr(t) in vrs
    ]


def _uid(name: str) -> str:
    wanted = (f"{name} Storage", name.replace(" - ", " Storage - "), f"{name} State Storage")
    return next(uid for uid, known in SOP_CLASSES.items() if known.name in wanted)


def _word(number: int) -> bytes:
    """Return a word of ten letters that is nowhere else."""
    letters = []
    for _ in range(7):
        number, rest = divmod(number, 26)
        letters.append(97 + rest)
    return b"qz" + bytes(letters) + b"x"


def _instance(sower: _Sower, rows: list[int], patient: int, kind: int, sop_class: str) -> Made:
    sower.begin()
    sower.day = date(1903 + patient % 20, 1, 1)
    sop, before = (f"1.2.826.0.1.3680043.77.{patient}.{n}" for n in (kind + 1, max(kind, 1)))
    study_date = date(1990, 1, 1) + timedelta(patient * 7 + kind // 12 * 31)
    name = b"".join((sower.value("PN group 1", "PN"), b"^", sower.value("PN group 1", "PN")))
    reference = (Element(0x00081150, "UI", sop_class.encode()), Element(0x00081155, "UI", before.encode()))
    elements = {
        0x00080016: Element(0x00080016, "UI", sop_class.encode()),
        0x00080018: Element(0x00080018, "UI", sop.encode()),
        0x00080020: Element(0x00080020, "DA", study_date.strftime("%Y%m%d").encode()),
        0x00080060: Element(0x00080060, "CS", b"OT"),
        0x00081199: Element(0x00081199, "SQ", items=(reference,)),
        0x00100010: Element(0x00100010, "PN", name),
        0x00100020: Element(0x00100020, "LO", b"Q%07dP" % patient),
        0x0020000D: Element(0x0020000D, "UI", b"1.2.826.0.1.3680043.78.%d.%d" % (patient, kind // 12)),
        0x0020000E: Element(0x0020000E, "UI", b"1.2.826.0.1.3680043.79.%d.%d" % (patient, kind)),
        **{tag: Element(tag, vr, value) for tag, (vr, value) in KEPT.items()},
        **{tag: Element(tag, "US", n.to_bytes(2, "little")) for tag, n in _PIXELS.items()},
        0x00280004: Element(0x00280004, "CS", b"MONOCHROME2"),
        0x7FE00010: Element(0x7FE00010, "OW", bytes(8)),
    }
    for tag in rows:
        if tag not in elements:
            elements[tag] = sower.element(tag, "root")
    for each in (*_private(sower), *_graphics(sower), *_nested(sower, rows, patient * len(_KINDS) + kind)):
        elements[each.tag] = each
    if sop_class.startswith(_SR):
        elements[0x0040A730] = _content(sower)
    elements[0xFFFCFFFC] = Element(0xFFFCFFFC, "OB", sower.value("padding"))
    syntax = _SYNTAXES[(patient + kind) % len(_SYNTAXES)]
    return Made(
        _file(sower, elements, sop_class, sop, syntax),
        list(sower.sown),
        str(patient),
        sop,
        before,
        study_date,
    )


def _file(sower: _Sower, elements: dict[int, Element], sop_class: str, sop: str, uid: str) -> bytes:
    body = dataset_bytes(tuple(elements[tag] for tag in sorted(elements)), SYNTAXES[uid])
    meta = file_meta(sop_class, sop, uid)
    title = sower.value("file meta", "AE")
    entity = b"\x02\x00\x16\x00AE" + len(title).to_bytes(2, "little") + title
    preamble = sower.value("preamble").ljust(128, b"\x00")[:128]
    return preamble + meta[128:] + entity + body


def _private(sower: _Sower) -> Iterator[Element]:
    yield Element(0x00090010, "LO", b"ACME 1.0")
    yield sower.element(0x00091001, "private", "LO")
    yield sower.element(0x00091002, "private UN", "UN")
    yield Element(0x00091003, "SQ", items=((sower.element(0x00080080, "private SQ"),),))
    yield Element(0x00091004, "OB", b"\x00\x01" + sower.value("private OB") + b"\x00")
    yield Element(0x00190010, "LO", b"SIEMENS MR HEADER ")
    yield sower.element(0x00191008, "private of a known creator", "LO")
    yield sower.element(0x00211001, "private without a creator", "LO")


def _graphics(sower: _Sower) -> Iterator[Element]:
    text = sower.element(0x00700006, "graphic annotation", "ST")
    yield Element(0x00700001, "SQ", items=((Element(0x00700008, "SQ", items=((text,),)),),))
    yield Element(0x00880200, "SQ", items=((Element(0x7FE00010, "OW", sower.value("icon")),),))
    yield Element(
        0x04000561,
        "SQ",
        items=((Element(0x04000550, "SQ", items=((sower.element(0x00081050, "original attributes"),),)),),),
    )
    yield sower.element(0x50003000, "curve", "OW")
    yield sower.element(0x60003000, "overlay", "OW")
    yield sower.element(0x60004000, "overlay comments", "LT")


def _nested(sower: _Sower, rows: list[int], turn: int) -> Iterator[Element]:
    found: Dataset = ()
    for depth in sorted(_DEPTHS, reverse=True):
        start = (turn * len(_DEPTHS) + depth) * _NESTED_ROWS
        chosen = sorted({rows[(start + n) % len(rows)] for n in range(_NESTED_ROWS)})
        leaves = tuple(sower.element(tag, f"{depth} deep") for tag in chosen)
        item = tuple(sorted((*leaves, *found), key=attrgetter("tag")))
        below = max((d for d in _DEPTHS if d < depth), default=0)
        for level in range(depth, below, -1):
            item = (Element(_CARRIERS[level % len(_CARRIERS)], "SQ", items=(item,)),)
        found = item
    yield from found


def _content(sower: _Sower) -> Element:
    def item(code: bytes, kind: bytes, *value: Element) -> Dataset:
        name = (
            Element(0x00080100, "SH", code),
            Element(0x00080102, "SH", b"DCM"),
            Element(0x00080104, "LO", b"x"),
        )
        return (Element(0x0040A040, "CS", kind), Element(0x0040A043, "SQ", items=(name,)), *value)

    items = (
        item(b"121008", b"PNAME", sower.element(0x0040A123, "content PNAME", "PN")),
        item(b"121071", b"TEXT", sower.element(0x0040A160, "content TEXT", "UT")),
        item(b"121022", b"TEXT", sower.element(0x0040A160, "content TEXT", "UT")),
        item(b"121125", b"DATE", sower.element(0x0040A121, "content DATE", "DA")),
        item(b"121012", b"UIDREF", sower.element(0x0040A124, "content UIDREF", "UI")),
    )
    return Element(0x0040A730, "SQ", items=items)


def _is_in(output: bytes, canary: Canary) -> bool:
    if (
        canary.kind == _DATE_CLASS
    ):  # eight digits stand in a long UID by chance; a date begins where no digit is
        return re.search(rb"(?<![0-9])" + canary.value, output) is not None
    return any(form in output for form in _disguises(canary.value))


def _disguises(value: bytes) -> Iterator[bytes]:
    yield from (value, value[::-1], b"\x00".join(value[n : n + 1] for n in range(len(value))))
    for phase in range(3):
        whole = base64.b64encode(b"\x00" * phase + value)
        yield whole[4 if phase else 0 : -4]


def _text(clean: pydicom.Dataset, tag: int) -> str:
    value = clean[tag].value
    return (
        "\\".join(map(str, value)) if isinstance(value, (list, pydicom.multival.MultiValue)) else str(value)
    )
