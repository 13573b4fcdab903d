"""Burned-in text: found on every frame, blanked in the stored words, and nothing else touched."""

import dataclasses
import io
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from random import Random

import cv2
import numpy as np
import psutil
import pydicom
import pytest
from conftest import picture

from commands.benching.pixel_load import FONTS, picture_of, planted
from consumers.deid.engine import ProjectKeys, clean_file, load_profile
from consumers.deid.picture import CleanedPixels, Picture
from consumers.pixeltext import pixel_cleaner
from consumers.pixeltext.child import Child
from consumers.pixeltext.detector import Found, _spans
from consumers.pixeltext.devices import device_boxes, rules
from consumers.pixeltext.render import renderings
from consumers.pixeltext.verdict import may_stay, resembles
from schemas.errors import ProdromeError, Quarantine

KEYS = ProjectKeys.derive(bytes(32), "default", "k1")


def _tissue(seed: int, shape: tuple[int, ...], dtype: type = np.uint8, top: int = 160) -> np.ndarray:
    """Smooth noise, as tissue is."""
    random = np.random.default_rng(seed)
    small = random.random((*shape[:-2], 12, 12)) * top
    frames = [
        cv2.resize(frame, shape[-2:][::-1], interpolation=cv2.INTER_CUBIC)
        for frame in small.reshape(-1, 12, 12)
    ]
    return np.clip(np.array(frames), 0, top).reshape(shape).astype(dtype)


def _write(frame: np.ndarray, text: str, place: tuple[int, int], value: int) -> None:
    ink = np.zeros(frame.shape[:2], np.uint8)
    cv2.putText(ink, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1, 1)
    frame[ink > 0] = value


def _profile(folder: Path) -> object:
    path = folder / "site.toml"
    path.write_text('name = "site"\nbase = "basic"\noptions = ["clean_pixel_data"]\n')
    return load_profile(str(path))


def test_text_is_blanked_on_the_frames_that_have_it(child: Child) -> None:
    """Two of four frames have a name: it goes there, and the others are bit-exact."""
    frames = _tissue(1, (4, 256, 256))
    for number in (1, 3):
        _write(frames[number], "MUELLER, ANNA", (20, 60), 255)
    cleaned = child.clean(picture(frames))
    assert cleaned.value is not None
    out = np.frombuffer(cleaned.value, np.uint8).reshape(frames.shape)
    assert cleaned.frames == 2
    assert [(out[n] == frames[n]).all() for n in range(4)] == [True, False, True, False]
    assert not (out[[1, 3], 45:62, 20:150] == 255).any()
    assert (out[1, 100:] == frames[1, 100:]).all()


def test_text_beside_an_ultrasounds_regions_goes_from_every_frame(child: Child) -> None:
    """What the first frame has outside of them goes from each, also where letters are too faint to be found."""
    frames = _tissue(8, (3, 256, 256), top=60)
    _write(frames[0], "MUELLER, ANNA", (20, 40), 255)
    _write(frames[0], "GARCIA, JOSE", (20, 200), 255)
    for number in (1, 2):
        frames[number, 20:60] = 0
        _write(frames[number], "MUELLER, ANNA", (20, 40), 3)
    cleaned = child.clean(picture(frames, regions=((0, 100, 256, 256),)))
    assert cleaned.value is not None
    out = np.frombuffer(cleaned.value, np.uint8).reshape(frames.shape)
    assert not (out[:, 26:42, 20:150] >= 3).any(axis=(1, 2)).any()
    assert (out[1:, 100:] == frames[1:, 100:]).all()
    assert not (out[0, 186:202, 20:140] == 255).any()


def test_regions_are_read_from_the_dataset(ultrasound: Path, tmp_path: Path) -> None:
    """Each item of the sequence with its four sides; the last two are within the region."""
    dataset = pydicom.dcmread(ultrasound)
    whole, half = pydicom.Dataset(), pydicom.Dataset()
    whole.RegionLocationMinX0, whole.RegionLocationMinY0 = 10, 20
    whole.RegionLocationMaxX1, whole.RegionLocationMaxY1 = 299, 199
    half.RegionLocationMinX0 = 5
    dataset.SequenceOfUltrasoundRegions = [whole, half]
    seen: list[Picture] = []

    def look(made: Picture) -> CleanedPixels:
        seen.append(made)
        return CleanedPixels(0, 0, None)

    out = io.BytesIO()
    dataset.save_as(out)
    clean_file(out.getvalue(), _profile(tmp_path), KEYS, cleaner=look)  # type: ignore[arg-type]
    assert [one.regions for one in seen] == [((10, 20, 300, 200),)]


