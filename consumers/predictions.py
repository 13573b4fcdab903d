"""Predictions: their bodies, rows, heads and the balance of model runs. Keyed so that a repeat changes nothing.

1. `Predictions.publish` inserts the whole body under its id by lightweight transaction: who comes second,
   after a crash or as a zombie, publishes the body that is there.
2. It is published with its lifecycle word, the head moves to it, the row is marked.
3. `Predictions.ran` writes how a model ended for a revision: the balance.

The bodies themselves are made in `consumers.exam`.
"""

import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from consumers.quiet import StudyKey
from infra import metrics
from infra.cassandra import Tables
from infra.kafka import Producer
from schemas.codec import body, encode
from schemas.events import Lifecycle, LifecycleKind, Prediction, RunOutcome
from schemas.ids import study_key

if TYPE_CHECKING:  # who counts runs has no model runtime
    from consumers.exam import Exam
    from scoring.intake import Selected
    from scoring.score import Model

#: Partitions of a model's runs, so that no one of them grows without bound.
BUCKETS: Final = 16

_HEAD: Final = (
    "SELECT prediction, revision FROM prediction_head WHERE project = ? AND study = ? AND model = ?"
)
_INSERT: Final = (
    "INSERT INTO predictions (project, study, model, prediction, outcome, published, body)"
    " VALUES (?, ?, ?, ?, ?, false, ?) IF NOT EXISTS"
)
_BY_ID: Final = "INSERT INTO predictions_by_id (project, prediction, study, model) VALUES (?, ?, ?, ?)"
_SELECT: Final = "SELECT outcome, published, body FROM predictions WHERE project = ? AND study = ? AND model = ? AND prediction = ?"
_PUBLISHED: Final = "UPDATE predictions SET published = true WHERE project = ? AND study = ? AND model = ? AND prediction = ? IF EXISTS"
_FIRST: Final = "INSERT INTO prediction_head (project, study, model, prediction, revision) VALUES (?, ?, ?, ?, ?) IF NOT EXISTS"
_MOVE: Final = (
    "UPDATE prediction_head SET prediction = ?, revision = ? WHERE project = ? AND study = ? AND model = ?"
    " IF revision <= ?"
)
# By lightweight transaction, since `waiting` gives way to how it ended, whatever the clocks say.
_RUN: Final = (
    "UPDATE model_runs SET outcome = ?"
    " WHERE bucket = ? AND model = ? AND project = ? AND study = ? AND revision = ? IF outcome != ?"
)
_LIFECYCLE: Final[dict[RunOutcome, LifecycleKind]] = {
    "predicted": "scored", "incomplete": "incomplete", "out_of_domain": "out_of_domain", "failed": "failed",
}  # fmt: skip


def begin_counting(model: str) -> None:
    """Begin a model's counters at zero: one that is first seen at one has no increase."""
    for outcome in _LIFECYCLE:
        metrics.inc("prodrome_score_predictions_total", 0, model=model, outcome=outcome)


