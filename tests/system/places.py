"""Everything that a running system has written down, piece by piece, zone by zone: where a leak would lie.

A `Place` has a name, its bytes as they are, and its single values where it has some. What is packed is
unpacked as well (a deflated dataset, base64 and zlib inside JSON), so that nothing hides in a packing of ours.
The letters of a packing that was unpacked to its last byte are opaque: four in a row make a name by chance.
`hits` searches them.
"""

import base64
import binascii
import io
import json
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pydicom
from house import House
from needles import Hit, Search

from infra.spool import InstanceHeader, SpoolReader, SpoolStore, pointer_to
from schemas.dicom_reader import DicomReadError, read_file_header
from schemas.topics import TOPICS, Zone

_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_PIXEL_DATA: Final = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]{8,}={0,2}")
#: No needle holds it, so that none is found across two places.
_BETWEEN: Final = b"\x00\n\x00\n"
_TEXT: Final = bytes(range(0x20, 0x7F)) + b"\t\r\n"


class Place(NamedTuple):
    """Bytes of one place; `opaque` where they are pixels or encrypted, `values` the single texts in them."""

    name: str
    data: bytes
    opaque: bool = False
    values: tuple[str, ...] = ()


def of_file(name: str, data: bytes) -> Iterator[Place]:
    """The places of one stored object: a DICOM file, JSON, or packed metadata."""
    try:
        header = read_file_header(data)
    except DicomReadError:
        yield from of_text(name, data)
        return
    body = data[header.dataset_offset :]
    yield Place(f"{name} meta", data[: header.dataset_offset])
    if header.transfer_syntax_uid == _DEFLATED:
        yield Place(f"{name} deflated", body, opaque=True)
        body = zlib.decompress(body, -zlib.MAX_WBITS)
    at = min((found for tag in _PIXEL_DATA if (found := body.find(tag)) >= 0), default=len(body))
    yield Place(f"{name} dataset", body[:at], values=tuple(_elements(data)))
    yield Place(f"{name} pixels", body[at:], opaque=True)


def of_text(name: str, data: bytes) -> Iterator[Place]:
    """The places of one text: itself, its JSON strings, and what is packed in them."""
    try:
        strings = tuple(_strings(json.loads(data)))
    except ValueError:
        strings = (data.decode("latin-1"),) if _BASE64.fullmatch(data.decode("latin-1")) else ()
    outside = data
    for text in strings:
        inside, inflated = _unpacked(text) if _BASE64.fullmatch(text) else (b"", False)
        if inside and _is_text(inside):
            yield from of_text(f"{name} unpacked", inside)
            if inflated:
                yield Place(f"{name} packed", text.encode(), opaque=True)
                outside = outside.replace(text.encode(), b"")
        elif inside:
            yield Place(f"{name} unpacked", inside, opaque=True)
    yield Place(name, outside, values=strings)


def clean_files(house: House) -> Iterator[Place]:
    """The names and contents of every clean object, manifest and metadata, and of what scoring keeps."""
    for store in ("clean", "results"):
        for path in _files(house.stored_under / store):
            name = str(path.relative_to(house.stored_under))
            yield Place(f"names of {store} objects", name.encode())
            if path.suffix == ".npz":
                yield Place(name, path.read_bytes(), opaque=True)
            else:
                yield from of_file(name, path.read_bytes())


def topics(house: House, zone: Zone, *, values: bool = True) -> Iterator[Place]:
    """Every message of a zone's topics: key, headers, and value."""
    for topic in TOPICS:
        if topic.zone != zone:
            continue
        for message in house.topic(topic.name):
            name = f"{topic.name} {message.partition}@{message.offset}"
            yield Place(f"{name} key", message.key)
            yield Place(f"{name} headers", b"\n".join(n.encode() + b": " + v for n, v in message.headers))
            if values:
                yield from of_text(f"{name} value", message.value)


