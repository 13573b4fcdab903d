"""The door over a spool that holds much already: what it finds whose relay was away for weeks.

The instances kept before are generated into sealed segments, small ones and by the million, since what may grow is
what the spool keeps of each of them. Then a receiver starts on it and takes a load, as it does over an empty one.
"""

import os
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from commands.benching.doors import Receiver, rss_mb, running
from commands.benching.figures import Quantiles
from commands.benching.wire import Load, send_load
from infra.spool import InstanceHeader, Kind, SpoolLimits, files
from infra.spool.format import AssociationsOpenHeader, payload_hash
from infra.spool.segment import Segment, new_header

#: Of the dataset of an instance that is kept.
_PAYLOAD: Final = bytes(400)
#: How often the progress is told, instances.
_STEP: Final = 10_000
_TRACE: Final = "0" * 32


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One receiver over so many kept instances: how long it took to listen, and how it then answered."""

    start_seconds: float
    ack: Quantiles
    rss_mb: float


def fill(folder: Path, count: int, advance: Callable[[int], None]) -> None:
    """Make a spool of `count` small instances, as a writer and its syncs would have left it."""
    spool, run = files.make_spool(folder).spool, str(uuid.uuid4())
    limits, hashed, done, number = SpoolLimits(), payload_hash(_PAYLOAD), 0, 0
    while done < count:
        number += 1
        segment = Segment.create(
            files.segment_path(folder, number), new_header(spool, number, run, time.time())
        )
        segment.append(Kind.ASSOCIATIONS_OPEN, AssociationsOpenHeader(associations=()))
        while done < count and segment.tail < limits.segment_bytes:
            segment.append(Kind.INSTANCE, _header(done), [_PAYLOAD], hashed)
            segment.covered(segment.tail)
            done += 1
            if done % _STEP == 0:
                advance(_STEP)
        segment.seal("full")
        os.fsync(segment.descriptor)
        segment.close()
    files.sync_folder(folder)
    advance(done % _STEP)


def measure_kept(
    receiver: Receiver, folder: Path, load: Load, kept: int, advance: Callable[[int], None]
) -> Kept:
    """Fill a spool, start a receiver on it and send a load; `folder` is removed again."""
    try:
        fill(folder / "spool", kept, advance)
        began = time.monotonic()
        with running(receiver, folder) as (pid, port):
            took_to_start = time.monotonic() - began
            send_load(replace(load, port=port, seed=f"{load.seed} warm-up"))
            took = send_load(replace(load, port=port))
            held = rss_mb(pid)
    finally:
        shutil.rmtree(folder)
    return Kept(start_seconds=took_to_start, ack=Quantiles.of(took.ack_ms), rss_mb=held)


def _header(number: int) -> InstanceHeader:
    study = number // 300
    return InstanceHeader(
        project="default",
        source="local",
        association=f"{study:032x}",
        ordinal=number % 300,
        calling_ae_title="BENCH",
        called_ae_title="PRODROME",
        address="127.0.0.1",
        trace=_TRACE,
        received_at=0.0,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
        sop_instance_uid=f"2.25.{number}",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        study_instance_uid=f"2.25.1{study}",
    )
