"""One worked example of every event, and a few where a second says more: made by the real constructors.

All values are invented: pseudonyms look as they do on a topic, UIDs on trusted ones are of a test root.
`schemas.generate` writes them to schemas/examples; documentation and contract tests use the same.
"""

import base64
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from schemas.codec import Message, body, encode
from schemas.events import (
    Arrival,
    AssociationClosed,
    CleanInstance,
    DeadLetter,
    ExcludedInstance,
    InstanceDeidentified,
    InstanceExcluded,
    InstanceReceived,
    InstanceSettled,
    Intake,
    Lifecycle,
    ModelIdentity,
    ObjectDeleted,
    Pointer,
    Prediction,
    PredictionInput,
    ReceivedInstance,
    SegmentRelayed,
    SettledRecord,
    StudyRevised,
    Value,
)
from schemas.ids import event_id, set_id, study_key
from schemas.topics import TOPICS, Topic

_MG: Final = "1.2.840.10008.5.1.4.1.1.1.2"
_EXPLICIT: Final = "1.2.840.10008.1.2.1"
_SENT: Final = "1.2.826.0.1.3680043.10.1451.7"
_STUDY: Final = "2.25.271482917043119282930718384628361027465"
_SERIES: Final = "2.25.98127364518273645182736451827364518273"
_VIEWS: Final = {
    "L-CC": "2.25.160933871946264893251774651889124306117",
    "R-CC": "2.25.291837465564738291029384756647382910293",
    "L-MLO": "2.25.73829102938475664738291029384756647382",
    "R-MLO": "2.25.310293847566473829102938475664738291029",
}
_PATIENT: Final = "7c41f09e2b6d83a5514ecf07"
_ASSOCIATION: Final = "8f0c4b7e21d95a3c6f1d3b0e6f0c4f0a"
_SPOOL: Final = "b7d1f0c2a94e4c51"
_KEY: Final = "5d" * 32
_ARRIVAL: Final = Arrival(association=_ASSOCIATION, ordinal=0)

_RECEIVED: Final = InstanceReceived(
    project="default",
    study_instance_uid=_SENT,
    instances=(
        ReceivedInstance(
            intake=Intake(spool=_SPOOL, segment=3, record=41),
            pointer=Pointer(uri=f"spool://{_SPOOL}/3", offset=213_450_112, length=5_201_348),
            sop_class_uid=_MG,
            sop_instance_uid=f"{_SENT}.1.1",
            transfer_syntax_uid=_EXPLICIT,
            source="mammography",
            arrival=_ARRIVAL,
            received_at=1_718_268_431.25,
        ),
    ),
)
_CLOSED: Final = AssociationClosed(
    project="default", study_instance_uid=_STUDY, association=_ASSOCIATION, instances=4
)
_DELETED: Final = ObjectDeleted(
    project="default",
    study_instance_uid=_STUDY,
    sop_instance_uid="1.2.826.0.1.3680043.10.1234.1.1",
    intake=Intake(spool="s3-archive", segment=3, record=41),
)
_SETTLED: Final = InstanceSettled(
    spool=_SPOOL,
    segment=3,
    records=(
        SettledRecord(record=41, outcome="clean"),
        SettledRecord(record=42, outcome="quarantined", reason="burned_in_flag"),
    ),
)
_CLEAN: Final = CleanInstance(
    sop_instance_uid=_VIEWS["L-CC"],
    series_instance_uid=_SERIES,
    sop_class_uid=_MG,
    transfer_syntax_uid=_EXPLICIT,
    content_key=_KEY,
    pixel_key="c1" * 32,
    version=0,
    conflict=False,
    object=Pointer(uri=f"clean://default/5d/{_KEY}.dcm", offset=0, length=5_200_896, digest="9a" * 32),
    facts={
        "modality": "MG",
        "rows": 2600,
        "columns": 2000,
        "number_of_frames": 1,
        "image_laterality": "L",
        "view_position": "CC",
        "presentation_intent_type": "FOR PRESENTATION",
    },
    arrival=_ARRIVAL,
)
_DEIDENTIFIED: Final = InstanceDeidentified(
    project="default", study_instance_uid=_STUDY, patient_id=_PATIENT, instances=(_CLEAN,)
)
_EXCLUDED: Final = InstanceExcluded(
    project="default",
    study_instance_uid=_STUDY,
    instances=(ExcludedInstance(sop_instance_uid=_VIEWS["R-CC"], arrival=_ARRIVAL, reason="quarantined"),),
)
_SET: Final = set_id((sop, _KEY, "c1" * 32) for sop in _VIEWS.values())
_REVISED: Final = StudyRevised(
    project="default",
    study_instance_uid=_STUDY,
    patient_id=_PATIENT,
    revision=1,
    set_id=_SET,
    instances=4,
    modalities=("MG",),
    manifest=Pointer(
        uri=f"clean://default/manifests/{_SET[:2]}/{_SET}-1.json", offset=0, length=3_212, digest=None
    ),
)
_MODEL: Final = ModelIdentity(
    id="breast-density-histogram",
    version="1.0.0",
    sha256="4e" * 32,
    framework="onnx",
    preparation="view-histograms/1",
    parameters="77" * 32,
)
_PREDICTED: Final = Prediction(
    prediction_id=event_id("prediction", "default", _STUDY, "worked example"),
    project="default",
    study_instance_uid=_STUDY,
    patient_id=_PATIENT,
    revision=1,
    status="preliminary",
    outcome="predicted",
    model=_MODEL,
    modality="MG",
    sop_class_uids=(_MG,),
    body_part="BREAST",
    inputs=tuple(PredictionInput(name=view, sop_instance_uid=sop) for view, sop in _VIEWS.items()),
    inputs_set_id=_SET,
    score=0.7345,
    score_meaning="probability_dense_breast",
    calibrated=False,
    category="heterogeneously_dense",
    probabilities={
        "almost_entirely_fatty": 0.0119,
        "scattered": 0.2536,
        "heterogeneously_dense": 0.6902,
        "extremely_dense": 0.0443,
    },
    thresholds={"dense": 0.5},
    quality_flags=(),
    reason=None,
    deid_profile="basic",
    intended_use="Research and development only. Not for diagnosis.",
)
_INCOMPLETE: Final = Prediction(
    prediction_id=event_id("prediction", "default", _STUDY, "worked example", "incomplete"),
    project="default",
    study_instance_uid=_STUDY,
    patient_id=_PATIENT,
    revision=1,
    status="preliminary",
    outcome="incomplete",
    model=_MODEL,
    modality="MG",
    sop_class_uids=(_MG,),
    body_part="BREAST",
    inputs=(PredictionInput(name="L-CC", sop_instance_uid=_VIEWS["L-CC"]),),
    inputs_set_id=set_id([(_VIEWS["L-CC"], _KEY, "c1" * 32)]),
    score=None,
    score_meaning="probability_dense_breast",
    calibrated=False,
    category=None,
    probabilities={},
    thresholds={"dense": 0.5},
    quality_flags=(),
    reason="missing:R-CC,L-MLO,R-MLO",
    deid_profile="basic",
    intended_use="Research and development only. Not for diagnosis.",
)
_LETTER: Final = DeadLetter(
    stage="catalog",
    topic="instance.deidentified.v1",
    partition=7,
    offset=18_231,
    reason="malformed_message",
    detail="Object missing required field `patient_id`",
    attempts=1,
    key=base64.b64encode(f"default/{_STUDY}".encode()).decode(),
    value=base64.b64encode(body(_CLOSED)).decode(),
    headers={"ce_type": base64.b64encode(b"org.prodrome.instance.deidentified.v1").decode()},
)

