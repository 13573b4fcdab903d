"""The score stage: resident models over study revisions.

For each revision and each model

1. `select`: nothing of its kind -> no run. Inputs missing -> wait, and say `incomplete` once at the deadline.
2. The same selected inputs were answered before -> the revision has that answer, and nothing is published unless
   another answer had taken its place. The same revision again is a repeat, and so is its answer, whichever version of
   the model has given it.
3. Else prepare the exams of the whole batch in processes (`consumers.preparing`), run the forward passes of each
   model over its own, publish.

In the bulk lane an operator asks for studies to be scored again, by the packages that the message names. What such
a package has answered before is not computed: it is published in place of what counts now.

Models are replaced between batches (`consumers.serving`). A study of two patients (`identity_conflict`) is not
scored. Waiting runs are rows, read again on assignment. The models themselves are pure (`scoring`); this stage
brings them bytes and carries their answers away.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import UNSET

from consumers.drift import Drift
from consumers.exam import Exam, reinstated
from consumers.explaining import Explaining
from consumers.loop import Record
from consumers.predictions import Predictions
from consumers.preparing import Preparing, Task, task_of
from consumers.quiet import StudyKey
from consumers.serving import Serving
from infra import metrics
from infra.cassandra import Tables
from infra.clock import Clock
from infra.kafka import Producer
from infra.objects import Store
from infra.settings import Settings
from infra.together import Together
from schemas.errors import BadMessage, SlowDown
from schemas.events import Manifest, RunOutcome, StudyRevised
from schemas.topics import REVISED, Zone
from scoring.intake import Missing, Selected
from scoring.outcomes import Failed, Outcome, OutOfDomain, Prepared
from scoring.score import Model

log = logging.getLogger(__name__)

NAME: Final = "score"
#: Studies whose rows are read and written beside each other: each waits for some ten answers, one by one.
TOGETHER: Final = 8

#: How a model may have ended for good; `incomplete` and `waiting` give way to an answer.
ANSWERS: Final = ("predicted", "out_of_domain", "failed")

# Written and removed again and again, so by lightweight transaction: no clock decides which came last.
_WAIT: Final = (
    "UPDATE waiting_runs SET since = ?, revised = ?"
    " WHERE partition = ? AND project = ? AND study = ? AND model = ? IF revised != ?"
)
_DONE: Final = (
    "DELETE FROM waiting_runs WHERE partition = ? AND project = ? AND study = ? AND model = ? IF EXISTS"
)
_WAITING: Final = "SELECT project, study, model, since, revised FROM waiting_runs WHERE partition = ?"


@dataclass
class Waiting:
    """A run that waits for inputs: of revisions `since` to the newest, until `deadline` (monotonic)."""

    partition: int
    revised: StudyRevised
    since: int
    deadline: float


@dataclass(frozen=True)
class Run:
    """An exam with its selected inputs, to be answered under the id `prediction`."""

    partition: int
    exam: Exam
    selected: Selected
    prediction: str

    @property
    def task(self) -> Task:
        """What its preparation needs to know."""
        return task_of(self.prediction, self.exam, self.selected)


class Score:
    """The stage; see the module."""

    zone: Zone = "clean"
    batch = 16
    pace = 0.0

    def __init__(
        self,
        settings: Settings,
        tables: Tables,
        store: Store,
        producer: Producer,
        clock: Clock,
        serving: Serving,
        preparing: Preparing,
        lane: str = "live",
        must_yield: Callable[[], bool] = lambda: False,
        results: Store | None = None,
    ) -> None:
        self._live = lane == "live"
        self.name = NAME if lane == "live" else f"{NAME}-{lane}"
        self.topics: Sequence[str] = (REVISED[lane],)
        self.group = "prodrome-score" if lane == "live" else f"prodrome-score-{lane}"
        self._tables, self._store, self._clock = tables, store, clock
        self._serving, self._preparing, self._must_yield = serving, preparing, must_yield
        self._predictions = Predictions(tables, producer)
        self._deadline = settings.score.deadline_seconds
        self._profile = settings.deidentify.profile
        self._waiting: dict[tuple[StudyKey, str], Waiting] = {}
        self._together = Together("score", TOGETHER)
        self._drift = Drift()
        self._explaining = Explaining(self._predictions, preparing, results) if results else None

    def handle(self, records: Sequence[Record]) -> None:
        """See `consumers.loop.Stage.handle`."""
        if self._must_yield():
            raise SlowDown("the live lane lags")
        models = self._serving.models()
        started = self._clock.monotonic()
        by_study: dict[StudyKey, list[tuple[int, StudyRevised]]] = defaultdict(list)
        for record in records:
            if not isinstance(revised := record.event, StudyRevised):
                raise TypeError(f"expected a StudyRevised, came {type(revised).__name__}")
            by_study[StudyKey(revised.project, revised.study_instance_uid)].append(
                (record.partition, revised)
            )
        # revisions of one study in their order, studies beside each other
        found = self._together(
            lambda some: [run for one in some for run in self._runs(models, *one)], by_study.values()
        )
        runs = [run for some in found for run in some]
        prepared = self._prepare(runs)
        for model in models.values():
            own = [(run, made) for run, made in zip(runs, prepared, strict=True) if run.exam.model is model]
            self._score(model, own, started)
        metrics.inc("prodrome_stage_instances_total", len(records), stage=NAME, outcome="scored")

    def abandon(self, record: Record, error: BadMessage) -> None:
        """No answer is waited for; the revision stays without one."""

    def tick(self) -> None:
        """Say `incomplete` for the runs whose deadline is over."""
        now = self._clock.monotonic()
        over = [(name, waiting) for name, waiting in self._waiting.items() if waiting.deadline <= now]
        models = self._serving.models() if over else {}
        for (key, model_id), waiting in over:
            if model_id in models:
                self._give_up(key, models[model_id], waiting)
            else:  # retired meanwhile
                self._no_longer(key, model_id, waiting)

    def assigned(self, partitions: frozenset[int]) -> None:
        """Read the waiting runs of the owned partitions; their deadlines begin anew. The bulk lane has none."""
        if not self._live:
            return
        self._waiting = {k: w for k, w in self._waiting.items() if w.partition in partitions}
        for partition in partitions:
            for row in self._tables.run(_WAITING, (partition,)):
                name = (StudyKey(row.project, row.study), row.model)
                if name not in self._waiting:
                    revised = msgspec.json.decode(row.revised, type=StudyRevised)
                    deadline = self._clock.monotonic() + self._deadline
                    self._waiting[name] = Waiting(partition, revised, row.since, deadline)

    def caught_up(self, partitions: frozenset[int]) -> None:
        """Waits for nobody."""

    # 1. and 2. which models run

    def _runs(self, models: dict[str, Model], partition: int, revised: StudyRevised) -> list[Run]:
        if "identity_conflict" in revised.flags:
            log.warning("study %s: two patients, not scored", revised.study_instance_uid)
            return []
        manifest = self._manifest(revised)
        runs = []
        for model in models.values():
            exam = Exam(revised=revised, manifest=manifest, model=model, profile=self._profile)
            if revised.rescore is not UNSET:
                runs += self._again(partition, exam) if model.package.digest in revised.rescore else []
                continue
            selected = exam.select()
            if isinstance(selected, Selected):
                runs += self._run(partition, exam, selected)
            elif isinstance(selected, Missing):
                self._wait(partition, exam)
        return runs

    def _run(self, partition: int, exam: Exam, selected: Selected) -> list[Run]:
        run = Run(partition, exam, selected, exam.prediction_id(selected))
        known = self._predictions.outcome_of(exam.key, exam.model, run.prediction)
        before = self._answered(exam)
        if known is None and before in ANSWERS:
            self._repeat_effective(exam)
            return []
        if known is None:
            return [run]
        if before == known:
            self._predictions.repeat(exam.key, exam.model, run.prediction)
        else:
            self._reinstate(run)
        self._ended(partition, exam.key, exam.model, exam.revised.revision, known)
        return []

    def _again(self, partition: int, exam: Exam) -> list[Run]:
        """Do what an operator wants of a study: a map, or another score; what is stored is said again instead."""
        key, model, selected = exam.key, exam.model, exam.select()
        if not isinstance(selected, Selected):
            return []
        run = Run(partition, exam, selected, exam.prediction_id(selected))
        if exam.revised.explain is not UNSET:
            if self._explaining is not None:
                self._explaining.explain(exam, run.task, exam.revised.explain)
            return []
        known = self._predictions.outcome_of(key, model, run.prediction)
        if known is None:
            return [run]
        self._reinstate(run)
        self._predictions.ran(key, model, range(exam.revised.revision, exam.revised.revision + 1), known)
        return []

    def _reinstate(self, run: Run) -> None:
        """Let a stored answer count again where another one does: of other inputs, or of another version."""
        exam = run.exam
        effective = self._predictions.effective(exam.key, exam.model)
        if effective is not None and not self._predictions.counts(exam, run.selected):
            stored = self._predictions.stored(exam.key, exam.model, run.prediction)
            self._predictions.publish(reinstated(exam.key, stored, effective, exam.revised))

    def _repeat_effective(self, exam: Exam) -> None:
        """Say again what counts: another version has answered this revision, which is no reason to score it anew."""
        if (effective := self._predictions.effective(exam.key, exam.model)) is not None:
            self._predictions.repeat(exam.key, exam.model, effective)

    def _answered(self, exam: Exam) -> RunOutcome | None:
        """Return how this revision ended before: then it is a repeat, and its answer is said again."""
        return self._predictions.ended(exam.key, exam.model, exam.revised.revision)

    def _wait(self, partition: int, exam: Exam) -> None:
        key, model, revised = exam.key, exam.model, exam.revised
        name = (key, model.card.id)
        said = self._predictions.outcome_of(key, model, exam.incomplete_id) is not None
        before = self._answered(exam)
        if before == "incomplete" and not said:
            self._repeat_effective(exam)
            return
        if said:
            if before == "incomplete":
                self._predictions.repeat(key, model, exam.incomplete_id)
            self._predictions.ran(key, model, range(revised.revision, revised.revision + 1), "incomplete")
            return
        earlier = self._waiting.get(name)
        since = min(earlier.since, revised.revision) if earlier else revised.revision
        deadline = earlier.deadline if earlier else self._clock.monotonic() + self._deadline
        text = msgspec.json.encode(revised).decode()
        self._tables.run_once(_WAIT, (since, text, partition, *key, model.card.id, text))
        self._predictions.ran(key, model, range(since, revised.revision + 1), "waiting")
        self._waiting[name] = Waiting(partition, revised, since, deadline)

    def _manifest(self, revised: StudyRevised) -> Manifest:
        return msgspec.json.decode(self._store.get(revised.manifest), type=Manifest)

    # 3. prepare beside, forward together

    def _prepare(self, runs: Sequence[Run]) -> list[Prepared | OutOfDomain | Failed]:
        if not runs:
            return []
        begun = self._clock.monotonic()
        prepared = self._preparing.run([run.task for run in runs])
        metrics.observe("prodrome_score_prepare_seconds", self._clock.monotonic() - begun, stage=self.name)
        return prepared

    def _score(self, model: Model, runs: Sequence[tuple[Run, Prepared | Outcome]], started: float) -> None:
        if not runs:
            return
        ready = [made for _, made in runs if isinstance(made, Prepared)]
        forward = self._clock.monotonic()
        scored = iter(model.forward(ready))
        if ready:
            took = (self._clock.monotonic() - forward) / len(ready)
            metrics.observe("prodrome_score_forward_seconds", took, model=model.card.id)
        by_study: dict[StudyKey, list[tuple[Run, Outcome]]] = defaultdict(list)
        for run, made in runs:
            outcome = next(scored) if isinstance(made, Prepared) else made
            self._drift.saw(model.package.digest, model.card, outcome)
            by_study[run.exam.key].append((run, outcome))
        self._together(lambda some: self._publish_in_turn(some, started), by_study.values())

    def _publish_in_turn(self, some: Sequence[tuple[Run, Outcome]], started: float) -> None:
        for run, outcome in some:
            self._publish(run, outcome, started)

    def _publish(self, run: Run, outcome: Outcome, started: float) -> None:
        exam, seconds = run.exam, self._clock.monotonic() - started
        before = self._predictions.effective(exam.key, exam.model)
        supersedes = before if before != run.prediction else None
        prediction = exam.answer(run.selected, outcome, supersedes)
        self._predictions.publish(prediction, seconds)
        self._ended(run.partition, exam.key, exam.model, exam.revised.revision, prediction.outcome)
        took, model = self._clock.monotonic() - started, exam.model.card.id
        metrics.observe("prodrome_score_quiet_to_prediction_seconds", took, model=model)

    def _ended(self, partition: int, key: StudyKey, model: Model, revision: int, outcome: RunOutcome) -> None:
        """Write how a model ended for a revision and those that waited before it; nobody waits any more."""
        name = (key, model.card.id)
        waiting = self._waiting.get(name)
        since = min(waiting.since, revision) if waiting else revision
        self._predictions.ran(key, model, range(since, revision + 1), outcome)
        if waiting:
            self._tables.run(_DONE, (partition, *key, model.card.id))
            del self._waiting[name]

    def _give_up(self, key: StudyKey, model: Model, waiting: Waiting) -> None:
        revised = waiting.revised
        if self._predictions.ended(key, model, revised.revision) not in (None, "waiting"):
            self._no_longer(key, model.card.id, waiting)  # its row outlived it, see docs/decisions/0038
            return
        try:
            manifest = self._manifest(revised)
        except BadMessage as error:  # no message stands behind a deadline, so there is no dead letter
            log.error("study %s: %s; it waits no more", key.study, error)
            self._ended(waiting.partition, key, model, revised.revision, "failed")
            return
        exam = Exam(revised=revised, manifest=manifest, model=model, profile=self._profile)
        selected = exam.select()
        if isinstance(selected, Missing):
            self._predictions.publish(exam.incomplete(selected))
            self._ended(waiting.partition, key, model, revised.revision, "incomplete")
        else:  # the package was changed meanwhile; the next revision is judged by the new one
            self._no_longer(key, model.card.id, waiting)

    def _no_longer(self, key: StudyKey, model_id: str, waiting: Waiting) -> None:
        self._tables.run(_DONE, (waiting.partition, *key, model_id))
        del self._waiting[key, model_id]
