"""Promise P5 on the running system: no planted identifier is in any byte on the clean side.

The demo's patients and the 26 files of the Pseudo-PHI pairs go through the door; then everything that the
system has written is searched. The search is shown to bite: on what was sent, on the trusted side, on every
form, and on files that were de-identified with one rule switched off.
"""

import base64
import io
import json
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import places
import pydicom
import pytest
from house import House, eventually, exams, stored, study_of, write, write_exam
from needles import Hit, Search, forms, identifiers
from places import hits

from consumers.deid.engine import Profile, ProjectKeys, basic_profile, deidentify_file
from infra.demo import Exam, Pixels
from schemas.errors import Quarantine

pytestmark = pytest.mark.stack

#: Tokens of the planted values that are words of ours too, and where they stand.
ORDINARY: Final[dict[str, str]] = {
    "dicom": "of the private value Pseudo-PHI-DICOM-Data; the brain series names its device nifti2dicom",
    "data": "of the same; Cassandra's log names its data folder",
    "drive": "of 56 Walnut Drive; Cassandra's log speaks of disks and drives",
}

KEYS: Final = ProjectKeys.derive(bytes(range(32)), "default", "k1")


class Planted(NamedTuple):
    """The files that were sent, and the search for what identifies in them."""

    files: list[Path]
    search: Search


def of_pairs(paths: Iterable[Path]) -> set[str]:
    """What identifies in the Pseudo-PHI files: values, and their tokens."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {value for path in paths for value in identifiers(pydicom.dcmread(path))}


def of_exam(exam: Exam) -> set[str]:
    """What identifies in an exam: its canaries whole, the letters that they share, and its UIDs, dates, numbers.

    The other words of a canary ("Hospital", "Doctor") never stand alone there, and stand in many logs.
    """
    token = exam.canaries["AccessionNumber"].removeprefix("ACC")
    values = {value for dataset in exam.datasets.values() for value in identifiers(dataset)}
    return {token, *exam.canaries.values(), *(value for value in values if any(map(str.isdigit, value)))}


@pytest.fixture(scope="module")
def planted(
    house: House,
    images: Mapping[str, Pixels],
    shared: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Planted:
    """Two patients' exams, one image more that waits in quarantine, and the 26 files: sent, and settled.

    Beside them goes an image of nobody that is looked for, whose words are ordinary ones.
    """
    pairs = sorted(shared("deid-pairs/exampleData/tcia/dicom").glob("*.dcm"))
    folder = tmp_path_factory.mktemp("planted")
    patients = exams(images, "planted", patients=2)
    written = [path for i, exam in enumerate(patients) for path in write_exam(exam, folder / str(i)).values()]
    doubtful = patients[0].datasets["L-CC"]
    doubtful.BurnedInAnnotation, doubtful.SOPInstanceUID = "YES", f"{doubtful.SOPInstanceUID}.9"
    doubtful.file_meta.MediaStorageSOPInstanceUID = doubtful.SOPInstanceUID
    files = [*written, write(doubtful, folder / "doubtful.dcm"), *pairs]
    beside = shared("brain-mri/dicoms/N2D_0001.dcm")
    before = house.balance()
    assert stored(house.send([*files, beside], "PLANTED"))
    assert house.gained(before) == {"acknowledged": 36, "clean": 35, "quarantined": 1}
    study = house.keys("planted").pseudonymous_uid(study_of(patients[0]))
    eventually(lambda: house.predictions_of(study), "prediction")
    needles = of_pairs(pairs).union(*map(of_exam, patients))
    return Planted(files, Search(needle for needle in needles if needle.casefold() not in ORDINARY))


def test_clean_objects_hold_none(house: House, planted: Planted) -> None:
    """No clean object, manifest or metadata, nor the name of one, holds a planted identifier."""
    assert hits(planted.search, places.clean_files(house)) == {}


def test_clean_messages_hold_none(house: House, planted: Planted) -> None:
    """No message of a clean topic holds one, in key, headers or value, packed or not."""
    assert hits(planted.search, places.topics(house, "clean")) == {}


def test_clean_tables_hold_none(house: House, planted: Planted) -> None:
    """No row of any table of the clean keyspace holds one."""
    assert hits(planted.search, places.tables(house, "clean")) == {}


def test_logs_and_metrics_hold_none(house: House, planted: Planted) -> None:
    """No log of any role or part, no journal, no metric holds one, of the trusted side neither."""
    assert hits(planted.search, [*places.logs_and_work(house), *places.metrics(house)]) == {}


def test_quarantine_and_vault_are_sealed(house: House, planted: Planted) -> None:
    """What is kept for the way back and for a person's judgement is encrypted: nothing is found in it."""
    found = list(places.sealed(house))
    assert {"quarantine", "vault_studies", "vault_instances"} <= {
        word for place in found for word in place.name.replace("/", " ").replace(".", " ").split()
    }
    assert hits(planted.search, found) == {}


