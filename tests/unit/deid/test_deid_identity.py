"""Identity: pseudonyms, UIDs and digests are the same for the same, and other for others."""

import dataclasses
import io
import shutil
import struct
import subprocess
from collections import Counter
from itertools import cycle
from pathlib import Path

import pydicom
import pytest
from planting import CT, KEYS, SERIES, SOP, STUDY, base, ids, nested, run, text

from consumers.deid.elements import Dataset, Element
from consumers.deid.engine import Profile, ProjectKeys, clean_object_key, deidentify_file, split_part10
from consumers.deid.pseudonyms import is_placeholder
from consumers.deid.syntaxes import EXPLICIT_LITTLE, SYNTAXES, syntax_of
from consumers.deid.writer import dataset_bytes
from schemas.errors import Quarantine


def _ids(file_bytes: bytes) -> tuple[str, str]:
    uid, _, _, raw = split_part10(file_bytes)
    return ids(raw, syntax_of(uid))


def _made(dataset: Dataset) -> tuple[str, str]:
    return ids(dataset_bytes(dataset, SYNTAXES[EXPLICIT_LITTLE]), SYNTAXES[EXPLICIT_LITTLE])


def _content(dataset: Dataset) -> str:
    return _made(dataset)[0]


def _fragments(*fragments: bytes) -> bytes:
    items = ((0xE000, f) for f in fragments)
    return b"".join(struct.pack("<HHL", 0xFFFE, n, len(v)) + v for n, v in (*items, (0xE0DD, b"")))


def test_dcmtk_reencoding_keeps_both_digests(dicom_files: list[Path], tmp_path: Path) -> None:
    """Implicit, explicit, big endian, deflated, other lengths in turn: one content, one pixel value."""
    if shutil.which("dcmconv") is None:
        pytest.skip("dcmconv (Debian dcmtk) is not installed: make peers")
    brain = [p for p in dicom_files if "brain-mri" in p.parts]
    chosen = [p for p in dicom_files if "brain-mri" not in p.parts and p.stat().st_size < 2e6][::2] + brain[
        ::128
    ]
    outcomes: Counter[str] = Counter()
    different = []
    for path, option in zip(chosen, cycle(("+te", "+ti -e", "+tb", "+td")), strict=False):
        try:
            before = _ids(path.read_bytes())
        except Quarantine:
            outcomes["not readable"] += 1
            continue
        native = not syntax_of(split_part10(path.read_bytes())[0]).encapsulated
        options = option.split() if native else ["+t=", "-e"]
        target = tmp_path / "again.dcm"
        done = subprocess.run(["dcmconv", *options, path, target], capture_output=True, check=False)
        if done.returncode:
            outcomes["dcmconv refused"] += 1
        elif _ids(target.read_bytes()) == before:
            outcomes[f"same {options}"] += 1
        else:
            different.append(f"{path.name} {options}")
    print(dict(outcomes))
    assert different == []
    assert sum(count for outcome, count in outcomes.items() if outcome.startswith("same")) > 180


def test_content_and_pixels_are_told_apart() -> None:
    """Another value changes only the content's digest, another pixel only the pixels'."""
    first = base(CT)
    other = base(CT, text(0x00200013, "2"))
    pixels = base(CT, Element(0x7FE00010, "OW", b"\x01" + bytes(7)))
    digests = [_made(d) for d in (first, other, pixels)]
    assert digests[0][1] == digests[1][1] != digests[2][1]
    assert digests[0][0] == digests[2][0] != digests[1][0]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (Element(0x00280106, "US", b"\x20\x00"), Element(0x00280106, "US", b"\x00\x00")),
        (text(0x00180024, "A B"), text(0x00180024, "AB")),
        (Element(0x00091001, "US", b"\x01\x00"), Element(0x00091001, "US", b"\x02\x00")),
        (nested(text(0x00180024, "A")), text(0x00180024, "A")),
    ],
)
def test_different_values_are_different_content(one: Element, two: Element) -> None:
    """What is stripped as padding never makes two values one."""
    assert _content(base(CT, one)) != _content(base(CT, two))


