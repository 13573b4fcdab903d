"""`prodrome reconcile`: ledger against catalog against stores, row by row, and repairs from what is kept.

1. Every clean, corrected or conflicting intake of the ledger is an indexed version, or was removed on purpose.
2. Every version has its clean object, of its length, and its vault row; every identity has its version.
3. Every object of the clean store has a row; every quarantined row has its object; every head is published.
4. Nothing lies in a store that a kill left of an object half written.

A repair puts the intake's event back on its topic while the spool keeps the segment: effects are keyed, so
that what is whole stays as it is. Where the raw bytes are gone the identity is removed, so that the same
image, sent again, is taken. Rows are read a page at a time; what must be looked up lies in a temporary file.
"""

import hashlib
import json
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.progress import Progress, TaskID

from commands.auditing import audited, confirm
from commands.status import intakes
from commands.wiring import clean_store, opened, results_store, settings, told
from consumers.deid.keys import ProjectKeys
from consumers.kept import Kept
from infra.cassandra import Tables
from infra.clock import SystemClock
from infra.connections import kafka_of
from infra.kafka import Producer
from infra.settings import Settings, master_key
from infra.spool import Kind, readers
from producers.outbox import messages
from schemas.events import Intake, Pointer

#: An object is written before its row: one without a row is looked at only when it is older.
GRACE_SECONDS: Final = 3600.0
#: In one, and named by the intake: the ledger and the index add up wherever it is cut, and however often it runs.
_REMOVED: Final = (
    "BEGIN BATCH INSERT INTO removed_versions (one, id, count) VALUES ('all', ?, 1);"
    " DELETE FROM study_instances WHERE project = ? AND study = ? AND sop = ? AND content_key = ? AND pixel_key = ?;"
    " APPLY BATCH"
)
_VERSIONS: Final = "SELECT project, study, sop, content_key, pixel_key, conflict, object FROM study_instances"
_IDENTITIES: Final = (
    "SELECT project, study_uid, sop_uid, content_id, pixel_id, intake, outcome FROM identities"
)
_FORGET_IDENTITY: Final = "DELETE FROM identities WHERE project = ? AND study_uid = ? AND sop_uid = ? AND content_id = ? AND pixel_id = ?"


