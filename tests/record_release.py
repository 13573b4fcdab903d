"""Record what this release stores: `python tests/record_release.py HOME`, of a stack that is up and has worked.

Writes tests/data/stored/<version>.json.gz: every row and every message, small objects, the spool of a writer that
was killed, and the master key. For synthetic exams only: `prodrome demo`, small files with `prodrome send` (one
that is quarantined, one corrected, one in conflict), and one view of an exam alone, whose model then waits.
`tests/integration/core/test_upgrade.py` says what it looks for.
"""

import base64
import gzip
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from commands.wiring import opened
from infra.connections import kafka_of
from infra.kafka import read
from infra.settings import Settings, load, master_key
from infra.spool import InstanceHeader, Spool, SpoolLimits
from schemas.generate import version
from schemas.topics import TOPICS

SMALL_BYTES = 16 << 10


def record(found: Settings) -> dict[str, Any]:
    """Return all of it."""
    objects: dict[str, str] = {}
    for zone in ("trusted", "clean"):
        objects |= files(found.home / zone, zone)
    spool, payloads = killed_spool()
    return {
        "tables": {zone: tables(found, zone) for zone in ("trusted", "clean")},
        "messages": [shown for topic in TOPICS for shown in messages(found, topic.name, topic.zone)],
        "objects": objects | spool,
        "payloads": payloads,
        "master_key": master_key(found).hex(),
    }


def tables(found: Settings, zone: str) -> dict[str, list[str]]:
    """Return every row of a zone's keyspace, as Cassandra writes JSON, by table."""
    at = getattr(found, zone)
    of = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?"
    with opened(at) as rows:
        names = sorted(row.table_name for row in rows.run(of, (at.keyspace,)))
        return {name: sorted(row[0] for row in rows.run(f"SELECT JSON * FROM {name}")) for name in names}


def messages(found: Settings, topic: str, zone: str) -> list[dict[str, Any]]:
    """Return what a topic holds."""
    return [
        {
            "topic": topic,
            "key": message.key.decode(),
            "headers": {name: value.decode() for name, value in message.headers},
            "value": message.value.decode(),
        }
        for message in read(kafka_of(getattr(found, zone)), topic, from_start=True, follow=False)
    ]


def files(folder: Path, name: str, most: int = SMALL_BYTES) -> dict[str, str]:
    """Return the small files of a folder in base64."""
    return {
        f"{name}/{path.relative_to(folder)}": base64.b64encode(path.read_bytes()).decode()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stat().st_size <= most
    }


def killed_spool() -> tuple[dict[str, str], list[str]]:
    """Return a spool of full, large and unfinished segments, and the digests of what is in it."""
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), SpoolLimits(segment_bytes=16 << 10, limit_bytes=1 << 30))
        payloads = [os.urandom(length) for length in (0, 1, 7, 1000, 6000, 9000, 3000, 2000)]
        for ordinal, payload in enumerate(payloads):
            spool.store(header(ordinal, f"a{ordinal // 5}"), payload)
        spool.close_association("a0", "released")
        large = spool.begin_large()
        large.write(payloads[-1])
        large.finish(header(8, "a1"))
        left = files(Path(folder), "spool", most=1 << 20)
        spool.close()
    return left, sorted(hashlib.sha256(payload).hexdigest() for payload in [*payloads, payloads[-1]])


def header(ordinal: int, association: str) -> InstanceHeader:
    """Return a header like the receiver's."""
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
        study_instance_uid="1.2.3",
    )


if __name__ == "__main__":
    path = Path(__file__).parent / "data" / "stored" / f"{version()}.json.gz"
    text = json.dumps(record(load({"PRODROME_HOME": sys.argv[1]})), indent=0, sort_keys=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(path)