class Predictions:
    """Sole writer of `predictions`, `predictions_by_id`, `prediction_head` and `model_runs`."""

    def __init__(self, tables: Tables, producer: Producer | None) -> None:
        self._tables, self._producer = tables, producer  # without a producer: to look only

    def effective(self, key: StudyKey, model: "Model") -> str | None:
        """Return the id of the prediction that counts now, or None."""
        found = self._tables.run(_HEAD, (*key, model.package.card.id))
        return found[0].prediction if found else None

    def outcome_of(self, key: StudyKey, model: "Model", prediction_id: str) -> RunOutcome | None:
        """Return the outcome of a prediction that was published before, or None."""
        found = self._tables.run(_SELECT, (*key, model.package.card.id, prediction_id))
        return found[0].outcome if found and found[0].published else None

    def stored(self, key: StudyKey, model: "Model", prediction_id: str) -> Prediction:
        """Return a prediction that was published before."""
        [row] = self._tables.run(_SELECT, (*key, model.package.card.id, prediction_id))
        return msgspec.json.decode(row.body, type=Prediction)

    def counts(self, exam: "Exam", selected: "Selected") -> bool:
        """Return whether what counts now is this package's answer for these inputs."""
        effective = self.effective(exam.key, exam.model)
        found = self.stored(exam.key, exam.model, effective) if effective is not None else None
        return found is not None and (
            (found.model.sha256, found.inputs_set_id)
            == (exam.model.package.digest, exam.inputs_set_id(selected))
        )

    def repeat(self, key: StudyKey, model: "Model", prediction_id: str) -> None:
        """Publish again a prediction that was published before, with the body that it has."""
        self._say(key, self.stored(key, model, prediction_id), 0.0)

    def publish(self, prediction: Prediction, seconds: float = 0.0) -> None:
        """Store and publish a prediction, once; returns when it is confirmed.

        Parameters
        ----------
        prediction : Prediction
            The answer.
        seconds : float
            Since the stage took the revision; goes into a header, since a repeat has the same body.
        """
        key = StudyKey(prediction.project, prediction.study_instance_uid)
        if (found := self._insert(key, prediction)) is not None:
            if found.published:
                return
            prediction = msgspec.json.decode(found.body, type=Prediction)
        self._say(key, prediction, seconds)
        self._move_head(key, prediction)  # before the mark: a marked prediction is never looked at again
        self._tables.run_once(_PUBLISHED, (*key, prediction.model.id, prediction.prediction_id))
        metrics.inc("prodrome_score_predictions_total", model=prediction.model.id, outcome=prediction.outcome)

    def publish_provisional(self, prediction: Prediction, seconds: float) -> None:
        """Store and publish what is said of one image, once; the head is the study's own, and stays where it is.

        A repeat says the stored body again: it may not have been published.
        """
        key = StudyKey(prediction.project, prediction.study_instance_uid)
        if (found := self._insert(key, prediction)) is not None:
            prediction = msgspec.json.decode(found.body, type=Prediction)
        self._say(key, prediction, seconds)
        metrics.inc("prodrome_score_provisional_total", model=prediction.model.id, outcome=prediction.outcome)

    def ended(self, key: StudyKey, model: "Model", revision: int) -> RunOutcome | None:
        """Return how the model ended for a revision, or None."""
        return run_outcome(self._tables, key, model.package.card.id, revision)

    def ran(self, key: StudyKey, model: "Model", revisions: range, outcome: RunOutcome) -> None:
        """Write how a model ended for revisions of a study."""
        self._tables.run_all(
            (_RUN, (outcome, bucket_of(key), model.package.card.id, *key, revision, outcome))
            for revision in revisions
        )

    def _insert(self, key: StudyKey, prediction: Prediction) -> Any | None:
        """Store a prediction; return the row that is there already, or None where there was none."""
        row = (*key, prediction.model.id, prediction.prediction_id)
        self._tables.run(_BY_ID, (key.project, prediction.prediction_id, key.study, prediction.model.id))
        applied, _ = self._tables.run_once(_INSERT, (*row, prediction.outcome, body(prediction).decode()))
        return None if applied else self._tables.run(_SELECT, row)[0]

    def _say(self, key: StudyKey, prediction: Prediction, seconds: float) -> None:
        """Publish a prediction, and of a study's the lifecycle word with it."""
        event = Lifecycle(
            project=key.project,
            study_instance_uid=key.study,
            kind=_LIFECYCLE[prediction.outcome],
            revision=prediction.revision,
            reason=prediction.reason,
            model_id=prediction.model.id,
        )
        extra = {"duration_ms": f"{1000 * seconds:.0f}"}
        common: dict[str, Any] = {"source": "score", "subject": key.study, "extra": extra}
        identity = (prediction.prediction_id,)
        assert self._producer is not None
        messages = [encode("prediction.v1", study_key(*key), prediction, identity=identity, **common)]
        if prediction.provisional is msgspec.UNSET:
            messages.append(encode("lifecycle.v1", study_key(*key), event, identity=identity, **common))
        self._producer.send(messages)

    def _move_head(self, key: StudyKey, prediction: Prediction) -> None:
        model, name, revision = prediction.model.id, prediction.prediction_id, prediction.revision
        first = self._tables.run_once(_FIRST, (*key, model, name, revision))[0]
        # `incomplete` never supersedes a score, whatever a later revision has lost.
        if not first and prediction.outcome != "incomplete":
            self._tables.run_once(_MOVE, (name, revision, *key, model, revision))


def run_outcome(tables: Tables, key: StudyKey, model_id: str, revision: int) -> RunOutcome | None:
    """Return how a model ended for a revision; None where it has not run."""
    rows = tables.run(
        "SELECT outcome FROM model_runs WHERE bucket = ? AND model = ? AND project = ? AND study = ? AND revision = ?",
        (bucket_of(key), model_id, *key, revision),
    )
    return rows[0].outcome if rows else None


def bucket_of(key: StudyKey) -> int:
    """Return the bucket in which the runs of a study are counted."""
    return int.from_bytes(hashlib.sha256(study_key(*key)).digest()[:2], "big") % BUCKETS


def balance(tables: Tables, models: list[str]) -> dict[str, dict[str, int]]:
    """Return, for each model, how many closed revisions ended in each outcome."""
    counted: dict[str, dict[str, int]] = {}
    for model in models:
        found: dict[str, int] = {}
        for bucket in range(BUCKETS):
            for row in tables.stream(
                "SELECT outcome FROM model_runs WHERE bucket = ? AND model = ?", (bucket, model)
            ):
                found[row.outcome] = found.get(row.outcome, 0) + 1
        counted[model] = found
    return counted
