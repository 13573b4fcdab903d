"""Ratios to peers, measured beside each other in one run: the door, and the de-identification of one header.

1. The same datasets over the same associations to our receiver and to its peers (`doors`).
2. The CPU of our de-identification beside pydicom reading, walking and writing the same dataset, which is the
   least that a tool on pydicom does.
"""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pydicom

from commands.benching.doors import Door, measure, receivers
from commands.benching.wire import Load
from consumers.deid.engine import IntakeContext, ProjectKeys, basic_profile, deidentify
from infra.load import mr_instance
from schemas.dicom_reader import read_file_header


@dataclass(frozen=True, kw_only=True)
class Header:
    """CPU milliseconds for one dataset."""

    ours_ms: float
    pydicom_ms: float


def measure_doors(folder: Path, instances: int, associations: int, side: int) -> list[Door]:
    """Return the figures of each receiver, ours first."""
    return [
        measure(
            receiver,
            folder / receiver.name.replace(" ", "-"),
            Load(seed=receiver.name, instances=instances, associations=associations, side=side),
        )
        for receiver in receivers(folder)
    ]


def measure_header(repeats: int, side: int) -> Header:
    """Return the CPU of our whole de-identification and of pydicom's reading, walking and writing."""
    file = mr_instance("header", 0, 0, side=side)
    header = read_file_header(file)
    context = IntakeContext(
        project="default",
        transfer_syntax_uid=header.transfer_syntax_uid,
        sop_class_uid=header.sop_class_uid or "",
        sop_instance_uid=header.sop_instance_uid or "",
    )
    raw, profile = file[header.dataset_offset :], basic_profile()
    keys = ProjectKeys.derive(bytes(32), "default", "bench")
    return Header(
        ours_ms=_cpu_ms(lambda: deidentify(raw, context, profile, keys), repeats),
        pydicom_ms=_cpu_ms(lambda: _walk_and_write(file), repeats),
    )


def _walk_and_write(file: bytes) -> None:
    dataset = pydicom.dcmread(io.BytesIO(file))
    for element in dataset.iterall():
        str(element.tag)
    dataset.save_as(io.BytesIO(), enforce_file_format=True)


def _cpu_ms(step: Callable[[], object], repeats: int) -> float:
    step()
    begin = time.process_time()
    for _ in range(repeats):
        step()
    return 1000 * (time.process_time() - begin) / repeats