@pytest.mark.parametrize("padding", [b"", b" ", b"\x00", b"  "])
def test_padding_lengths_and_vr_knowledge_do_not_count(padding: bytes) -> None:
    """Pads, group lengths, (FFFC,FFFC) and the VR of a private value make no other content."""
    plain = base(CT, text(0x00180024, "FSE"), text(0x00091001, "SECRET", "LO"))
    dressed = base(
        CT,
        Element(0x00180000, "UL", bytes(4)),
        Element(0x00180024, "SH", b"FSE" + padding),
        Element(0x00091001, "UN", b"SECRET" + padding),
        Element(0xFFFCFFFC, "OB", bytes(16)),
    )
    assert _content(plain) == _content(dressed)


def test_an_offset_table_is_no_pixel() -> None:
    """The same fragments with and without an offset table are the same pixels."""
    with_table, without = (
        Element(0x7FE00010, "OB", _fragments(table, b"ab"), fragments=(table, b"ab"))
        for table in (bytes(4), b"")
    )
    assert _made(base(CT, with_table)) == _made(base(CT, without))


def test_a_private_sequence_in_un_is_the_same_content() -> None:
    """A peer that knows a private sequence, and one that carries it as UN, send the same content."""
    inner = (Element(0x00091002, "LO", b"A1"), Element(0x00091003, "US", b"\x07\x00"))
    implicit = dataset_bytes(
        ((inner and Element(0x00091001, "SQ", items=(inner,))),), SYNTAXES["1.2.840.10008.1.2"]
    )
    known = base(CT, Element(0x00091001, "SQ", items=(inner,)))
    unknown = base(CT, Element(0x00091001, "UN", implicit[8:]))
    assert _content(known) == _content(unknown)


def test_the_clean_side_sees_only_keyed_digests(profile: Profile) -> None:
    """content_key and pixel_key are HMACs: other under another key, and no raw digest is in the output."""
    result = run(base(), profile)
    other = ProjectKeys.derive(bytes(32), "default", "k1").keyed_digest("content", result.content_id)
    assert result.content_key not in (result.content_id, other)
    assert result.content_id.encode() not in result.part10
    assert result.content_id not in repr(result)


def test_same_input_and_keys_same_bytes(profile: Profile) -> None:
    """A replay gives the same clean file, byte for byte, also where it is deflated."""
    for syntax in (EXPLICIT_LITTLE, "1.2.840.10008.1.2.1.99"):
        assert run(base(), profile, syntax=syntax) == run(base(), profile, syntax=syntax)


def test_deidentifying_twice_changes_no_shape(profile: Profile) -> None:
    """A clean file passes again; the method and its code are not said twice."""
    once = run(base(CT, nested(text(0x00080050, "ACC1"))), profile).part10
    twice = deidentify_file(once, profile, KEYS)
    first, second = (pydicom.dcmread(io.BytesIO(data)) for data in (once, twice))
    assert [e.tag for e in first.iterall()] == [e.tag for e in second.iterall()]
    assert first.DeidentificationMethod == second.DeidentificationMethod
    assert len(second.DeidentificationMethodCodeSequence) == 1


def test_the_method_is_written_and_history_kept(profile: Profile) -> None:
    """The flags, the method with its table's edition, the code 113100; what was there before stays."""
    before = (
        text(0x00120063, "Some site script"),
        Element(0x00120064, "SQ", items=((text(0x00080100, "113107"), text(0x00080102, "DCM")),)),
    )
    clean = pydicom.dcmread(io.BytesIO(run(base(CT, *before), profile).part10))
    assert clean.PatientIdentityRemoved == "YES"
    assert clean.LongitudinalTemporalInformationModified == "REMOVED"
    assert clean.DeidentificationMethod[0] == "Some site script"
    assert "2026c" in clean.DeidentificationMethod[1]
    assert [item.CodeValue for item in clean.DeidentificationMethodCodeSequence] == ["113107", "113100"]
    assert KEYS.key_id not in clean.DeidentificationMethod[1]


