"""The demo's exams are what they say: whole DICOM objects, with identifiers that can be searched for."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra import demo_attributes
from infra.demo import gamma, make_exams, missing_view, repeated_view, spot_view, to_bytes
from infra.png import read_png

pytestmark = pytest.mark.filterwarnings("error")


def errors_of(data: bytes, folder: Path) -> list[str]:
    """What dciodvfy calls an error."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy: make peers")
    (folder / "object.dcm").write_bytes(data)
    done = subprocess.run(
        ["dciodvfy", "-new", folder / "object.dcm"], capture_output=True, text=True, check=False
    )
    assert "MammographyImageForPresentation" in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("Error")]


def test_every_view_is_valid(exams, tmp_path):
    """dciodvfy finds no error in any view of any patient."""
    for exam in exams:
        for dataset in exam.datasets.values():
            assert errors_of(to_bytes(dataset), tmp_path) == []


def test_the_other_views_are_valid_too(exams, tmp_path):
    """Nor in a spot view or a repeated one."""
    assert errors_of(to_bytes(spot_view(exams[0])), tmp_path) == []
    assert errors_of(to_bytes(repeated_view(exams[1])), tmp_path) == []


def test_the_validator_bites(exams, tmp_path):
    """Without an attribute that the IOD wants, dciodvfy does find an error."""
    spoilt = spot_view(exams[0])
    del spoilt.ImageLaterality
    assert any("ImageLaterality" in line for line in errors_of(to_bytes(spoilt), tmp_path))


def test_every_planted_identifier_is_in_every_file(exams):
    """A search that finds nothing on the clean side must find all of it here."""
    for exam in exams:
        for data in map(to_bytes, exam.datasets.values()):
            assert [place for place, value in exam.canaries.items() if value.encode() not in data] == []


def test_two_patients_share_no_identifier(exams):
    """But for the day, nothing planted in one is planted in the other."""
    first, second = (set(exam.canaries.items()) for exam in exams)
    assert {place for place, _ in first & second} == {"StudyDate"}


def test_no_planted_identifier_occurs_by_chance(exams):
    """Each is long enough to be nobody else's bytes."""
    assert min(len(value) for exam in exams for value in exam.canaries.values()) >= 8


def test_the_same_seed_gives_the_same_bytes(exams, images):
    """Exams are a function of their arguments."""
    again = make_exams(images)
    assert to_bytes(again[1].datasets["R-CC"]) == to_bytes(exams[1].datasets["R-CC"])
    other = make_exams(images, seed="other")
    assert other[0].datasets["L-CC"].StudyInstanceUID != exams[0].datasets["L-CC"].StudyInstanceUID


def test_the_second_patient_has_the_stated_pixels(exams, images):
    """The first has the published pixels, the second the stated power of them."""
    first, second = (exam.datasets["L-MLO"].pixel_array for exam in exams)
    assert np.array_equal(first, images["L-MLO"])
    assert np.array_equal(second, gamma(images["L-MLO"], 1.25))
    assert exams[1].statement == "grey levels raised to the power 1.25"


def test_a_repeated_view_is_later_and_other(exams):
    """A repeat has its own UID, a later time and other pixels, and leaves the exam as it was."""
    before, again = exams[0].datasets["L-CC"], repeated_view(exams[0], "L-CC", minutes=7)
    assert again.SOPInstanceUID != before.SOPInstanceUID == before.file_meta.MediaStorageSOPInstanceUID
    assert again.AcquisitionTime > exams[0].datasets["R-MLO"].AcquisitionTime
    assert again.PixelData != before.PixelData
    assert again.StudyInstanceUID == before.StudyInstanceUID


def test_a_spot_view_says_so(exams):
    """A spot compression carries its modifier; the exam's own view carries none."""
    modifiers = spot_view(exams[0]).ViewCodeSequence[0].ViewModifierCodeSequence
    assert [item.CodeMeaning for item in modifiers] == ["spot compression"]
    assert len(exams[0].datasets["L-CC"].ViewCodeSequence[0].ViewModifierCodeSequence) == 0


def test_a_missing_view_is_missing(exams):
    """Three views are left, and the exam keeps its four."""
    assert list(missing_view(exams[0], "R-CC").datasets) == ["L-CC", "L-MLO", "R-MLO"]
    assert len(exams[0].datasets) == 4


def test_what_is_invented_says_why(exams):
    """Each invented attribute is in every file, with a sentence."""
    for keyword, (_value, why) in demo_attributes.INVENTED.items():
        assert keyword in exams[0].datasets["L-CC"]
        assert why.endswith(".")


def test_png_is_read_like_pillow_reads_it(package, images):
    """The small PNG reader agrees with an imaging library, pixel by pixel."""
    for view, pixels in images.items():
        assert np.array_equal(pixels, np.asarray(Image.open(package / "example" / f"{view}.png")))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (9, 5)])
def test_small_png_are_read(tmp_path, shape):
    """The diagonals hold at the borders of the smallest images."""
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert np.array_equal(read_png((tmp_path / "x.png").read_bytes()), pixels)


def test_other_png_are_refused(tmp_path):
    """Colour, damage and other files are refused with what was expected."""
    Image.new("RGB", (2, 2)).save(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    for other, expected in (
        (data, "8-bit greyscale"),
        (data[:40] + b"x" + data[41:], "intact"),
        (b"", "signature"),
    ):
        with pytest.raises(ValueError, match=expected):
            read_png(other)
