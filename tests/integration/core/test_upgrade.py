"""What the last release has stored is read by this one: rows, bodies, sealed values, manifests, spool segments.

tests/data/stored holds what that release left behind after synthetic exams: every row, small objects, a spool
whose writer was killed. The tables here are made by its own migrations, filled, and then migrated.
"""

import base64
import gzip
import hashlib
import json
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stage_rig import Fixed, InThis, Outbox, record

import infra.cassandra
from commands.releases import Wanted, waiting
from consumers import preparing
from consumers.assemble import Assembler
from consumers.ledger import balance
from consumers.preparing import Preparing
from consumers.quiet import StudyKey
from consumers.score import Score
from consumers.vault import Vault
from infra.cassandra import MIGRATIONS, Tables, migrate
from infra.clock import ManualClock, SystemClock
from infra.connections import CassandraConnection
from infra.objects import Store
from infra.seal import Sealer
from infra.settings import Settings
from infra.spool import Spool, SpoolReader, SpoolStore, pointer_to
from infra.spool.format import InstanceHeader
from producers.outbox import messages
from schemas.codec import decode
from schemas.events import InstanceSettled
from schemas.release import latest
from schemas.topics import BY_NAME
from scoring.score import MODELS, load

pytestmark = pytest.mark.stack

STORED = Path(__file__).parents[2] / "data" / "stored" / f"{latest().name}.json.gz"


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    """All that the release left."""
    found: dict[str, Any] = json.loads(gzip.decompress(STORED.read_bytes()))
    return found


