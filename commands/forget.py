"""`prodrome forget`: a patient leaves. Everything that is kept of them is removed, and what cannot be is said.

1. The patient's pseudonym leads to the studies (the clean index), and each study to its originals (the vault).
2. For each study: quarantined bytes, clean objects and manifests, predictions, index and identity rows; then
   `retracted` is said on `lifecycle.v1`, so that subscribers drop it too; the vault's row goes last.
3. The rows by which the studies were found go last of all: after a kill, the same command goes on.

What topics and the spool still hold ends by itself: the report says when. An image that comes later is a new
one: nothing remembers that the patient was forgotten, for that would be remembering the patient.
"""

import datetime
import json
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import msgspec

from commands.auditing import audited
from commands.releases import Wanted, purge, waiting
from commands.wiring import clean_store, results_store, settings, tables_of, told
from consumers.deid.keys import ProjectKeys
from consumers.deid.pseudonyms import patient_pseudonym
from consumers.kept import Kept
from consumers.predictions import bucket_of
from consumers.quiet import StudyKey
from consumers.vault import Vault
from infra.cassandra import Statement
from infra.clock import SystemClock
from infra.connections import kafka_of
from infra.kafka import Producer, retentions
from infra.secret_files import MASTER
from infra.settings import Settings, sealing_secrets
from infra.spool import SpoolLimits, readers, recycling
from schemas.codec import encode
from schemas.events import Lifecycle, Pointer
from schemas.ids import study_key
from schemas.topics import BY_NAME

#: Topics whose messages speak of a patient's images, by pseudonym or (trusted) by UID.
TOLD: Final = (
    "s3.events", "instance.received.v1", "instance.received.bulk.v1", "deadletter.trusted.v1",
    "instance.deidentified.v1",
    "study.revised.v1", "study.revised.bulk.v1", "prediction.v1", "lifecycle.v1", "deadletter.v1",
)  # fmt: skip
_PARTITIONED: Final = ("open_studies", "waiting_runs")
_BY_STUDY: Final = ("study_head", "predictions", "prediction_head")
_LEADING: Final = ("study_revisions",)
#: In one: the ledger and the index add up whenever it is cut.
_GONE: Final = (
    "BEGIN BATCH INSERT INTO removed_versions (one, id, count) VALUES ('all', ?, ?);"
    " DELETE FROM study_instances WHERE project = ? AND study = ?; APPLY BATCH"
)


class Found(NamedTuple):
    """One study of the patient: pseudonymous, and as sent (None once the vault has forgotten it)."""

    study: str
    original: str | None


#: A freed segment's file waits to be written again, and what the new segment has not written ends with its seal.
_KEPT: Final = recycling.KEEP_SECONDS + SpoolLimits().segment_seconds


