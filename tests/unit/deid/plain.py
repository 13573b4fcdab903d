"""De-identification as one would write it on pydicom, for comparison only: no bounds, no speed, no triage.

It shares with the engine the tables (`Profile.actions`, content items), the keys, the dummies and the words that
may stay, and nothing else: reading, walking, what an action does, and writing are pydicom's or said here again.
Private elements go, safe or not. `differences` compares two datasets element for element.
"""

import csv
import io
import re
import struct
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import pydicom
from blake3 import blake3
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_sequence
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag
from pydicom.uid import UID_dictionary

from consumers.deid.dummies import CODED, DUMMIES
from consumers.deid.engine import Profile, ProjectKeys
from consumers.deid.options import codes_of
from consumers.deid.profile import Actions
from consumers.deid.pseudonyms import method_text
from consumers.deid.words import clean_text

TEXT = frozenset(
    ["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"]
)
_ITEM = b"\xfe\xff\x00\xe0"
_END = b"\xfe\xff\xdd\xe0"
PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})


def read(part10: bytes) -> pydicom.FileDataset:
    """Read a file with pydicom, its warnings (which quote values) left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(io.BytesIO(part10), force=True)


class Rules(NamedTuple):
    """What is applied: the table, keys, and by how many days dates move (None: the profile moves none)."""

    actions: Actions
    keys: ProjectKeys
    days: int | None

    @property
    def profile(self) -> Profile:
        """Whose table it is."""
        return self.actions.profile


def deidentify(
    part10: bytes, profile: Profile, keys: ProjectKeys, patient: str, days: int | None = None
) -> Dataset:
    """Return the clean dataset, `patient` being the pseudonym."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        received = read(part10)
        rules = Rules(profile.actions(str(received.SOPClassUID)), keys, days)
        clean = _clean(received, rules, nested=False, hollow=False)
        clean.PatientName = clean.PatientID = patient
        clean.PatientIdentityRemoved = "YES"
        clean.LongitudinalTemporalInformationModified = "REMOVED" if days is None else "MODIFIED"
        _append_method(clean, profile)
        return clean


def content_id(part10: bytes) -> str:
    """Return the content digest of a file in little endian, by its definition (`consumers.deid.digest`)."""
    digest = blake3()
    dataset = read(part10)
    _digest(digest, dataset, b"", root=True)
    return "1e" + digest.hexdigest()


def differences(one: Dataset, other: Dataset, where: str = "") -> Iterator[str]:
    """Yield what differs between two datasets: a tag of one only, another VR, another value, at any level."""
    for tag in sorted(set(one.keys()) | set(other.keys())):
        here = f"{where}{tag}"
        if tag not in one or tag not in other:
            yield f"{here} only in {'the second' if tag in other else 'the first'}"
            continue
        a, b = one[tag], other[tag]
        if a.VR != b.VR:
            yield f"{here} {a.VR} and {b.VR}"
        elif a.VR == "SQ":
            if len(a.value) != len(b.value):
                yield f"{here} {len(a.value)} and {len(b.value)} items"
            for number, (x, y) in enumerate(zip(a.value, b.value, strict=False)):
                yield from differences(x, y, f"{here}[{number}]")
        elif _comparable(a) != _comparable(b):
            yield f"{here} {a.value!r} and {b.value!r}"


def _comparable(element: DataElement) -> object:
    value = element.value
    if value is None or value == "" or value == b"" or (hasattr(value, "__len__") and len(value) == 0):
        return None
    return value.rstrip(b"\x00 ") if isinstance(value, bytes) else str(value)


