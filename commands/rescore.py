"""`prodrome replay --model`: score again what is meant, and no more.

1. The studies that are meant: all, or those of a cohort, by the tables of the clean keyspace.
2. Each newest revision goes into the bulk lane, with the package that is to score it; live studies overtake it.
3. The scorer computes what this package has not answered for these inputs, and publishes what is stored where
   another answer counts now (`consumers.score`).

With --dry-run nothing is published: what the scorer would do is counted, from the same manifests and rows.
"""

import datetime
import json
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from commands.auditing import audited
from commands.registry import ModelRefused, Registry
from commands.wiring import clean_store, opened, results_store, settings, told
from consumers.exam import Exam
from consumers.predictions import Predictions, run_outcome
from consumers.quiet import StudyKey
from consumers.serving import load_promoted
from infra.cassandra import Tables
from infra.connections import kafka_of
from infra.kafka import Producer
from infra.settings import Settings
from schemas.codec import Message, encode
from schemas.errors import BadMessage, SettingsError
from schemas.events import Manifest, StudyRevised
from schemas.ids import study_key
from schemas.topics import REVISED
from scoring.intake import Selected
from scoring.score import Model

_HEADS: Final = "SELECT body, published, WRITETIME(body) AS written FROM study_head"
_HEAD: Final = _HEADS + " WHERE project = ? AND study = ?"
_OF_PATIENT: Final = "SELECT study FROM patient_studies WHERE project = ? AND patient = ?"

#: What a cohort may be made of, and what each means.
CONDITIONS: Final[dict[str, str]] = {
    "project": "the project, `default` unless said",
    "study": "a pseudonymous Study Instance UID",
    "patient": "a pseudonym",
    "modality": "a modality that the study holds",
    "outcome": "how the model ended for the newest revision: predicted, out_of_domain, failed, incomplete, waiting",
}
#: What a scorer would do with a study -> for a person.
FORESEEN: Final = {
    "compute": "to compute",
    "restore": "to publish again from what is stored",
    "nothing": "answered by this version already",
    "not_selected": "without the inputs that the model needs",
    "no_manifest": "whose list of images cannot be read",
}
#: Studies that are published together.
TOGETHER: Final = 100
_ERROR: Final = Console(stderr=True)


def run(
    version: str, conditions: Iterable[str], since: datetime.datetime | None, *, dry_run: bool, as_json: bool
) -> None:
    """Do what `prodrome replay --model` says."""
    with told(), opened(settings().clean) as tables:
        found = settings()
        cohort, again = cohort_of(conditions, since), Rescoring(found, tables, version)
        meant = studies(tables, cohort, again.wanted.model)
        with Progress(
            TextColumn("{task.completed} studies"), BarColumn(), TimeElapsedColumn(), console=_ERROR
        ) as bar:
            task = bar.add_task("", total=None)
            counted: Counter[str] = Counter(dict.fromkeys(FORESEEN if dry_run else ("published",), 0))
            if dry_run:
                for word in again.foresee(meant):
                    counted[word] += 1
                    bar.advance(task)
            else:
                with audited(found, "rescore", model=version, cohort=" ".join(conditions)) as entry:
                    for count in again.publish(meant):
                        counted["published"] += count
                        bar.advance(task, count)
                    entry.update(counted)
    if as_json:
        click.echo(json.dumps(counted))
    elif dry_run:
        click.echo(foreseen_text(counted))
    else:
        click.echo(f"{counted['published']} studies are in the bulk lane; `prodrome status` shows its lag")


class Cohort(NamedTuple):
    """Which studies are meant: conditions that all hold, and the earliest revision in seconds of the epoch."""

    conditions: Mapping[str, str]
    since: float | None

    @property
    def project(self) -> str:
        """The project."""
        return self.conditions.get("project", "default")


def cohort_of(conditions: Iterable[str], since: datetime.datetime | None) -> Cohort:
    """Return the cohort of conditions KEY=VALUE.

    Raises
    ------
    SettingsError
        With the keys that there are.
    """
    found = {}
    for condition in conditions:
        key, equals, value = condition.partition("=")
        if key not in CONDITIONS or not equals or not value:
            raise SettingsError(
                f"--cohort: expected KEY=VALUE of {', '.join(CONDITIONS)}, came {condition!r}"
            )
        found[key] = value
    return Cohort(found, since.timestamp() if since else None)