def tables(house: House, zone: Zone) -> Iterator[Place]:
    """Every row of every table of a zone's keyspace."""
    keyspace = getattr(house.settings, zone).keyspace
    with house.everything(zone) as session:
        names = session.run(
            "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?", (keyspace,)
        )
        for (table,) in names:
            for number, row in enumerate(session.run(f"SELECT * FROM {keyspace}.{table}")):
                for column, cell in row._asdict().items():
                    name = f"{keyspace}.{table} row {number} {column}"
                    if isinstance(cell, bytes):
                        yield Place(name, cell, opaque=True)
                        yield Place(name, cell.hex().encode(), opaque=True)
                    else:
                        yield from of_text(name, str(cell).encode())
                        yield Place(name, b"", values=(str(cell),))


def logs_and_work(house: House) -> Iterator[Place]:
    """Every log, the supervisor's among them, and what the roles write to find their way after a death."""
    for folder in ("logs", "work"):
        for path in _files(house.home / folder):
            yield Place(f"{folder}/{path.name}", path.read_bytes())


def metrics(house: House) -> Iterator[Place]:
    """Every role's endpoint."""
    yield from (Place(f"metrics of {role}", text.encode()) for role, text in house.metrics().items())


def sealed(house: House) -> Iterator[Place]:
    """What is encrypted: quarantined objects with their names, and the vault's rows."""
    for path in _files(house.stored_under / "trusted"):
        yield Place("names of quarantined objects", str(path.relative_to(house.stored_under)).encode())
        yield Place(str(path.relative_to(house.stored_under)), path.read_bytes(), opaque=True)
    yield from (
        place for place in tables(house, "trusted") if ".vault_" in place.name or ".acc" in place.name
    )


def spool(house: House, project: str) -> Iterator[Place]:
    """The datasets of a project in the spool, which holds what was sent as it was sent."""
    reader = SpoolReader(Path(house.settings.spool.path))
    store = SpoolStore.of(reader.folder)
    for segment in reader.segments():
        for record in reader.records(segment):
            if isinstance(record.header, InstanceHeader) and record.header.project == project:
                name = f"spool {segment} record {record.number}"
                yield Place(name, store.read(pointer_to(reader.id, record)))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _elements(data: bytes) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for element in pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True).iterall():
            if element.VR != "SQ":
                yield from (str(v) for v in (element.value if element.VM > 1 else [element.value]))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield str(name)
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
    elif isinstance(value, str):
        yield value


def _unpacked(text: str) -> tuple[bytes, bool]:
    """What base64 holds, and whether all of it was inflated; nothing where it is none."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b"", False
    worker = zlib.decompressobj()
    try:
        return worker.decompress(data), worker.eof and not worker.unused_data
    except zlib.error:
        return data, False


def _is_text(data: bytes) -> bool:
    return not data.translate(None, _TEXT)


def hits(search: Search, some: Iterable[Place]) -> dict[str, set[Hit]]:
    """What is found, by place; says how much was searched."""
    found: dict[str, set[Hit]] = {}
    kinds: Counter[str] = Counter()
    size = 0
    for together in batches(some):
        kinds.update(re.split(r"[ /]", place.name)[0] for place in together)
        size += sum(len(place.data) for place in together)
        values = [value for place in together for value in place.values]
        if search(_BETWEEN.join(p.data for p in together), opaque=together[0].opaque) or search.in_values(
            values
        ):
            for place in together:
                if hit := search(place.data, opaque=place.opaque) | search.in_values(place.values):
                    found.setdefault(place.name, set()).update(hit)
    print(f"{len(search.needles)} needles in {size / 1e6:.1f} MB of {dict(kinds)}")
    assert kinds
    return found


def batches(some: Iterable[Place], size: int = 1 << 20) -> Iterator[list[Place]]:
    """Small places together, for they are many; each list is all opaque, or not at all."""
    together: dict[bool, list[Place]] = {True: [], False: []}
    for place in some:
        mine = together[place.opaque]
        mine.append(place)
        if sum(len(place.data) for place in mine[-1:]) >= size or len(mine) >= 500:
            yield mine
            together[place.opaque] = []
    yield from filter(None, together.values())