@click.command()
@click.option("--repair", is_flag=True, help="Repair what can be repaired from what is kept.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
def reconcile(repair: bool, yes: bool, as_json: bool) -> None:
    """Compare ledger, index, identities, vault and stores; exit status 1 where they differ.

    Reads every row once: minutes for a million. Run it when little is on its way; what is in flight is not
    counted as wrong.
    """
    with told():
        found = settings()
        with opened(found.trusted) as trusted, opened(found.clean) as clean:
            looked = Reconciling(found, trusted, clean)
            report = looked.look()
            if repair and looked.wrong:
                confirm(f"Repair {sum(looked.wrong.values())} differences?", yes=yes)
                with audited(found, "reconcile", begins=True, tables=trusted, **report["wrong"]) as entry:
                    report["repaired"] = dict(looked.repair())
                    entry.update(report["repaired"])
    click.echo(json.dumps(report, indent=2) if as_json else _text(report))
    raise SystemExit(0 if report["agree"] else 1)


class Reconciling:
    """One look at everything, and the repairs of what it found."""

    def __init__(self, found: Settings, trusted: Tables, clean: Tables) -> None:
        self._found, self._trusted, self._clean = found, trusted, clean
        self._store = clean_store(found)
        self._quarantine = Kept(found).store
        self._stores = (self._store, self._quarantine, results_store(found))
        master, key_id = master_key(found), found.deidentify.key_id
        self._keys = cache(lambda project: ProjectKeys.derive(master, project, key_id))
        self.wrong: Counter[str] = Counter()
        # Not in memory: ten million versions are a gigabyte. Removed with its connection.
        self._lookup = sqlite3.connect("")
        self._lookup.executescript(
            "CREATE TABLE versions (key TEXT PRIMARY KEY, wrong TEXT) WITHOUT ROWID;"
            "CREATE TABLE objects (key TEXT PRIMARY KEY) WITHOUT ROWID;"
            "CREATE TABLE broken (intake TEXT, what TEXT, identity TEXT);"
            "CREATE TABLE orphans (key TEXT);"
        )

    def look(self) -> dict[str, Any]:
        """Compare everything and return what was found."""
        console = Console(stderr=True)
        with Progress(disable=not sys.stderr.isatty(), console=console, transient=True) as progress:
            counted = intakes(self._found, self._trusted)
            indexed = self._look_at_versions(progress, progress.add_task("versions", total=None))
            self._look_at_identities(progress, progress.add_task("identities", total=None))
            self._look_at_objects()
            self._look_at_quarantine()
            self._look_at_heads()
            self._look_at_leftovers()
        removed = sum(
            row.count for row in self._clean.stream("SELECT count FROM removed_versions WHERE one = 'all'")
        )
        ledger = counted["clean"] + counted["corrected"] + counted["conflict"]
        return {
            "agree": ledger == indexed + removed and not self.wrong,
            "ledger_clean_corrected_conflict": ledger,
            "catalog_indexed": indexed,
            "removed_on_purpose": removed,
            "in_flight": counted["in_flight"],
            "wrong": dict(self.wrong),
        }

    def repair(self) -> Counter[str]:
        """Repair what `look` found; return what was done, and what could not be."""
        done: Counter[str] = Counter()
        producer = Producer(kafka_of(self._found.trusted))
        for intake, _, identity in self._lookup.execute("SELECT intake, what, identity FROM broken"):
            done[self._mend(Intake.parse(intake), json.loads(identity), producer)] += 1
        for (key,) in self._lookup.execute("SELECT key FROM orphans"):
            # It may be the only copy of a version whose row is lost: those first.
            if self.wrong["identity without its version"]:
                done["object without a row left: versions are missing"] += 1
                continue
            self._store.delete(Pointer(uri=f"clean://{key}", offset=0, length=0))
            done["object without a row removed"] += 1
        for path in self._leftovers():
            path.unlink(missing_ok=True)
            done["left by a kill removed"] += 1
        for what in ("quarantined without its bytes", "revision that is not published"):
            if self.wrong[what]:
                done[f"{what}: not mended here"] = self.wrong[what]
        return done

    def _mend(self, intake: Intake, note: dict[str, Any], producer: Producer) -> str:
        """Send an intake through once more, or let the image be sent again; return what was done."""
        reader = readers(Path(self._found.spool.path)).get(intake.spool)
        if reader is None:
            return "not mended here: its spool is elsewhere, or it is a release"
        if intake.segment in reader.segments():
            wanted = (r for r in reader.records(intake.segment) if r.number == intake.record)
            record = next(r for r in wanted if r.kind == Kind.INSTANCE)
            producer.send(messages(reader.id, [record], self._found.relay.large_bytes))
            return "sent through once more"
        project, study_uid, sop_uid, content, pixels = note["identity"]
        name = hashlib.sha256(f"{intake} {note['version']}".encode()).hexdigest()
        self._clean.run(_REMOVED, (name, *note["version"]))
        values = (project, study_uid, sop_uid, bytes.fromhex(content), bytes.fromhex(pixels))
        self._trusted.run(_FORGET_IDENTITY, values)
        return "to be sent again: its raw bytes are gone"

    def _look_at_versions(self, progress: Progress, task: TaskID) -> int:
        count = 0
        rows = self._clean.stream(_VERSIONS)
        for (project, study), members in groupby(rows, key=lambda row: (row.project, row.study)):
            query = "SELECT sop FROM vault_instances WHERE project = ? AND study = ?"
            kept = {row.sop for row in self._trusted.run(query, (project, study))}
            for row in members:
                pointer = msgspec.json.decode(row.object, type=Pointer)
                wrong = "" if self._store.holds(pointer) else "version without its object"
                wrong = wrong or ("" if row.sop in kept else "version without its vault row")
                key = f"{project} {study} {row.sop} {row.content_key} {row.pixel_key}"
                self._lookup.execute("INSERT OR REPLACE INTO versions VALUES (?, ?)", (key, wrong))
                self._lookup.execute(
                    "INSERT OR IGNORE INTO objects VALUES (?)", (pointer.uri.partition("://")[2],)
                )
                count += 1
                progress.advance(task)
        return count

    def _look_at_identities(self, progress: Progress, task: TaskID) -> None:
        for row in self._trusted.stream(_IDENTITIES):
            progress.advance(task)
            if row.outcome == "duplicate":
                continue
            keys = self._keys(row.project)
            study, sop = keys.pseudonymous_uid(row.study_uid), keys.pseudonymous_uid(row.sop_uid)
            content = keys.keyed_digest("content", row.content_id.hex())
            pixels = keys.keyed_digest("pixel", row.pixel_id.hex())
            key = f"{row.project} {study} {sop} {content} {pixels}"
            hit = self._lookup.execute("SELECT wrong FROM versions WHERE key = ?", (key,)).fetchone()
            what = "identity without its version" if hit is None else hit[0]
            if what and not self._in_flight(row.intake):
                self.wrong[what] += 1
                identity = [row.project, row.study_uid, row.sop_uid, row.content_id.hex(), row.pixel_id.hex()]
                note = json.dumps({"identity": identity, "version": key.split(), "indexed": hit is not None})
                self._lookup.execute("INSERT INTO broken VALUES (?, ?, ?)", (row.intake, what, note))

    def _in_flight(self, intake: str) -> bool:
        from consumers.ledger import outcome_of

        return outcome_of(self._trusted, Intake.parse(intake)) is None

    def _look_at_objects(self) -> None:
        now = SystemClock().now()
        for key, written in self._store.entries():
            if not key.endswith(".dcm") or now - written < GRACE_SECONDS:
                continue
            if not self._lookup.execute("SELECT 1 FROM objects WHERE key = ?", (key,)).fetchone():
                self.wrong["object without a row"] += 1
                self._lookup.execute("INSERT INTO orphans VALUES (?)", (key,))

    def _look_at_quarantine(self) -> None:
        for row in self._trusted.stream("SELECT object, length FROM quarantine"):
            if row.object and not self._quarantine.holds(
                Pointer(uri=row.object, offset=0, length=row.length)
            ):
                self.wrong["quarantined without its bytes"] += 1

    def _look_at_heads(self) -> None:
        for row in self._clean.stream("SELECT published FROM study_head"):
            if not row.published:
                self.wrong["revision that is not published"] += 1

    def _look_at_leftovers(self) -> None:
        for _ in self._leftovers():
            self.wrong["left by a kill"] += 1

    def _leftovers(self) -> Iterator[Path]:
        before = SystemClock().now() - GRACE_SECONDS
        return chain.from_iterable(store.leftovers(before) for store in self._stores)


def _text(report: dict[str, Any]) -> str:
    lines = [
        f"{name:32} {value}" for name, value in report.items() if isinstance(value, int) and name != "agree"
    ]
    lines += [f"{what:32} {count}" for what, count in report["wrong"].items()]
    lines += [f"repaired: {what:22} {count}" for what, count in report.get("repaired", {}).items()]
    return "\n".join(
        [*lines, "they agree" if report["agree"] else "they differ: --repair mends what is kept"]
    )