def test_uids_are_mapped_alike_everywhere(profile: Profile) -> None:
    """The same UID at the root, in a reference, in the file meta and in the result is one pseudonym."""
    reference = (text(0x00081150, CT), text(0x00081155, SOP))
    series = (text(0x0020000E, SERIES), Element(0x00081199, "SQ", items=(reference,)))
    result = run(base(CT, Element(0x00081115, "SQ", items=(series,))), profile)
    clean = pydicom.dcmread(io.BytesIO(result.part10))
    inner = clean.ReferencedSeriesSequence[0]
    assert clean.SOPInstanceUID == inner.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert clean.SOPInstanceUID == clean.file_meta.MediaStorageSOPInstanceUID == result.sop_instance_uid
    assert clean.SeriesInstanceUID == inner.SeriesInstanceUID == result.series_instance_uid
    assert inner.ReferencedSOPSequence[0].ReferencedSOPClassUID == CT
    assert result.study_instance_uid == KEYS.pseudonymous_uid(STUDY)
    assert result.study_instance_uid.startswith("2.25.")
    assert len(result.study_instance_uid) <= 64


def test_well_known_uids_are_nobodys(profile: Profile) -> None:
    """A frame of reference of the standard itself keeps its value."""
    well_known = "1.2.840.10008.1.4.1.1"
    clean = pydicom.dcmread(io.BytesIO(run(base(CT, text(0x00200052, well_known)), profile).part10))
    assert clean.FrameOfReferenceUID == well_known


def test_patient_pseudonyms_follow_issuer_and_id(profile: Profile) -> None:
    """Same ID, same issuer: one patient over studies; another issuer: another patient."""
    other_study = text(0x0020000D, "1.2.3.4.2001")
    assert run(base(), profile).patient == run(base(CT, other_study), profile).patient
    assert run(base(), profile).patient != run(base(), profile, issuer="clinic").patient
    named = base(CT, text(0x00100021, "clinic"))
    assert run(named, profile, issuer="elsewhere").patient == run(base(), profile, issuer="clinic").patient


@pytest.mark.parametrize(
    "patient_id", ["", " ", "0", "0000", "XXXX", "Unknown", "ANONYMOUS", "n/a", "No-ID", "None"]
)
def test_a_placeholder_is_no_patient(profile: Profile, patient_id: str) -> None:
    """Strangers without an ID are not merged into one patient: their studies stand for them."""
    assert is_placeholder(patient_id)
    first = run(base(CT, text(0x00100020, patient_id)), profile).patient
    second = run(base(CT, text(0x00100020, patient_id), text(0x0020000D, "1.2.3.4.2001")), profile).patient
    assert first != second


@pytest.mark.parametrize("patient_id", ["02", "ID1", "4MR1", "12345678", "0010"])
def test_short_ids_are_patients(patient_id: str) -> None:
    """IDs of a few characters, as a third of the shared files have, are IDs."""
    assert not is_placeholder(patient_id)


def test_name_and_id_say_the_pseudonym(profile: Profile) -> None:
    """PatientID and PatientName of the clean file are the pseudonym, also where the name was absent."""
    result = run(tuple(e for e in base() if e.tag != 0x00100010), profile)
    clean = pydicom.dcmread(io.BytesIO(result.part10))
    assert clean.PatientID == str(clean.PatientName) == result.patient


def test_keys_are_apart_by_project_purpose_and_id() -> None:
    """No two keys of two projects, purposes or key ids are equal; none is shown."""
    made = [ProjectKeys.derive(bytes(32), p, k) for p in ("a", "b") for k in ("1", "2")]
    keys = [getattr(m, f.name) for m in made for f in dataclasses.fields(m) if f.name != "key_id"]
    assert len(set(keys)) == len(keys) == 20
    assert repr(made[0]) == "ProjectKeys(key_id='1')"
    with pytest.raises(ValueError, match="at least 32 bytes"):
        ProjectKeys.derive(b"short", "a", "1")


def test_the_object_key_names_all_it_should(profile: Profile) -> None:
    """Content, pixels, syntax, profile and key id each make another object."""
    same = {"content_id": "c", "pixel_id": "p", "transfer_syntax_uid": "t", "profile": profile, "keys": KEYS}
    changed = [
        {"content_id": "d"},
        {"pixel_id": "q"},
        {"transfer_syntax_uid": "u"},
        {"profile": profile.without(0x00100030)},
    ]
    changed += [{"keys": ProjectKeys.derive(bytes(range(32)), "default", "k2")}]
    made = [clean_object_key(**{**same, **change}) for change in ({}, {}, *changed)]  # type: ignore[arg-type]
    assert made[0] == made[1]
    assert len(set(made)) == 6
    assert all(len(key) == 64 for key in made)
