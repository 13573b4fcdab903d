"""Senders that others wrote: what they send is kept, element for element, in every transfer syntax they propose.

They read a file and encode it anew, so that its bytes change on the way; what it says must not.
"""

import os
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import pytest
from doors import DATA, Door, needs_data, stored
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag

from infra.spool import InstanceHeader
from producers.send import Item, inspect_file
from schemas.dicom_reader import DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE
from schemas.sources import Source

#: pydicom's, of values that are not as they should be: here they are compared as they are.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.parametrize("open_door", ["taken over"], indirect=True),
]

#: What each proposal of `storescu` is for; the others it knows are lossless relatives, or video.
PROPOSALS: Final = {
    "-xi": IMPLICIT_LE,
    "-xe": EXPLICIT_LE,
    "-xb": EXPLICIT_BE,
    "-xd": DEFLATED_LE,
    "-xs": "1.2.840.10008.1.2.4.70",
    "-xy": "1.2.840.10008.1.2.4.50",
    "-xx": "1.2.840.10008.1.2.4.51",
    "-xv": "1.2.840.10008.1.2.4.90",
    "-xw": "1.2.840.10008.1.2.4.91",
    "-xt": "1.2.840.10008.1.2.4.80",
    "-xu": "1.2.840.10008.1.2.4.81",
    "-xr": "1.2.840.10008.1.2.5",
}
SMALL_BYTES: Final = 300_000
#: Its first element has a VR that does not exist: DCMTK reads another value there than pydicom.
NOT_READ_ALIKE: Final = {"badVR.dcm"}
#: Bytes of one number, by VR: a big endian one is turned before it is compared.
_WIDTHS: Final = (
    dict.fromkeys(("US", "SS", "OW", "AT", "US or SS", "OB or OW", "US or OW"), 2)
    | dict.fromkeys(("UL", "SL", "FL", "OF", "OL"), 4)
    | dict.fromkeys(("FD", "OD", "UV", "SV", "OV"), 8)
)

Plain = dict[BaseTag, Any]


@pytest.fixture(scope="module")
def files() -> dict[Path, Item]:
    """The small DICOM files of the shared data, but one series of near copies: there are some in every syntax."""
    paths = (path for path in sorted(DATA.rglob("*")) if path.is_file() and "brain-mri" not in path.parts)
    found = (path for path in paths if path.stat().st_size < SMALL_BYTES)
    return {path: item for path in found if isinstance(item := inspect_file(path), Item)}


@pytest.fixture(scope="module")
def originals(files: dict[Path, Item]) -> dict[str, list[Plain]]:
    """What each instance says, by its UID."""
    read: dict[str, list[Plain]] = {}
    for path, item in files.items():
        read.setdefault(item.sop_instance_uid, []).append(plain(dcmread(path, force=True)))
    for path, item in files.items():
        if path.name in NOT_READ_ALIKE:
            read.pop(item.sop_instance_uid)
    return read


@needs_data
@pytest.mark.skipif(shutil.which("dcmsend") is None, reason="dcmsend (dcmtk) is absent: make peers")
def test_dcmsend(
    open_door: Callable[..., Door], files: dict[Path, Item], originals: dict[str, list[Plain]]
) -> None:
    """Each file in its own syntax."""
    door = open_door()
    command = ["dcmsend", "--no-halt", "--decompress-never", "-aec", "PRODROME", "127.0.0.1"]
    told = run([*command, str(door.destination.port)], files)
    door.stop()
    kept = stored(door.folder)
    assert len(kept) > 300, told
    assert len({header.transfer_syntax_uid for header, _ in kept}) > 10
    compare(kept, originals)


@needs_data
@pytest.mark.skipif(shutil.which("storescu") is None, reason="storescu (dcmtk) is absent: make peers")
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_storescu(
    open_door: Callable[..., Door],
    files: dict[Path, Item],
    originals: dict[str, list[Plain]],
    proposal: str,
) -> None:
    """One syntax, and whatever it falls back to for a file that it cannot give in that one."""
    syntax = PROPOSALS[proposal]
    door = open_door(Source(name="local", transfer_syntax_order=(syntax,)))
    told = run(
        ["storescu", "-nh", proposal, "-aec", "PRODROME", "127.0.0.1", str(door.destination.port)], files
    )
    door.stop()
    kept = stored(door.folder)
    assert len(kept) > 150, told
    assert sum(header.transfer_syntax_uid == syntax for header, _ in kept) >= 10
    compare(kept, originals)