@click.command()
@click.argument("patient_id")
@click.option("--issuer", default="", help="Issuer of the Patient ID, as the dataset or the source names it.")
@click.option("--project", default="default", show_default=True)
@click.option("--yes", is_flag=True, help="Do it; without, only what is there is counted.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
def forget(patient_id: str, issuer: str, project: str, yes: bool, as_json: bool) -> None:
    """Remove everything that is kept of a patient, and say what ends by itself and when.

    Without --yes it counts and changes nothing. Run it while nothing of the patient is on its way (`prodrome
    drain`), and again if it was cut short: it goes on where it was.
    """
    with told():
        found = settings()
        forgetting = Forgetting(found, project, patient_id, issuer)
        try:
            if yes:
                with audited(
                    found, "forget", begins=True, project=project, patient=forgetting.patient
                ) as entry:
                    report = forgetting.forget()
                    entry.update(report["removed"])
            else:
                report = forgetting.count()
        finally:
            forgetting.close()
    click.echo(json.dumps(report, indent=2) if as_json else _text(report, done=yes))


class Forgetting:
    """One patient of one project; see the module."""

    def __init__(self, found: Settings, project: str, patient_id: str, issuer: str) -> None:
        secrets, key_id = sealing_secrets(found), found.deidentify.key_id
        keys = ProjectKeys.derive(secrets[MASTER], project, key_id)
        self.patient = patient_pseudonym(patient_id, issuer, "", keys)
        self._found, self._project = found, project
        self._trusted, self._clean = tables_of(found.trusted), tables_of(found.clean)
        self._vault = Vault(self._trusted, secrets, key_id)
        self._store, self._kept = clean_store(found), Kept(found)
        self._results = results_store(found)
        self._removed: Counter[str] = Counter()

    def close(self) -> None:
        """End the connections."""
        self._trusted.close()
        self._clean.close()

    def count(self) -> dict[str, Any]:
        """Return what there is, changing nothing."""
        counted: Counter[str] = Counter()
        for each in self._studies():
            counted["studies"] += 1
            counted["objects"] += len(set(self._objects(each.study))) + len(self._of_results(each.study))
            counted["intakes"] += len(self._intakes(each))
        return self._report("found", counted)

    def forget(self) -> dict[str, Any]:
        """Remove all of it; a repeat removes what is left."""
        producer = Producer(kafka_of(self._found.clean))
        for each in list(self._studies()):
            self._forget_study(each, producer)
            self._removed["studies"] += 1
        self._clean.run(
            "DELETE FROM patient_studies WHERE project = ? AND patient = ?", (self._project, self.patient)
        )
        for reader in readers(Path(self._found.spool.path)).values():
            recycling.sweep(reader.folder, 0)
        return self._report("removed", self._removed)

    def _studies(self) -> Iterator[Found]:
        rows = self._clean.stream(
            "SELECT study FROM patient_studies WHERE project = ? AND patient = ?",
            (self._project, self.patient),
        )
        for row in rows:
            kept = self._vault.study(self._project, row.study)
            yield Found(row.study, kept["study_instance_uid"] if kept else None)

    def _forget_study(self, each: Found, producer: Producer) -> None:
        key = StudyKey(self._project, each.study)
        kept = self._vault.study(*key)
        intakes = tuple(self._intakes(each))
        if intakes:
            wanted = Wanted(project=self._project, intakes=intakes)
            rows = list(waiting(self._trusted, wanted, SystemClock()))
            self._removed.update(purge(self._trusted, self._kept, rows))
        for pointer in set(self._objects(each.study)):
            self._store.delete(pointer)
            self._removed["objects"] += 1
        for pointer in self._of_results(each.study):
            self._results.delete(pointer)
            self._removed["objects"] += 1
        self._clean.run_all(self._clean_rows(each.study))
        # They lead to objects and instances: after a kill they still do.
        count = len(self._clean.run("SELECT sop FROM study_instances WHERE project = ? AND study = ?", key))
        if count:
            self._clean.run(_GONE, (uuid.uuid4().hex, count, *key))
        for table in _LEADING:
            query = f"DELETE FROM {table} WHERE project = ? AND study = ?"  # noqa: S608
            self._clean.run(query, key)
        gone = Lifecycle(project=self._project, study_instance_uid=each.study, kind="retracted")
        # Named anew each time: a subscriber that has dropped the study once may have got a late image since.
        identity = (*key, "retracted", uuid.uuid4().hex)
        word = encode(
            "lifecycle.v1", study_key(*key), gone, identity=identity, source="operator", subject=each.study
        )
        producer.send([word])
        # The vault's row is what leads from the pseudonym to the originals: it goes when they have gone.
        self._trusted.run_all(self._trusted_rows(each))
        if kept and kept.get("accession_number"):
            self._trusted.run_all(
                [self._vault.forgotten_accession(self._project, kept["accession_number"], each.study)]
            )
        self._trusted.run("DELETE FROM vault_studies WHERE project = ? AND study = ?", key)

    def _intakes(self, each: Found) -> list[str]:
        if each.original is None:
            return []
        query = "SELECT intake FROM study_intakes WHERE project = ? AND study_uid = ?"
        return [row.intake for row in self._trusted.run(query, (self._project, each.original))]

    def _objects(self, study: str) -> Iterator[Pointer]:
        key = (self._project, study)
        for row in self._clean.stream(
            "SELECT object, metadata FROM study_instances WHERE project = ? AND study = ?", key
        ):
            yield msgspec.json.decode(row.object, type=Pointer)
            if (row.metadata or "").startswith("{"):  # a pointer; inline metadata is base64
                yield msgspec.json.decode(row.metadata, type=Pointer)
        for row in self._clean.run(
            "SELECT manifest FROM study_revisions WHERE project = ? AND study = ?", key
        ):
            yield msgspec.json.decode(row.manifest, type=Pointer)

    def _of_results(self, study: str) -> list[Pointer]:
        """Return what scoring keeps of a study: prepared inputs and maps."""
        return [
            Pointer(uri=f"{self._results.scheme}://{key}", offset=0, length=0)
            for kind in ("prepared", "maps")
            for key in self._results.keys(f"{self._project}/{kind}/{study}/")
        ]

    def _clean_rows(self, study: str) -> Iterator[Statement]:
        key = (self._project, study)
        for row in self._clean.run("SELECT sop FROM study_instances WHERE project = ? AND study = ?", key):
            yield (
                "DELETE FROM instances_by_uid WHERE project = ? AND sop = ? AND study = ?",
                (self._project, row.sop, study),
            )
            self._removed["index rows"] += 1
        for row in self._clean.run("SELECT prediction FROM predictions WHERE project = ? AND study = ?", key):
            yield (
                "DELETE FROM predictions_by_id WHERE project = ? AND prediction = ?",
                (self._project, row.prediction),
            )
        models = {row.model for row in self._clean.run("SELECT DISTINCT bucket, model FROM model_runs")}
        for model in models:
            yield (
                "DELETE FROM model_runs WHERE bucket = ? AND model = ? AND project = ? AND study = ?",
                (bucket_of(StudyKey(*key)), model, *key),
            )
        for table in _PARTITIONED:
            for partition in range(BY_NAME["study.revised.v1"].partitions):
                yield (
                    f"DELETE FROM {table} WHERE partition = ? AND project = ? AND study = ?",  # noqa: S608
                    (partition, *key),
                )
        for table in _BY_STUDY:
            yield f"DELETE FROM {table} WHERE project = ? AND study = ?", key  # noqa: S608

    def _trusted_rows(self, each: Found) -> Iterator[Statement]:
        yield "DELETE FROM vault_instances WHERE project = ? AND study = ?", (self._project, each.study)
        if each.original is not None:
            for table in ("identities", "study_intakes"):
                yield (
                    f"DELETE FROM {table} WHERE project = ? AND study_uid = ?",  # noqa: S608
                    (self._project, each.original),
                )

    def _report(self, word: str, counted: Counter[str]) -> dict[str, Any]:
        """Return what was done, and what ends by itself: topics by their retention, raw bytes with their segment."""
        now = datetime.datetime.fromtimestamp(SystemClock().now(), datetime.UTC)
        ends = {}
        for zone in ("trusted", "clean"):
            names = [name for name in TOLD if BY_NAME[name].zone == zone]
            for name, seconds in retentions(kafka_of(getattr(self._found, zone)), names).items():
                ends[name] = (
                    (now + datetime.timedelta(seconds=seconds)).isoformat() if seconds >= 0 else "never"
                )
        found = readers(Path(self._found.spool.path)).values()
        kept_segments = sum(len(reader.segments()) for reader in found)
        return {
            "project": self._project,
            "patient": self.patient,
            word: dict(counted),
            "topics end at the latest": ends,
            "spool": f"{kept_segments} segments are kept; each is freed when it is settled and its grace is over"
            f" (raw_retention {self._found.ledger.raw_retention}), and its bytes end within {_KEPT:.0f} s of that",
            "not found by this": "instances of studies of which none was ever clean (quarantine list shows them),"
            " backups, and what subscribers have stored",
        }


def _text(report: dict[str, Any], *, done: bool) -> str:
    lines = [f"patient {report['patient']} of project {report['project']}"]
    for name, value in report.items():
        if isinstance(value, dict):
            lines.append(f"{name}: " + (", ".join(f"{k} {v}" for k, v in value.items()) or "nothing"))
        elif name not in ("patient", "project"):
            lines.append(f"{name}: {value}")
    return "\n".join(lines if done else [*lines, "nothing was changed: --yes removes it"])