def test_trusted_messages_say_nothing_outside(house: House, planted: Planted) -> None:
    """Of the trusted messages, key and headers hold no identifier but the study by which they are ordered."""
    found = hits(planted.search, places.topics(house, "trusted", values=False))
    uids = {hit.needle for some in found.values() for hit in some}
    assert uids
    assert all(name.startswith("instance.received.") and name.endswith(" key") for name in found)
    assert all(set(uid) <= set("0123456789.") for uid in uids)


# the search bites


def test_every_needle_is_in_what_was_sent(planted: Planted) -> None:
    """Each planted identifier is found in the files that were sent, so none is looked for in vain."""
    found: set[str] = set()
    for path in planted.files:
        for place in places.of_file(path.name, path.read_bytes()):
            some = planted.search(place.data) | planted.search.in_values(place.values)
            found |= {hit.needle.casefold() for hit in some}
    missed = {needle for needle in planted.search.needles if needle.casefold() not in found}
    assert missed == set()


def test_the_trusted_side_holds_them(house: House, planted: Planted) -> None:
    """The same search, over the spool and the trusted messages and tables, finds what was sent."""
    spool = {
        hit.needle for some in hits(planted.search, places.spool(house, "planted")).values() for hit in some
    }
    assert len(spool) > 0.9 * len(planted.search.needles)
    assert hits(planted.search, places.topics(house, "trusted"))
    assert any("identities" in name for name in hits(planted.search, places.tables(house, "trusted")))


def test_no_word_is_left_out_in_vain(house: House, planted: Planted) -> None:
    """Each word that is not looked for is a token of what was planted, and stands in our logs or messages."""
    assert set(ORDINARY) <= {needle.casefold() for needle in of_pairs(planted.files)}
    found = hits(Search(ORDINARY), [*places.logs_and_work(house), *places.topics(house, "clean")])
    print(found)
    assert {hit.needle for some in found.values() for hit in some} == set(ORDINARY)


def wrappings(text: str) -> Iterator[tuple[str, bytes]]:
    """A text in the midst of others, in each form and packing."""
    plain = f'{{"a": "before {text} behind"}}'.encode()
    yield "plain", plain
    yield "upper", plain.upper()
    yield "lower", plain.lower()
    for form in forms(text):
        yield form.name, b"\x00\x01" + form.data + b"\x02"
    for phase in range(3):
        yield f"base64 {phase}", json.dumps({"a": base64.b64encode(b"x " * phase + plain).decode()}).encode()
    yield "zlib", json.dumps({"a": base64.b64encode(zlib.compress(plain)).decode()}).encode()


@pytest.mark.parametrize(
    "needle", ["Beverly", "Wade", "19310227", "9894340694", "1.2.840.99999.1.2", "597B9256"]
)
def test_each_form_is_found(needle: str) -> None:
    """A name, a date, a number, a UID: found in each form and packing; not in text without it."""
    search = Search([needle])
    for name, data in wrappings(needle):
        assert any(search(place.data) for place in places.of_text(name, data)), name
    assert not any(search(data) for _, data in wrappings("Somebody else"))
    assert search(f"x{needle}x".encode()) == set() or not needle.isalpha()