def _clean(received: Dataset, rules: Rules, *, nested: bool, hollow: bool) -> Dataset:
    clean, actions, keys = Dataset(), rules.actions, rules.keys
    for tag in list(received.keys()):
        element = received[tag]
        known = _known_vr(tag)
        if tag.group < 8 or tag.element == 0 or (known == "UN" and not tag.is_private):
            continue
        if known == "SQ" and element.VR != "SQ" and not element.is_empty:
            continue  # a sequence that cannot be read as one
        action = actions.of(int(tag), nested=nested)
        if action == "C" and (element.VR != "SQ" or known != "SQ"):
            kept = None if hollow or element.VR == "SQ" else _kept_value(element, rules)
            if kept is not None:
                clean.add_new(tag, element.VR, kept)
                continue
            action = actions.strict(int(tag), nested=nested)
        if action == "X" or (element.VR == "UN" and action == "K"):
            continue
        if element.VR == "SQ":
            value = _clean_items(element, action, rules, hollow=hollow)
            clean.add_new(tag, "SQ", value)
        elif action == "Z":
            clean.add_new(tag, element.VR, None)
        elif action == "U" or ((action == "D" or hollow) and element.VR == "UI"):
            clean.add_new(tag, "UI", _mapped(element, keys))
        elif action == "D" or (hollow and element.VR != "CS"):
            clean.add(_dummy(element))
        else:
            clean.add(element)
    return clean


def _clean_items(element: DataElement, action: str, rules: Rules, *, hollow: bool) -> list[Dataset]:
    items: list[Dataset] = list(element.value or [])
    if action == "Z":
        return []
    if action == "D" or (action in ("K", "C") and hollow):
        return [_clean(item, rules, nested=True, hollow=True) for item in items[:1]]
    found = [_clean(item, rules, nested=True, hollow=False) for item in items]
    if "clean_structured_content" in rules.profile.options:
        return [item for item in found if _stays(item, rules.profile.options)]
    return found


def _stays(item: Dataset, options: frozenset[str]) -> bool:
    """Judge a content item by its concept; one that needs a dummy has its text replaced."""
    if "ReferencedContentItemIdentifier" in item or str(item.get("ValueType", "")).strip() == "PNAME":
        return False
    for name in item.get("ConceptNameCodeSequence", None) or []:
        row = _concepts().get((str(name.get("CodeValue", "")), str(name.get("CodingSchemeDesignator", ""))))
        if row is None:
            continue
        if any(row[_COLUMN.get(option, "scheme")] in ("K", "C") for option in options):
            return True
        if row["basic"] != "D":
            return False
        if "TextValue" in item:
            item.TextValue = DUMMIES["UT"].decode()
        return True
    return True


_COLUMN = {
    "uids": "uids", "device_identity": "device", "institution_identity": "institution",
    "patient_characteristics": "patient", "full_dates": "full_dates", "modified_dates": "modified_dates",
    "clean_descriptors": "descriptors",
}  # fmt: skip


@cache
def _concepts() -> dict[tuple[str, str], dict[str, str]]:
    text = (files("consumers.deid") / "tables" / "content_items_2020.csv").read_text()
    return {(row["code"], row["scheme"]): row for row in csv.DictReader(text.splitlines())}


def _kept_value(element: DataElement, rules: Rules) -> str | list[str] | None:
    """What stays of a value that is to be cleaned; None for nothing."""
    if element.is_empty:
        return None
    values = [str(v) for v in (element.value if element.VM > 1 else [element.value])]
    days = rules.days
    if element.VR in ("DA", "DT"):
        moved = None if days is None else [_moved(value, days) for value in values]
        return None if moved is None or None in moved else [str(m) for m in moved]
    if element.VR == "AS":
        number, unit = values[0][:-1], values[0][-1:]
        if not (number.isdecimal() and len(number) <= 3) or unit not in ("D", "W", "M", "Y"):
            return None
        return "090Y" if unit == "Y" and int(number) > 89 else values[0]
    if element.VR == "TM":
        return values
    if element.tag == 0x00080201:
        return values if len(values) == 1 and re.fullmatch(r"[+-]\d{4}", values[0].strip()) else None
    if element.VR in ("LO", "LT", "SH", "ST", "UC", "UT"):
        cleaned = "\\".join(clean_text(value, days, rules.profile.vocabulary) for value in values).strip("\\")
        return cleaned.split("\\") if cleaned else None
    return None


def _moved(value: str, days: int) -> str | None:
    if len(value) == 10 and value[4] == value[7] == ".":  # as ACR-NEMA wrote it
        value = value.replace(".", "")
    try:
        return (datetime.strptime(value[:8], "%Y%m%d") + timedelta(days)).strftime("%Y%m%d") + value[8:]
    except ValueError:
        return None