def test_without_a_detector_the_profile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, with what to do; a profile that does not ask for it needs none."""
    monkeypatch.setattr("consumers.pixeltext.find_spec", lambda name: None)
    with pytest.raises(ProdromeError, match=r"pip install 'prodrome\[text\]'"):
        pixel_cleaner(_profile(tmp_path))  # type: ignore[arg-type]
    assert pixel_cleaner(load_profile("basic")) is None


def test_a_picture_without_text_is_not_touched(child: Child) -> None:
    """Nothing is found, nothing is written."""
    assert child.clean(picture(_tissue(2, (1, 256, 256)))).value is None


def test_stored_words_are_blanked_with_their_high_bits(child: Child) -> None:
    """12 of 16 bits: what stands in the upper four goes with the text; elsewhere all bits stay."""
    frames = _tissue(3, (1, 256, 256), np.uint16, 1500)
    _write(frames[0], "ID: 4711222", (20, 60), 4095)
    frames |= 0x1000
    cleaned = child.clean(picture(frames, bits_stored=12, high_bit=11))
    assert cleaned.value is not None
    out = np.frombuffer(cleaned.value, np.uint16).reshape(frames.shape)[0]
    assert (out[48:60, 25:120] == 0).all()
    assert (out[120:] == frames[0, 120:]).all()


def test_what_a_list_allows_stays_unless_it_is_a_name(child: Child) -> None:
    """A side and a depth stay; the same letters go where the patient is called so."""
    frames = _tissue(4, (1, 256, 256), top=40)
    cv2.putText(frames[0], "LAT", (20, 60), cv2.FONT_HERSHEY_DUPLEX, 1.0, 255, 2)
    assert child.clean(picture(frames)).value is None
    assert child.clean(picture(frames, names=frozenset({"lat"}))).value is not None


def test_text_along_the_side_and_in_colour_goes(child: Child) -> None:
    """Turned by a quarter, on RGB."""
    grey = _tissue(5, (1, 256, 256), top=60)
    upright = np.zeros((256, 256), np.uint8)
    cv2.putText(upright, "GARCIA, JOSE", (30, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 1, 1)
    frames = np.repeat(grey[..., None], 3, axis=3)
    frames[0][np.rot90(upright) > 0] = (255, 255, 0)
    cleaned = child.clean(picture(frames))
    assert cleaned.value is not None
    out = np.frombuffer(cleaned.value, np.uint8).reshape(frames.shape)
    assert not (out[0] == (255, 255, 0)).all(axis=-1).any()


@pytest.mark.parametrize("font", FONTS)
def test_each_font_is_found(child: Child, ultrasound: Path, font: str) -> None:
    """A line of each font in a real image goes to the last letter."""
    base = picture_of(pydicom.dcmread(ultrasound))
    assert base is not None
    frame = np.frombuffer(base.value, np.uint8).reshape(base.rows, base.columns)[300:600, 300:700]
    made = planted(picture(np.ascontiguousarray(frame)[None]), Random(7), font, 18, "white")
    assert made is not None
    cleaned = child.clean(made.picture)
    assert cleaned.value is not None
    assert (np.frombuffer(cleaned.value, np.uint8).reshape(frame.shape)[made.ink] == 0).all()


def test_small_letters_over_noise_are_found(child: Child) -> None:
    """A window above the noise, letters of eight pixels: found in twice its size, where nothing else finds them."""
    noise = np.random.default_rng(5).normal(0, 70, (1, 384, 384))
    frames = (_tissue(5, (1, 384, 384), np.uint16, 600) + noise).clip(0, 4095).astype(np.uint16)
    frames[0, 5, 5] = 4095
    made = planted(picture(frames, bits_stored=12, high_bit=11), Random(3), "bitmap", 12, "white in a window")
    assert made is not None
    cleaned = child.clean(made.picture)
    assert cleaned.value is not None
    assert (np.frombuffer(cleaned.value, np.uint16).reshape(384, 384)[made.ink] == 0).mean() > 0.95


def test_a_number_that_a_tile_cuts_is_no_measure(child: Child) -> None:
    """A line over many tiles goes to its last digit, although three digits alone could be a measure."""
    frames = _tissue(9, (1, 200, 900), top=90)
    for row in (60, 150):
        cv2.putText(
            frames[0], "4711222  9081726  5544332", (17 + row, row), cv2.FONT_HERSHEY_SIMPLEX, 1.2, 255, 2
        )
    written = frames[0] == 255
    cleaned = child.clean(picture(frames))
    assert cleaned.value is not None
    assert (np.frombuffer(cleaned.value, np.uint8).reshape(200, 900)[written] == 0).all()


@pytest.mark.parametrize("length", [1, 64, 320, 321, 512, 1024, 4664])
@pytest.mark.parametrize("scale", [1, 2])
def test_tiles_cover_and_overlap(length: int, scale: int) -> None:
    """Each begins within the one before it, none is larger than the network is shown."""
    spans = _spans(length, scale)
    assert (spans[0][0], spans[-1][1]) == (0, length)
    assert all(one[1] - following[0] >= 64 // scale - 1 for one, following in pairwise(spans))
    assert all(0 < (stop - start) * scale <= 322 for start, stop in spans)


def test_a_page_of_text_waits_for_a_person(child: Child) -> None:
    """A report is no image with text on it."""
    frames = np.zeros((1, 256, 512), np.uint8)
    for line in range(12):
        cv2.putText(frames[0], "Dose report of the examination", (4, 20 * line + 16), 0, 0.9, 255, 2)
    with pytest.raises(Quarantine, match="of a frame is text"):
        child.clean(picture(frames))


def test_what_cannot_be_decoded_is_one_quarantine(child: Child) -> None:
    """A broken codestream, and one whose decoder would take too long or end, stop nothing else."""
    frames = _tissue(6, (1, 64, 64))
    broken = dataclasses.replace(
        picture(frames),
        native=False,
        transfer_syntax_uid="1.2.840.10008.1.2.5",
        value=b"\xfe\xff\x00\xe0" + bytes(60),
    )
    with pytest.raises(Quarantine, match="could not be read"):
        child.clean(broken)
    with pytest.raises(Quarantine, match="expected 8 or 16 bits"):
        child.clean(picture(frames, bits_allocated=32))
    assert child.clean(picture(frames)).value is None


def test_a_child_that_ends_or_hangs_is_one_quarantine() -> None:
    """Killed under a picture, and too slow for its time: quarantined, and the next picture has a new child."""
    running = Child()
    frames = _tissue(7, (1, 64, 64))
    assert running.clean(picture(frames)).value is None
    with pytest.raises(Quarantine, match="too long"):
        running.clean(picture(_tissue(8, (8, 512, 512))), seconds=0.05)
    assert running.clean(picture(frames)).value is None
    os.kill(running.pid, 9)
    time.sleep(0.2)
    assert running.clean(picture(frames)).value is None
    running.close()


def test_the_engine_writes_what_was_cleaned(child: Child, ultrasound: Path, tmp_path: Path) -> None:
    """A real ultrasound image waits under Basic; cleaned it passes, says so, and holds none of its text."""
    data = ultrasound.read_bytes()
    with pytest.raises(Quarantine, match="burned_in"):
        clean_file(data, load_profile("basic"), KEYS)
    done = clean_file(data, _profile(tmp_path), KEYS, cleaner=child.clean)  # type: ignore[arg-type]
    clean = pydicom.dcmread(io.BytesIO(done.part10))
    assert clean.BurnedInAnnotation == "NO"
    assert [c.CodeValue for c in clean.DeidentificationMethodCodeSequence] == ["113100", "113101"]
    assert done.manifest["actions"]["7FE00010"].startswith("C ")
    before, after = pydicom.dcmread(ultrasound).pixel_array, clean.pixel_array
    assert before.shape == after.shape
    assert (after[:22, :690] == 0).all()  # name, number, date of birth
    assert (after[150:600, 150:800] == before[150:600, 150:800]).mean() > 0.98


def test_rules_of_devices_hold() -> None:
    """A rule blanks its boxes where all its conditions hold, and only there."""
    made = picture(np.zeros((1, 480, 640), np.uint8))
    said = {
        "Modality": "US",
        "Manufacturer": "Philips Medical",
        "ManufacturerModelName": "iU22",
        "Rows": "480",
    }
    assert device_boxes(dataclasses.replace(made, header=said)) == [(0, 0, 640, 47)]
    assert device_boxes(dataclasses.replace(made, header={**said, "Rows": "4800"})) == []
    assert len(rules()) == 100


@pytest.mark.parametrize(
    ("text", "score", "stays"),
    [
        ("L", 0.99, True),
        ("4.0 cm", 0.95, True),
        ("L", 0.5, False),
        ("SMITH", 0.99, False),
        ("12.03.2017", 0.99, False),
    ],
)
def test_the_list_decides(text: str, score: float, stays: bool) -> None:
    """Sides and measures that were read well stay; everything else goes."""
    assert may_stay(Found((0, 0, 9, 9), text, score), frozenset()) is stays


def test_a_name_is_known_with_a_letter_wrong() -> None:
    """One change in four letters; short names only whole."""
    assert resembles("MUELIER ANNA", {"mueller"})
    assert not resembles("MUSCLE", {"mueller"})
    assert resembles("LI", {"li"})
    assert not resembles("LIVER", {"li"})


def test_signed_and_wide_values_are_shown() -> None:
    """Signed words are shown by value: the brightest is white, the darkest black."""
    words = np.array([[[-1000, 0], [500, 1000]]], np.int16)
    made: Picture = picture(words.view(np.uint16), signed=True)
    first = next(iter(renderings(words.view(np.uint16)[0][..., None], made)))
    assert first.tolist()[0][0] == 0
    assert first.tolist()[1][1] == 255


def test_pictures_are_cleaned_in_the_processes_of_a_command(tmp_path: Path, ultrasound: Path) -> None:
    """A worker has a process of its own for pixels, and takes it along when it ends."""
    _profile(tmp_path)
    key = tmp_path / "key"
    key.write_text("17" * 32)
    key.chmod(0o600)
    root = Path(__file__).parents[3]
    command = [sys.executable, str(root / "prodrome.py"), "deid", str(ultrasound), str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--profile", str(tmp_path / "site.toml"), "--key-file", str(key)],
        env={**os.environ, "PRODROME_HOME": str(tmp_path / "home"), "PYTHONPATH": str(root)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.endswith("1 written, 0 doubtful and not written\n"), done.stderr
    [path] = (tmp_path / "out").rglob("*.dcm")
    assert pydicom.dcmread(path).BurnedInAnnotation == "NO"
    assert not [
        p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or ())
    ]
