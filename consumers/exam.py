"""One revision of a study under one model: what the model's intake sees of it, and the bodies of answers. Pure.

The same selected inputs, model, preparation and parameters give the same id and the same body; timings and
trace are headers.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from consumers.quiet import StudyKey
from schemas.events import (
    Manifest,
    ManifestInstance,
    ModelIdentity,
    Prediction,
    PredictionInput,
    PredictionMeasurement,
    RunOutcome,
    StudyRevised,
)
from schemas.ids import event_id, set_id
from schemas.version import VERSION
from scoring.card import Images
from scoring.intake import Input, Instance, Missing, NotApplicable, Selected
from scoring.outcomes import Measured, Outcome, OutOfDomain, Scores
from scoring.score import Model

_IDENTITY: Final = (
    "sop_instance_uid", "series_instance_uid", "sop_class_uid", "transfer_syntax_uid", "content_key", "pixel_key",
    "conflict",
)  # fmt: skip
_FACTS: Final = tuple(name for name in Instance.__struct_fields__ if name not in _IDENTITY)


@dataclass(frozen=True, kw_only=True)
class Exam:
    """A revision with its manifest, a model, and the profile under which the images were made clean."""

    revised: StudyRevised
    manifest: Manifest
    model: Model
    profile: str

    @property
    def key(self) -> StudyKey:
        """The study."""
        return StudyKey(self.revised.project, self.revised.study_instance_uid)

    @property
    def incomplete_id(self) -> str:
        """The id of the one `incomplete` that is ever said of this study by this model."""
        return event_id("prediction", *self.key, f"incomplete {self.model.package.digest}")

    def select(self) -> Selected | Missing | NotApplicable:
        """Return what the model's intake takes of the revision."""
        return self.model.select([_instance(i) for i in self.manifest.instances])

    def prediction_id(self, selected: Selected) -> str:
        """Return the id of the answer for these inputs (`scoring.keys.prediction_key`, within the study)."""
        return event_id("prediction", *self.key, self.model.key(selected))

    def inputs_set_id(self, selected: Selected) -> str:
        """Return the id of the selected set as events name it."""
        return set_id((i.sop_instance_uid, i.content_key, i.pixel_key) for i in selected.instances.values())

    def answer(self, selected: Selected, outcome: Outcome, supersedes: str | None) -> Prediction:
        """Return the prediction of a scored, refused or failed exam."""
        common: dict[str, Any] = {
            "supersedes": supersedes,
            "inputs": selected.inputs,
            "used": [i.sop_instance_uid for i in selected.instances.values()],
            "candidates": selected.candidates or msgspec.UNSET,
        }
        name = self.prediction_id(selected)
        if isinstance(outcome, Scores):
            return self._prediction(
                name,
                "predicted",
                **common,
                score=outcome.score,
                category=outcome.category,
                probabilities=outcome.probabilities,
                quality_flags=selected.quality_flags,
                decisive_sop_instance_uid=self._decisive(selected, outcome),
                measurements=tuple(map(_measurement, outcome.measurements)) or msgspec.UNSET,
                gates=outcome.measured or msgspec.UNSET,
            )
        if isinstance(outcome, OutOfDomain):
            gates = outcome.measured or msgspec.UNSET
            return self._prediction(name, "out_of_domain", **common, reason=outcome.reason, gates=gates)
        return self._prediction(name, "failed", **common, reason=outcome.reason)

    def provisional(self, selected: Selected, outcome: Outcome) -> Prediction:
        """Return what is said of one image before its study has a revision, under an id of its own."""
        said = self.answer(selected, outcome, None)
        name = event_id("prediction", *self.key, f"provisional {self.model.key(selected)}")
        return msgspec.structs.replace(said, prediction_id=name, provisional=True)

    def _decisive(self, selected: Selected, outcome: Scores) -> str | msgspec.UnsetType:
        if not isinstance(self.model.card.intake, Images):
            return msgspec.UNSET
        return list(selected.instances)[outcome.row]

    def incomplete(self, missing: Missing) -> Prediction:
        """Return what is said once when a model's deadline is over and inputs are missing."""
        reason = "missing:" + ",".join(missing.names)
        used = [each.sop_instance_uid for each in missing.found]
        return self._prediction(
            self.incomplete_id, "incomplete", inputs=missing.found, used=used, reason=reason
        )

    def _prediction(
        self, name: str, outcome: RunOutcome, inputs: Sequence[Input], used: Collection[str], **more: Any
    ) -> Prediction:
        card, wanted = self.model.card, frozenset(used)
        instances = [i for i in self.manifest.instances if i.sop_instance_uid in wanted]
        nothing: dict[str, Any] = {
            "score": None, "category": None, "probabilities": {}, "quality_flags": (), "reason": None,
            "supersedes": None,
        }  # fmt: skip
        return Prediction(
            prediction_id=name,
            project=self.revised.project,
            study_instance_uid=self.revised.study_instance_uid,
            patient_id=self.revised.patient_id,
            revision=self.revised.revision,
            status="amended" if more.get("supersedes") else "preliminary",
            outcome=outcome,
            model=ModelIdentity(
                id=card.id,
                version=card.version,
                sha256=self.model.package.digest,
                framework="onnx",
                preparation=card.preparation_version,
                parameters=card.parameter_digest,
            ),
            modality=card.input.modality,
            sop_class_uids=tuple(sorted({i.sop_class_uid for i in instances})),
            body_part=card.body_part,
            inputs=tuple(map(_input, inputs)),
            inputs_set_id=set_id((i.sop_instance_uid, i.content_key, i.pixel_key) for i in instances),
            score_meaning=card.score.meaning,
            calibrated=card.calibrator is not None,
            thresholds={t.name: t.value for t in card.thresholds},
            deid_profile=self.profile,
            intended_use=card.disclaimer,
            software=VERSION,
            **{**nothing, **more},
        )


def reinstated(key: StudyKey, known: Prediction, instead_of: str, revised: StudyRevised) -> Prediction:
    """Return a stored answer as the one that counts again, in place of a later one; nothing is computed."""
    return msgspec.structs.replace(
        known,
        prediction_id=event_id("prediction", *key, f"{known.prediction_id} instead of {instead_of}"),
        revision=revised.revision,
        status="amended",
        supersedes=instead_of,
    )


def _input(each: Input) -> PredictionInput:
    if each.series_instance_uid is None:
        return PredictionInput(name=each.name, sop_instance_uid=each.sop_instance_uid)
    return PredictionInput(
        name=each.name,
        sop_instance_uid=each.sop_instance_uid,
        series_instance_uid=each.series_instance_uid,
        instances=each.instances,
    )


def _measurement(each: Measured) -> PredictionMeasurement:
    said = {
        name: value for name in ("low", "high", "confidence") if (value := getattr(each, name)) is not None
    }
    return PredictionMeasurement(name=each.name, value=each.value, unit=each.unit, **said)


def _instance(instance: ManifestInstance) -> Instance:
    """Return what a model's intake may know of an instance."""
    known = instance.facts
    facts: dict[str, Any] = {name: known[name] for name in _FACTS if known.get(name) is not None}
    if "partial_view" in facts:
        facts["partial_view"] = "YES" if facts["partial_view"] in (True, "YES") else "NO"
    named = {name: getattr(instance, name) for name in _IDENTITY}
    return msgspec.convert(facts | named, Instance)
