"""What tests of the spool share: headers, and a look at everything that a spool holds."""

from collections.abc import Callable
from pathlib import Path

import pytest

from infra.spool import InstanceHeader, Kind, Record, SpoolLimits, SpoolReader, SpoolStore, pointer_to

HeaderMaker = Callable[..., InstanceHeader]


def instance_header(ordinal: int = 0, association: str = "a0", study: str | None = "1.2.3") -> InstanceHeader:
    """A header like the receiver's."""
    return InstanceHeader(
        project="default",
        source="local",
        association=association,
        ordinal=ordinal,
        calling_ae_title="MODALITY",
        called_ae_title="PRODROME",
        address="127.0.0.1",
        trace="0" * 32,
        received_at=1.0,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid=f"1.2.3.{ordinal}",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        study_instance_uid=study,
    )


def all_records(folder: Path) -> list[Record]:
    """Every durable record of a spool, in order."""
    reader = SpoolReader(folder)
    return [record for number in reader.segments() for record in reader.records(number)]


def all_payloads(folder: Path) -> list[bytes]:
    """Every durable dataset, checksums verified."""
    reader, store = SpoolReader(folder), SpoolStore.of(folder)
    records = (record for record in all_records(folder) if record.kind == Kind.INSTANCE)
    return [store.read(pointer_to(reader.id, record)) for record in records]


@pytest.fixture
def header() -> HeaderMaker:
    return instance_header


@pytest.fixture
def payloads() -> Callable[[Path], list[bytes]]:
    return all_payloads


@pytest.fixture
def records() -> Callable[[Path], list[Record]]:
    return all_records


@pytest.fixture
def limits() -> SpoolLimits:
    """Small segments, so that a few records fill one."""
    return SpoolLimits(segment_bytes=64 << 10, limit_bytes=64 << 20)
