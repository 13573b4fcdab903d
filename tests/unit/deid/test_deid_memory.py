"""What the walk remembers changes its speed alone: no result depends on what came before."""

import io
from pathlib import Path
from random import Random

import pydicom
import pytest
from planting import CT, KEYS, base, everything, leaks, run, text, verdict

from consumers.deid import levels
from consumers.deid.elements import MAX_DEPTH, Dataset, Element
from consumers.deid.engine import Profile, clean_file, load_profile
from consumers.deid.levels import forget, root_level
from consumers.deid.syntaxes import EXPLICIT_LITTLE, SYNTAXES
from schemas.errors import Quarantine

_EXPLICIT = SYNTAXES[EXPLICIT_LITTLE]


@pytest.fixture(autouse=True)
def forgetful() -> None:
    """Each test begins with nothing learned."""
    forget()


def _outcome(data: bytes, profile: Profile) -> object:
    try:
        done = clean_file(data, profile, KEYS, admit_burned_in=True)
    except Quarantine as stopped:
        return str(stopped)
    return done, done.part10


@pytest.mark.parametrize("name", ["basic", "research"])
def test_order_and_repetition_change_nothing(dicom_files: list[Path], name: str) -> None:
    """Every small shared file alone, then all of them three times in random order: the same each time."""
    profile = load_profile(name)
    brain = [path for path in dicom_files if "brain-mri" in path.parts]
    chosen = [p for p in dicom_files if "brain-mri" not in p.parts and p.stat().st_size < 5e5] + brain[::16]
    files = [path.read_bytes() for path in chosen]
    alone = []
    for data in files:
        forget()
        alone.append(_outcome(data, profile))
    order = list(range(len(files))) * 3
    Random(0).shuffle(order)
    assert [n for n in order if _outcome(files[n], profile) != alone[n]] == []
    assert sum(not isinstance(outcome, str) for outcome in alone) > 200


def _series(number: int, *extra: Element) -> Dataset:
    return base(
        CT,
        text(0x00080018, f"1.2.3.4.{5000 + number}"),
        text(0x00080070, "ACME"),
        text(0x00081090, "SCANNER 3000"),
        text(0x00180024, "FSE"),
        text(0x00180050, "5"),
        text(0x00180060, "120"),
        text(0x00200013, str(number)),
        text(0x00541000, "STATIC"),
        text(0x00541001, "HU"),
        text(0x20500020, "IDENTITY"),
        *extra,
    )


def test_a_series_is_learned(profile: Profile) -> None:
    """From the third instance on, what is the same in all is one step; what differs is their own."""
    learned = [run(_series(n), profile) for n in range(6)]
    clean = [pydicom.dcmread(io.BytesIO(result.part10)) for result in learned]
    assert [dataset.InstanceNumber for dataset in clean] == list(range(6))
    assert len({dataset.SOPInstanceUID for dataset in clean}) == 6
    assert {dataset.ManufacturerModelName for dataset in clean} == {"SCANNER 3000"}
    assert root_level(profile.actions(CT), KEYS, _EXPLICIT).runs
    for number, result in enumerate(learned):
        forget()
        assert run(_series(number), profile) == result


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192"])
def test_text_is_read_by_its_own_character_set(profile: Profile, charset: str) -> None:
    """The same bytes in another character set are another text, however often the first was met."""
    name = Element(0x00181250, "SH", "Spüle".encode())
    for _ in range(4):
        run(_series(1, text(0x00080005, "ISO_IR 100"), name), profile)
        run(_series(1, text(0x00080005, "ISO_IR 192"), name), profile)
    found = run(_series(1, text(0x00080005, charset), name), profile).metadata["00181250"]["Value"]
    assert found == ["Spüle".encode().decode("latin-1" if charset == "ISO_IR 100" else "utf-8")]


def test_a_sign_turns_what_stands_behind_it(profile: Profile) -> None:
    """PixelRepresentation decides how padding and extreme values read, in each instance anew."""
    extreme = Element(0x00280106, "US", b"\xff\xff")
    for sign, value in ((0, 65535), (1, -1)) * 4:
        dataset = _series(1, Element(0x00280103, "US", bytes([sign, 0])), extreme)
        assert run(dataset, profile).metadata["00280106"]["Value"] == [value]


def test_another_patient_in_the_same_series_leaves_nothing_of_the_first(profile: Profile) -> None:
    """Names and numbers that were met before are searched for, and found in none of the next patient's."""
    for number, name in enumerate(("CANARY00001^A", "CANARY00002^B") * 4):
        patient = (text(0x00100010, name), text(0x00100020, f"ID9000{number % 2}"))
        result = run(_series(number, *patient), profile)
        assert leaks(everything(result), ["CANARY00001", "CANARY00002", "ID90000", "ID90001"]) == []
        with pytest.raises(Quarantine, match="residual_identifier"):
            run(_series(number, *patient, text(0x00181250, name.split("^")[0])), profile)


def test_a_uid_in_text_is_told_by_its_place(profile: Profile) -> None:
    """A replaced UID within a longer text is named by the tag where it stands, also among what was met before."""
    leak = text(0x00181250, "coil of 1.2.3.4.1001")
    for _ in range(5):
        with pytest.raises(Quarantine, match=r"in \(0018,1250\), VR SH"):
            run(_series(1, text(0x00180022, "NONE"), leak, text(0x00181251, "BODY")), profile)


def test_attributes_out_of_order_are_written_in_order(profile: Profile) -> None:
    """A sender's disorder is mended, also where the disorder stands among what was met before."""
    for _ in range(4):
        dataset = _series(1)
        disordered = (*dataset[-4:-1], *dataset[:-4], dataset[-1])
        result = run(disordered, profile)
        tags = [element.tag for element in pydicom.dcmread(io.BytesIO(result.part10))]
        assert tags == sorted(tags)
        assert result.part10 == run(dataset, profile).part10


def test_memory_is_bounded(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past its bound nothing more is remembered, and the next instance begins anew."""
    monkeypatch.setattr(levels, "MEMO_TOTAL", 40_000)
    for number in range(40):
        run(_series(number, text(0x00181250, f"COIL {number}")), profile)
        assert levels._task(profile.actions(CT), KEYS, _EXPLICIT).held < 60_000


def test_depth_is_bounded_however_often_a_sequence_was_met(profile: Profile) -> None:
    """A sequence that was learned near the root, with another learned inside it, is too deep where it is too deep."""

    def chain(tag: int, levels: int, *inside: Element) -> Element:
        for _ in range(levels):
            inside = (Element(tag, "SQ", items=(inside,)),)
        return inside[0]

    inner = chain(0x00289145, 5, text(0x00180024, "FSE"))
    outer = Element(0x00400440, "SQ", items=((inner,),))
    deep = base(CT, chain(0x00209113, MAX_DEPTH - 3, outer))
    fresh = verdict(deep, profile)
    assert "nested deeper" in fresh
    forget()
    for learned in (inner, outer, outer):
        run(base(CT, chain(0x00209113, 1, learned)), profile)
    assert verdict(deep, profile) == fresh
