"""The same instance in another transfer syntax is a duplicate; one whose attributes changed is a conflict.

The peers' own converters make the second copy (DCMTK), so that nothing of ours is on both sides.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pydicom
import pytest
from house import House, eventually, stored

pytestmark = pytest.mark.stack

IMAGES: Final = (
    "dicom-mix/src/pydicom/data/test_files/MR_small.dcm",
    "dicom-mix/src/pydicom/data/test_files/CT_small.dcm",
    "brain-mri/dicoms/N2D_0200.dcm",
    "dicom-mix/src/pydicom/data/test_files/SC_rgb_small_odd.dcm",
)
#: The first of them are in grey: dcmcjpeg changes the colours of others.
GREY: Final = 3
#: name -> (program and its options, the transfer syntax that comes out)
CONVERTED: Final = {
    "implicit": (("dcmconv", "+ti"), "1.2.840.10008.1.2"),
    "explicit": (("dcmconv", "+te"), "1.2.840.10008.1.2.1"),
    "undefined lengths": (("dcmconv", "+te", "-e"), "1.2.840.10008.1.2.1"),
    "big endian": (("dcmconv", "+tb"), "1.2.840.10008.1.2.2"),
    "deflated": (("dcmconv", "+td"), "1.2.840.10008.1.2.1.99"),
    "RLE": (("dcmcrle",), "1.2.840.10008.1.2.5"),
    "JPEG-LS": (("dcmcjpls",), "1.2.840.10008.1.2.4.80"),
    "JPEG": (("dcmcjpeg", "+e1"), "1.2.840.10008.1.2.4.70"),
}


def converted(peer: Callable[[str], str], name: str, path: Path, folder: Path) -> Path:
    """Convert a file, and check that it came out in the syntax that was meant."""
    (program, *options), syntax = CONVERTED[name]
    target = folder / f"{path.stem} {name}.dcm"
    subprocess.run([peer(program), *options, path, target], check=True, capture_output=True, timeout=60)
    assert pydicom.dcmread(target, specific_tags=[]).file_meta.TransferSyntaxUID == syntax
    return target


@pytest.fixture(scope="module")
def originals(house: House, shared: Callable[[str], Path]) -> list[Path]:
    """Images in grey and colour, sent as they are, indexed."""
    paths = [shared(name) for name in IMAGES]
    before = house.balance()
    assert stored(house.send(paths, "SYNTAX"))
    assert house.gained(before) == {"acknowledged": len(paths), "clean": len(paths)}
    return paths


@pytest.mark.parametrize("name", [name for name in CONVERTED if name != "JPEG"])
def test_another_transfer_syntax_is_a_duplicate(
    house: House, originals: list[Path], peer: Callable[[str], str], tmp_path: Path, name: str
) -> None:
    """Each image, converted and sent through the same door again, has no new effect."""
    before = house.balance()
    assert stored(house.send([converted(peer, name, path, tmp_path) for path in originals], "SYNTAX"))
    assert house.gained(before) == {"acknowledged": len(IMAGES), "duplicate": len(IMAGES)}


def test_lossless_jpeg_is_a_duplicate(
    house: House, originals: list[Path], peer: Callable[[str], str], tmp_path: Path
) -> None:
    """So has one in lossless JPEG, once the DerivationDescription that dcmcjpeg adds is gone."""
    paths = [converted(peer, "JPEG", path, tmp_path) for path in originals[:GREY]]
    command = [peer("dcmodify"), "--no-backup", "--erase-all", "DerivationDescription", *paths]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    before = house.balance()
    assert stored(house.send(paths, "SYNTAX"))
    assert house.gained(before) == {"acknowledged": GREY, "duplicate": GREY}


def test_another_description_in_another_syntax_is_a_conflict(
    house: House, originals: list[Path], peer: Callable[[str], str], tmp_path: Path
) -> None:
    """With that description both content and pixels differ: kept, not effective, said in lifecycle."""
    copy = converted(peer, "JPEG", originals[0], tmp_path)
    before = house.balance()
    assert stored(house.send([copy], "SYNTAX"))
    assert house.gained(before) == {"acknowledged": 1, "conflict": 1}
    sop = house.keys("syntax").pseudonymous_uid(str(pydicom.dcmread(copy).SOPInstanceUID))
    eventually(lambda: sop in said_of(house, "uid_conflict"), "word of the conflict")
    versions = house.json("query", "--project", "syntax", "--json", "instance", sop)
    assert [(v["version"], v["conflict"]) for v in sorted(versions, key=lambda v: v["version"])] == [
        (0, False),
        (1, True),
    ]


def test_another_description_in_the_same_pixels_is_a_correction(
    house: House, originals: list[Path], peer: Callable[[str], str], tmp_path: Path
) -> None:
    """An image whose attributes were changed around the same pixels corrects the first: the later counts."""
    copy = tmp_path / "corrected.dcm"
    copy.write_bytes(originals[1].read_bytes())
    command = [peer("dcmodify"), "--no-backup", "--modify", "PatientID=another", copy]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    before = house.balance()
    assert stored(house.send([copy], "SYNTAX"))
    assert house.gained(before) == {"acknowledged": 1, "corrected": 1}


def said_of(house: House, kind: str) -> set[str]:
    """The instances of which lifecycle has said this."""
    return {event["sop_instance_uid"] for event in list(house.lifecycle) if event["kind"] == kind}