def studies(tables: Tables, cohort: Cohort, model: str) -> Iterator[StudyRevised]:
    """Yield the newest revision of each study that is meant, a page in memory at a time."""
    wanted = cohort.conditions
    for row in _heads(tables, cohort):
        if not row.published or (cohort.since is not None and row.written / 1e6 < cohort.since):
            continue
        revised = msgspec.json.decode(row.body, type=StudyRevised)
        key = StudyKey(revised.project, revised.study_instance_uid)
        if (
            revised.project == cohort.project
            and wanted.get("modality", "") in ("", *revised.modalities)
            and wanted.get("patient", revised.patient_id) == revised.patient_id
            and (
                "outcome" not in wanted
                or run_outcome(tables, key, model, revised.revision) == wanted["outcome"]
            )
        ):
            yield revised


def _heads(tables: Tables, cohort: Cohort) -> Iterator[Any]:
    """Yield rows by the narrowest table: the study, the patient's studies, or all."""
    wanted = cohort.conditions
    if "study" in wanted:
        yield from tables.run(_HEAD, (cohort.project, wanted["study"]))
    elif "patient" in wanted:
        for row in tables.stream(_OF_PATIENT, (cohort.project, wanted["patient"])):
            yield from tables.run(_HEAD, (cohort.project, row.study))
    else:
        yield from tables.stream(_HEADS)


class Rescoring:
    """One model over one cohort.

    Parameters
    ----------
    found : Settings
        Zones and stores.
    tables : Tables
        The clean keyspace.
    version : str
        ``MODEL@VERSION``; it must be the one that runs.
    """

    def __init__(self, found: Settings, tables: Tables, version: str) -> None:
        self._found, self._tables = found, tables
        registry = Registry(found, tables)
        self.wanted = registry.find(version)
        running = registry.active(self.wanted.model)
        if running != self.wanted.digest:
            raise ModelRefused(
                f"{version} does not run, so that live studies would go on with another version: "
                f"`prodrome models promote {version}` first"
            )

    def publish(self, some: Iterable[StudyRevised]) -> Iterator[int]:
        """Publish studies into the bulk lane; yields how many, some at a time."""
        producer, batch = Producer(kafka_of(self._found.clean)), []
        for revised in some:
            batch.append(self._message(revised))
            if len(batch) == TOGETHER:
                producer.send(batch)
                yield len(batch)
                batch = []
        if batch:
            producer.send(batch)
            yield len(batch)

    def foresee(self, some: Iterable[StudyRevised]) -> Iterator[str]:
        """Yield for each study what the scorer would do: `compute`, `restore`, `nothing`, `not_selected`, `no_manifest`."""
        store, results = clean_store(self._found), results_store(self._found)
        model = load_promoted(self._found, self._tables, results, self.wanted.model)
        known = Predictions(self._tables, None)
        for revised in some:
            try:
                manifest = msgspec.json.decode(store.get(revised.manifest), type=Manifest)
            except BadMessage:
                yield "no_manifest"
                continue
            exam = Exam(
                revised=revised, manifest=manifest, model=model, profile=self._found.deidentify.profile
            )
            yield _foreseen(exam, model, known)

    def _message(self, revised: StudyRevised) -> Message:
        again = msgspec.structs.replace(revised, rescore=(self.wanted.digest,))
        key = (again.project, again.study_instance_uid)
        return encode(
            REVISED["bulk"],
            study_key(*key),
            again,
            identity=(*key, "rescore", uuid.uuid4().hex),
            source="operator",
            subject=again.study_instance_uid,
        )


def _foreseen(exam: Exam, model: Model, known: Predictions) -> str:
    selected = exam.select()
    if not isinstance(selected, Selected):
        return "not_selected"
    if known.outcome_of(exam.key, model, exam.prediction_id(selected)) is None:
        return "compute"
    return "nothing" if known.counts(exam, selected) else "restore"


def foreseen_text(counted: Counter[str]) -> str:
    """Return the counts of a dry run for a person."""
    return "\n".join(f"{counted[word]:>8} {text}" for word, text in FORESEEN.items())