#: (CloudEvents type, name of a further example or empty, event); every type once with an empty name.
EXAMPLES: Final[tuple[tuple[str, str, Value], ...]] = (
    ("org.prodrome.instance.received.v1", "", _RECEIVED),
    ("org.prodrome.association.closed.v1", "", _CLOSED),
    ("org.prodrome.object.deleted.v1", "", _DELETED),
    ("org.prodrome.instance.settled.v1", "", _SETTLED),
    (
        "org.prodrome.segment.relayed.v1",
        "",
        SegmentRelayed(spool=_SPOOL, segment=3, records=43, sealed=False, epoch="5b0c6f5f6a1de2a4"),
    ),
    ("org.prodrome.instance.deidentified.v1", "", _DEIDENTIFIED),
    ("org.prodrome.instance.excluded.v1", "", _EXCLUDED),
    ("org.prodrome.study.revised.v1", "", _REVISED),
    ("org.prodrome.imaging.prediction.created.v1", "", _PREDICTED),
    ("org.prodrome.imaging.prediction.created.v1", "incomplete", _INCOMPLETE),
    (
        "org.prodrome.lifecycle.v1",
        "",
        Lifecycle(project="default", study_instance_uid=_STUDY, kind="revised", revision=1),
    ),
    (
        "org.prodrome.lifecycle.v1",
        "quarantined",
        Lifecycle(
            project="default",
            study_instance_uid=_STUDY,
            kind="quarantined",
            sop_instance_uid=_VIEWS["R-CC"],
            reason="burned_in_flag",
        ),
    ),
    ("org.prodrome.deadletter.v1", "", _LETTER),
)

#: (CloudEvents type, name) -> the role that says it, where that is not the first writer of the topic
_SPEAKERS: Final = {
    ("org.prodrome.segment.relayed.v1", ""): "relay",
    ("org.prodrome.lifecycle.v1", ""): "catalog",
}


class Worked(NamedTuple):
    """An example as a whole message."""

    kind: str
    name: str
    message: Message


def messages() -> Iterator[Worked]:
    """Yield every example as a message of every topic that carries its type."""
    for topic in TOPICS:
        for kind, name, event in EXAMPLES:
            if kind in topic.types:
                yield Worked(kind, name, _message(topic, kind, name, event))


def _message(topic: Topic, kind: str, name: str, event: Any) -> Message:
    key = _key(event)
    study = topic.zone == "clean" and hasattr(event, "study_instance_uid")
    return encode(
        topic.name,
        key,
        event,
        identity=(key.decode(), "worked example", name),
        source=_SPEAKERS.get((kind, name), topic.writers[0]),
        subject=event.study_instance_uid if study else "",
    )


def _key(event: Any) -> bytes:
    if isinstance(event, DeadLetter):
        return f"{event.topic}/{event.partition}".encode()
    if isinstance(event, InstanceSettled | SegmentRelayed):
        return f"{event.spool}/{event.segment}".encode()
    return study_key(event.project, event.study_instance_uid)
