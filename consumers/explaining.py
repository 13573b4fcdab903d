"""Where a model looked, for one answer: a map in the results store, and the answer again with a pointer to it.

Work of minutes for models whose every pass costs a second, so it runs in the bulk lane, when an operator asks. The
numbers stay as they were: the new answer supersedes the old one and adds the map.
"""

import logging

import msgspec

from consumers.exam import Exam
from consumers.predictions import Predictions
from consumers.preparing import Preparing, Task
from infra.objects import Store
from schemas.events import PredictionMap
from schemas.ids import event_id
from scoring.arrays import write_arrays
from scoring.explain import Map, NoMap, explain
from scoring.outcomes import Prepared

log = logging.getLogger(__name__)


class Explaining:
    """Makes maps; used by the bulk lane of the score stage.

    Parameters
    ----------
    predictions : Predictions
        Reads the answer that counts, and publishes it with the map.
    preparing : Preparing
        What was prepared for the answer is kept, as a rule.
    results : Store
        Where maps lie.
    """

    def __init__(self, predictions: Predictions, preparing: Preparing, results: Store) -> None:
        self._predictions, self._preparing, self._results = predictions, preparing, results

    def explain(self, exam: Exam, task: Task, method: str) -> None:
        """Make the map of what counts now for a study, unless it has one of this method.

        Raises
        ------
        SlowDown
            A store or table does not answer.
        """
        key, model = exam.key, exam.model
        effective = self._predictions.effective(key, model)
        if effective is None:
            return
        said = self._predictions.stored(key, model, effective)
        maps = () if said.maps is msgspec.UNSET else said.maps
        if said.model.sha256 != model.package.digest or said.outcome != "predicted":
            log.warning("study %s: what counts is no score of this package, no map is made", key.study)
            return
        if any(each.method == method for each in maps):
            return
        [prepared] = self._preparing.run([task])
        if not isinstance(prepared, Prepared):
            log.error(
                "study %s: cannot be prepared any more (%s), no map is made", key.study, prepared.reason
            )
            return
        try:
            made = explain(model.card, model.session.forward, prepared, method)
        except NoMap as error:
            log.error("study %s: no map is made: %s", key.study, error)
            return
        name = f"{key.project}/maps/{key.study}/{effective}-{method}.npz"
        pointer = self._results.put_again(name, _bytes(made))
        one = PredictionMap(method=method, measurement=made.measurement, object=pointer)
        self._predictions.publish(
            msgspec.structs.replace(
                said,
                prediction_id=event_id("prediction", *key, f"{effective} with {method}"),
                revision=exam.revised.revision,
                status="amended",
                supersedes=effective,
                maps=(*maps, one),
            )
        )


def _bytes(made: Map) -> bytes:
    placed = {} if made.to_source is None else {"to_source": made.to_source}
    return write_arrays({"cells": made.cells, **placed})
