"""The spool: what was received, byte for byte, durable before it is acknowledged.

A spool is a folder with one writer. It holds segments, append-only files of records; a record is a header
and the dataset exactly as it came.

1. `format` says what stands in the bytes; `segment` writes one file.
2. `writer.Spool` appends for many associations at once and syncs for all who wait (group commit). A record
   is acknowledged only after the sync that covers it.
3. `recovery` brings the folder into order after a kill or a power loss, before the writer starts.
4. `watermark` tells other processes how far the spool is durable; `reader` reads up to there, by position
   for the relay and by pointer for everyone else, and frees segments.
5. Further receiver processes have spools of their own inside the first one's folder: `readers` gives all.
6. `server` and `client` are the same by pointer for other machines: ranges over HTTP.

It knows nothing of DICOM beyond the names in a record's header, and nothing of Kafka.
"""

from infra.spool.format import (
    AssociationClosedHeader,
    AssociationCounts,
    InstanceHeader,
    Kind,
    SealedHeader,
)
from infra.spool.reader import SegmentFreed, SpoolReader, SpoolStore, UnknownSpool, pointer_to, readers
from infra.spool.scan import Record
from infra.spool.space import SpoolLimits
from infra.spool.writer import LargeInstance, Spool, Stored

__all__ = [
    "AssociationClosedHeader",
    "AssociationCounts",
    "InstanceHeader",
    "Kind",
    "LargeInstance",
    "Record",
    "SealedHeader",
    "SegmentFreed",
    "Spool",
    "SpoolLimits",
    "SpoolReader",
    "SpoolStore",
    "Stored",
    "UnknownSpool",
    "pointer_to",
    "readers",
]