def _mapped(element: DataElement, keys: ProjectKeys) -> list[str]:
    values = [element.value] if isinstance(element.value, str) else list(element.value or [])
    return [str(u) if not u or str(u) in UID_dictionary else keys.pseudonymous_uid(str(u)) for u in values]


def _dummy(element: DataElement) -> DataElement:
    fixed = CODED.get(int(element.tag)) or DUMMIES.get(element.VR)
    if fixed is not None:
        value: object = fixed if element.VR in ("OB", "UN") else fixed.decode()
    elif isinstance(element.value, bytes):
        value = bytes(len(element.value))
    else:
        value = [0.0 if element.VR in ("FL", "FD") else 0] * element.VM
    return DataElement(element.tag, element.VR, value)


def _append_method(clean: Dataset, profile: Profile) -> None:
    method = method_text(profile)
    said = clean.get("DeidentificationMethod") or []
    said = [said] if isinstance(said, str) else list(said)
    clean.DeidentificationMethod = said if method in said else [*said, method]
    codes = list(clean.get("DeidentificationMethodCodeSequence") or [])
    there = {code.get("CodeValue") for code in codes}
    for _, value, meaning in codes_of(profile.options):
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
        if value not in there:
            codes.append(code)
    clean.DeidentificationMethodCodeSequence = codes


def _digest(digest: blake3, dataset: Dataset, path: bytes, *, root: bool) -> None:
    for tag in list(dataset.keys()):
        if tag.element == 0 or tag == 0xFFFCFFFC or (root and tag in PIXELS):
            continue
        value = _value(dataset, tag)
        here = path + struct.pack("<LL", tag, 0)
        if isinstance(value, bytes):
            value = _without_pad(tag, value)
            digest.update(here + struct.pack("<Q", len(value)) + value)
            continue
        digest.update(here + struct.pack("<Q", len(value)))
        for number, item in enumerate(value, 1):
            inner = path + struct.pack("<LL", tag, number)
            digest.update(inner)
            _digest(digest, item, inner, root=False)


def _known_vr(tag: BaseTag) -> str:
    try:
        return dictionary_VR(tag) if not tag.is_private else "UN"
    except KeyError:
        return "UN"


def _value(dataset: Dataset, tag: BaseTag) -> bytes | list[Dataset]:
    """The value as received, or the items of whatever is a sequence: declared, known, or hidden in UN."""
    raw, known = dataset.get_item(tag), _known_vr(tag)
    if raw.VR == "SQ" or (raw.VR is None and known == "SQ"):
        return list(dataset[tag].value or [])
    if isinstance(raw, RawDataElement) or isinstance(raw.value, bytes):
        value: bytes = raw.value or b""
    else:  # pydicom has read it for its own use
        stream = DicomBytesIO()
        stream.is_little_endian, stream.is_implicit_VR = True, True
        write_data_element(stream, raw)
        value = stream.getvalue()[8:]
    if known == "UN" and value.endswith(_END):  # private, of undefined length: pydicom leaves the delimiter
        value = value.removesuffix(_END)
        if not value:
            return []
    if known in ("UN", "SQ") and value[:4] == _ITEM:
        try:
            stream = io.BytesIO(value)
            items = read_sequence(stream, True, True, len(value), ["iso8859"])
            for item in items:
                list(item)  # reads the values
            return list(items)
        except Exception:  # no items after all
            return value
    return _defragmented(value) if known not in ("UN", "SQ") and value[:4] == _ITEM else value


def _defragmented(value: bytes) -> bytes:
    fragments, pos = [], 0
    while value[pos : pos + 4] == _ITEM:
        length = int.from_bytes(value[pos + 4 : pos + 8], "little")
        fragments.append(value[pos + 8 : pos + 8 + length])
        pos += 8 + length
    return b"".join(fragments[1:])


def _without_pad(tag: int, value: bytes) -> bytes:
    vr = _known_vr(BaseTag(tag))
    stripped = value.rstrip(b"\x00 ")
    unprintable = any(c < 0x20 and c not in b"\t\n\f\r\x1b" for c in stripped)
    if vr in TEXT or (vr == "UN" and not unprintable):
        return stripped
    return value + b"\x00" * (len(value) % 2)