@pytest.fixture(scope="module")
def left(stored: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its objects and its spool, in a home."""
    home = tmp_path_factory.mktemp("left")
    for name, text in stored["objects"].items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(base64.b64decode(text))
    return home


@pytest.fixture(scope="module")
def rows(
    cassandra_at: CassandraConnection, stored: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tables]:
    """Its tables, filled, and migrated to today."""
    name = f"upgrade_{uuid.uuid4().hex[:12]}"
    before = tmp_path_factory.mktemp("migrations")
    for zone, tables in stored["tables"].items():
        (before / zone).mkdir()
        for row in map(json.loads, tables["schema_migrations"]):
            shutil.copy(MIGRATIONS / zone / row["name"], before / zone)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(infra.cassandra, "MIGRATIONS", before)
        for zone in stored["tables"]:
            migrate(cassandra_at, name, zone, 1)
    found = Tables(cassandra_at, name)
    found.run_all(
        (f"INSERT INTO {table} JSON ?", (line,))
        for tables in stored["tables"].values()
        for table, lines in tables.items()
        if table != "schema_migrations"
        for line in lines
    )
    for zone in stored["tables"]:
        migrate(cassandra_at, name, zone, 1)
    yield found
    found.close()


@pytest.fixture
def clean(left: Path) -> Store:
    return Store(f"file://{left}/clean", "clean")


def of(stored: dict[str, Any], zone: str, table: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stored["tables"][zone][table]]


def said(stored: dict[str, Any], topic: str) -> list[Any]:
    """Its events on a topic, by the readers of today."""
    return [
        decode(
            message["value"].encode(),
            [(name, text.encode()) for name, text in message["headers"].items()],
            accepts=BY_NAME[topic].types,
        )
        for message in stored["messages"]
        if message["topic"] == topic
    ]


def bodies(outbox: Outbox) -> set[tuple[str, bytes]]:
    """What is said now, as it goes out."""
    return {(message.topic, message.value) for message in outbox.sent}


def bodies_said(stored: dict[str, Any]) -> set[tuple[str, bytes]]:
    """What the release had said."""
    return {(message["topic"], message["value"].encode()) for message in stored["messages"]}


def test_closed_studies_are_found_closed(rows: Tables, stored: dict[str, Any], clean: Store) -> None:
    """The rows give the set of their head again, so that what was said then is said again, and nothing else."""
    outbox = Outbox()
    heads = of(stored, "clean", "study_head")
    for head in heads:
        Assembler(rows, clean, outbox).close(StudyKey(head["project"], head["study"]))  # type: ignore[arg-type]
    assert len(heads) == 4
    assert bodies(outbox) <= bodies_said(stored)
    assert {(event.study_instance_uid, event.revision) for event in outbox.of("study.revised.v1")} == {
        (head["study"], head["revision"]) for head in heads
    }


def test_a_study_with_a_row_more_gets_the_next_revision(
    rows: Tables, stored: dict[str, Any], clean: Store
) -> None:
    """The comparison above bites: a head that lacks an instance is followed by another."""
    outbox, head = Outbox(), max(of(stored, "clean", "study_head"), key=lambda row: row["revision"])
    key = StudyKey(head["project"], f"{head['study']}.1")
    columns = [row for row in of(stored, "clean", "study_instances") if row["study"] == head["study"]]
    rows.run("INSERT INTO study_head JSON ?", (json.dumps(head | {"study": key.study}),))
    for row in columns[:-1]:
        rows.run("INSERT INTO study_instances JSON ?", (json.dumps(row | {"study": key.study}),))
    Assembler(rows, clean, outbox).close(key)  # type: ignore[arg-type]
    assert [event.revision for event in outbox.of("study.revised.v1")] == [head["revision"] + 1]


def test_answered_revisions_are_not_answered_again(
    rows: Tables,
    stored: dict[str, Any],
    clean: Store,
    settings: Settings,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every revision again, through the tables and manifests as they were: the answers of then, word for word."""
    outbox = Outbox()
    monkeypatch.setattr(preparing, "Workers", InThis)
    serving, hands = Fixed(load(MODELS / "density")), Preparing(settings, "test")
    score = Score(settings, rows, clean, outbox, clock, serving, hands)  # type: ignore[arg-type]
    waiting_rows = of(stored, "clean", "waiting_runs")
    score.assigned(frozenset(row["partition"] for row in waiting_rows))
    score.handle([record(event) for event in said(stored, "study.revised.v1")])
    assert len(waiting_rows) == 1
    assert bodies(outbox) <= bodies_said(stored)
    assert outbox.of("prediction.v1")
    outbox.sent.clear()
    clock.advance(settings.score.deadline_seconds + 1)
    score.tick()
    assert [p.outcome for p in outbox.of("prediction.v1")] == ["incomplete"]


def test_the_balance_is_the_one_that_was(rows: Tables, stored: dict[str, Any]) -> None:
    """Ledger rows are counted as they were settled."""
    settled = [event for event in said(stored, "instance.settled.v1") if isinstance(event, InstanceSettled)]
    ended = Counter(
        {(e.segment, record.record): record.outcome for e in settled for record in e.records}.values()
    )
    found = balance(rows)
    assert {name: found[name] for name in ended} == ended
    assert found["in_flight"] == 0
    assert found["acknowledged"] == ended.total() == 21


def test_the_vault_opens(rows: Tables, stored: dict[str, Any]) -> None:
    """Every sealed row, under the key of then."""
    vault = Vault(rows, {1: bytes.fromhex(stored["master_key"])}, "k1")
    for row in of(stored, "trusted", "vault_instances"):
        kept = vault.instance(row["project"], row["study"], row["sop"])
        assert kept is not None
        assert kept["sop_instance_uid"].startswith(("1.2.826", "2.25."))
    studies = [vault.study(row["project"], row["study"]) for row in of(stored, "trusted", "vault_studies")]
    assert len([study for study in studies if study and study["study_instance_uid"]]) == 4
    assert len(vault.studies_of_accession("default", "ACC0001")) == 1


def test_what_waits_in_quarantine_is_listed_and_opens(
    rows: Tables, stored: dict[str, Any], left: Path
) -> None:
    """Its row, and the bytes behind it."""
    [row] = of(stored, "trusted", "quarantine")
    assert [found.reason for found in waiting(rows, Wanted("default"), SystemClock())] == [row["reason"]]
    sealer = Sealer({1: bytes.fromhex(stored["master_key"])}, "default", "quarantine", "k1")
    [path] = [path for path in (left / "trusted" / "quarantine").rglob("*") if path.is_file()]
    opened = sealer.open(path.read_bytes(), f"default {row['intake']}")
    assert row["sop_class"].encode() in opened


def test_the_spool_is_read_recovered_and_relayed(stored: dict[str, Any], left: Path) -> None:
    """Segments of a writer that was killed: every payload, also after a new writer has taken over."""
    folder = left / "spool"
    Spool(folder).close()
    reader, store = SpoolReader(folder), SpoolStore.of(folder)
    records = [record for number in reader.segments() for record in reader.records(number)]
    payloads = [
        store.read(pointer_to(reader.id, record))
        for record in records
        if isinstance(record.header, InstanceHeader)
    ]
    assert sorted(hashlib.sha256(data).hexdigest() for data in payloads) == stored["payloads"]
    received = [m for m in messages(reader.id, records, 64 << 20) if b'"instances":[' in m.value]
    assert sum(m.value.count(b'"intake"') for m in received) == len(payloads) == 9
