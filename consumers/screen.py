"""Models that look at one image at a time, over images as they cross the boundary: provisional answers.

For each clean image and each such model

1. the image alone is selected, prepared and scored, as the study will be;
2. the answer is published with revision 0 and `provisional`: it counts until the study has a revision and a result.

What waits for nothing needs no state. A repeat finds its answer stored, and says it again with the same body.
Models of other kinds are none of its business: that is `consumers.score`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from consumers.exam import Exam
from consumers.loop import Record
from consumers.predictions import Predictions
from consumers.preparing import Preparing, Task, task_of
from consumers.serving import Serving
from infra import metrics
from infra.cassandra import Tables
from infra.clock import Clock
from infra.kafka import Producer
from infra.settings import Settings
from schemas.errors import BadMessage
from schemas.events import (
    CleanInstance,
    InstanceDeidentified,
    Manifest,
    ManifestInstance,
    Pointer,
    StudyRevised,
)
from schemas.topics import Zone
from scoring.card import Images
from scoring.intake import Selected
from scoring.outcomes import Prepared
from scoring.score import Model

NAME: Final = "score-images"


@dataclass(frozen=True)
class Seen:
    """One image under one model."""

    exam: Exam
    selected: Selected

    @property
    def task(self) -> Task:
        """What its preparation needs to know."""
        key, [instance] = self.exam.key, self.exam.manifest.instances
        name = f"{key.study}/{instance.sop_instance_uid}/{self.exam.model.card.id}"
        return task_of(name, self.exam, self.selected)


class Screen:
    """The stage; see the module."""

    name = NAME
    zone: Zone = "clean"
    topics: Sequence[str] = ("instance.deidentified.v1",)
    group = "prodrome-score-images"
    batch = 64
    pace = 0.0

    def __init__(
        self,
        settings: Settings,
        tables: Tables,
        producer: Producer,
        clock: Clock,
        serving: Serving,
        preparing: Preparing,
    ) -> None:
        self._clock, self._serving, self._preparing = clock, serving, preparing
        self._predictions = Predictions(tables, producer)
        self._profile = settings.deidentify.profile

    def handle(self, records: Sequence[Record]) -> None:
        """See `consumers.loop.Stage.handle`."""
        started = self._clock.monotonic()
        models = [m for m in self._serving.models().values() if isinstance(m.card.intake, Images)]
        seen = [one for record in records for model in models for one in self._seen(record, model)]
        prepared = self._preparing.run([one.task for one in seen]) if seen else []
        for model in models:
            own = [(one, made) for one, made in zip(seen, prepared, strict=True) if one.exam.model is model]
            scored = iter(model.forward([made for _, made in own if isinstance(made, Prepared)]))
            for one, made in own:
                outcome = next(scored) if isinstance(made, Prepared) else made
                said = one.exam.provisional(one.selected, outcome)
                self._predictions.publish_provisional(said, self._clock.monotonic() - started)
        metrics.inc("prodrome_stage_instances_total", len(seen), stage=NAME, outcome="scored")

    def abandon(self, record: Record, error: BadMessage) -> None:
        """Nobody waits for it: the study will be scored whole."""

    def tick(self) -> None:
        """Has no deadlines."""

    def assigned(self, partitions: frozenset[int]) -> None:
        """No state by partition."""

    def caught_up(self, partitions: frozenset[int]) -> None:
        """Waits for nobody."""

    def _seen(self, record: Record, model: Model) -> Iterator[Seen]:
        event = record.event
        if not isinstance(event, InstanceDeidentified):
            return
        for instance in event.instances:
            if instance.conflict:  # kept, not effective: an operator decides
                continue
            exam = _exam(event, instance, model, self._profile)
            selected = exam.select()
            if isinstance(selected, Selected):
                yield Seen(exam, selected)


def _exam(event: InstanceDeidentified, instance: CleanInstance, model: Model, profile: str) -> Exam:
    """Return the exam of one image: a study of which no more is known, before its first revision."""
    common = {
        "project": event.project,
        "study_instance_uid": event.study_instance_uid,
        "patient_id": event.patient_id,
        "revision": 0,
        "set_id": "",
    }
    alone = ManifestInstance(
        sop_instance_uid=instance.sop_instance_uid,
        series_instance_uid=instance.series_instance_uid,
        sop_class_uid=instance.sop_class_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        content_key=instance.content_key,
        pixel_key=instance.pixel_key,
        conflict=False,
        object=instance.object,
        facts=instance.facts,
    )
    nowhere = Pointer(uri="clean://none", offset=0, length=0)
    revised = StudyRevised(instances=1, modalities=(), manifest=nowhere, **common)  # type: ignore[arg-type]
    manifest = Manifest(instances=(alone,), **common)  # type: ignore[arg-type]
    return Exam(revised=revised, manifest=manifest, model=model, profile=profile)