def run(command: list[str], files: dict[Path, Item]) -> str:
    """Send them all; return what the sender says, which cannot give some of them in any syntax it proposes."""
    environment = os.environ | {"TCP_NODELAY": "1"}  # else 40 ms an instance pass with nothing done
    done = subprocess.run(
        [*command, *map(str, files)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stderr


def compare(kept: list[tuple[InstanceHeader, bytes]], originals: dict[str, list[Plain]]) -> None:
    """Each dataset says what one of the files of its UID says."""
    known = 0
    for header, data in kept:
        expected = originals.get(header.sop_instance_uid, [])
        if not expected:
            continue  # not read alike, or the UID is another in file meta and dataset
        known += 1
        came = plain(read(data, header.transfer_syntax_uid))
        nearest = min(([*differences(one, came)] for one in expected), key=len)
        assert not nearest, (header.transfer_syntax_uid, nearest[:5])
    assert known >= len(kept) - 10


def read(data: bytes, syntax: str) -> Dataset:
    """Return a dataset without file meta."""
    if syntax == DEFLATED_LE:
        data = zlib.decompress(data, -zlib.MAX_WBITS)
    uid = (EXPLICIT_LE if syntax == DEFLATED_LE else syntax).encode()
    uid += b"\0" * (len(uid) % 2)
    head = bytes(128) + b"DICM" + struct.pack("<HH2sH", 0x0002, 0x0010, b"UI", len(uid)) + uid
    return dcmread(BytesIO(head + data), force=True)


def plain(dataset: Dataset) -> Plain:
    """Return values as little endian bytes without padding, items as what they hold."""
    found: Plain = {}
    for tag in dataset.keys():  # noqa: SIM118 - iterating a dataset decodes its values
        if tag.element == 0 or tag == 0xFFFCFFFC:  # lengths of groups and padding: a sender's own
            continue
        raw = dataset.get_item(tag)
        if isinstance(raw, RawDataElement) and vr_of(raw, dataset) != "SQ":
            found[tag] = little(raw, dataset).rstrip(b"\0 ")
        elif dataset[tag].VR == "SQ":
            found[tag] = [plain(one) for one in dataset[tag].value]
        else:
            found[tag] = encoded(dataset[tag]).rstrip(b"\0 ")
    return found


def vr_of(raw: RawDataElement, dataset: Dataset) -> str:
    """Return the VR, from the dictionaries where the encoding says none."""
    if raw.VR is not None:
        return str(raw.VR)
    return str(dataset[raw.tag].VR if raw.tag.is_private else dictionary_VR(raw.tag))


def encoded(element: DataElement) -> bytes:
    """Return the value of an element that pydicom has decoded already."""
    file = DicomBytesIO()
    file.is_little_endian = file.is_implicit_VR = True
    write_data_element(file, element)
    return file.getvalue()[8:]


def little(raw: RawDataElement, dataset: Dataset) -> bytes:
    """Return the value in little endian."""
    value = raw.value or b""
    width = 1 if raw.is_little_endian else _WIDTHS.get(vr_of(raw, dataset), 1)
    return (
        b"".join(value[at : at + width][::-1] for at in range(0, len(value), width)) if width > 1 else value
    )


def differences(expected: Plain, came: Plain, path: str = "") -> Iterator[str]:
    """Yield where the two differ."""
    for tag in sorted(expected.keys() | came.keys()):
        one, other, here = expected.get(tag), came.get(tag), f"{path}{tag}"
        if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
            for number, (item, its) in enumerate(zip(one, other, strict=True)):
                yield from differences(item, its, f"{here}[{number}]")
        elif one != other:
            yield f"{here}: {str(one)[:80]} became {str(other)[:80]}"