def test_digits_of_a_digest_do_not_count() -> None:
    """Nor those of a UUID; the same digits in a number, a word or a UID do."""
    search = Search(["620115", "19620115"])
    for text in (
        "9f1ea0620115bc77d1", "0f8fad5b-d9cb-469f-a165-7a1962011512", "0f8fad5b-d9cb-469f-a165-a19620115bcd"
    ):  # fmt: skip
        assert search(f'"{text}"'.encode()) == set(), text
    for text in (
        "ACC620115",
        "id=620115 digest=9f1ea0bc77d1bc77d1",
        "1.2.840.620115",
        "1962011501-19620115",
        "fee-620115",
    ):
        assert search(text.encode()), text


def test_the_letters_of_a_packing_are_opaque() -> None:
    """What they hold is searched as text; letters that only look packed, or are not so to their end, stay text."""
    text = b'{"a": "before Wade behind"}'
    whole = base64.b64encode(zlib.compress(text)).decode()
    further = base64.b64encode(zlib.compress(text) + b"more").decode()
    other = base64.b64encode(bytes(range(40, 140))).decode()
    found = list(places.of_text("value", json.dumps({"a": whole, "b": further, "c": other}).encode()))
    plain = b"".join(place.data for place in found if not place.opaque)
    assert (whole.encode() in plain, further.encode() in plain, other.encode() in plain) == (
        False,
        True,
        True,
    )
    assert [place.name for place in found if Search(["Wade"])(place.data, opaque=place.opaque)] == [
        "value unpacked",
        "value unpacked",
    ]


def test_a_short_value_counts_whole() -> None:
    """A serial number of four digits is found as a value, and not inside a longer number."""
    search = Search(["7671"])
    assert search.in_values(["7671", "SN"]) == {Hit("7671", "whole")}
    assert search.in_values(["17671", "7671 ms"]) | search(b"offset 7671") == set()


#: what is switched off -> (the rows of the table, its patterns, an attribute whose value must then be found)
SWITCHED_OFF: Final = {
    "institution": ((0x00080080,), (), "InstitutionName"),
    "station": ((0x00081010,), (), "StationName"),
    "study date": ((0x00080020,), (), "StudyDate"),
    "birth date": ((0x00100030,), (), "PatientBirthDate"),
    "address": ((0x00101040,), (), "PatientAddress"),
    "physician": ((0x00080090,), (), "ReferringPhysicianName"),
    "comments": ((0x00204000,), (), "ImageComments"),
    "accession": ((0x00080050,), (), "AccessionNumber"),
    "study UID": ((0x0020000D,), (), "StudyInstanceUID"),
    "private": ((), ("PrivateAttributes",), "private 01"),
}


@pytest.mark.parametrize("name", SWITCHED_OFF)
def test_a_rule_switched_off_is_found(images: Mapping[str, Pixels], name: str) -> None:
    """Without one rule of the table, the same search finds its value, or the residual search stops the file."""
    rows, patterns, place = SWITCHED_OFF[name]
    (exam,) = exams(images, "switched")
    dataset = exam.datasets["R-CC"]
    dataset.Rows = dataset.Columns = 8  # the pixels say nothing here
    dataset.PixelData = bytes(64)
    target = io.BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    search = Search(of_exam(exam))
    assert leaks(search, target.getvalue(), basic_profile()) == set()
    without = leaks(search, target.getvalue(), basic_profile().without(*rows, patterns=patterns))
    assert "residual_identifier" in without or any(exam.canaries[place] in hit for hit in without)


def leaks(search: Search, data: bytes, profile: Profile) -> set[str]:
    """What is found in a file that was de-identified with this profile; the reason if it was stopped."""
    try:
        clean = deidentify_file(data, profile, KEYS)
    except Quarantine as stopped:
        return {stopped.reason}
    found = [search(place.data, opaque=place.opaque) for place in places.of_file("clean", clean)]
    return {hit.needle for some in found for hit in some}
