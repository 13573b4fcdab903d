"""The events: every message that crosses a topic, as a frozen type.

Trusted events may hold identifiers; clean ones hold pseudonyms only (`schemas.topics` says which topic is
which). The JSON Schemas in `schemas/json` are generated from these types. Additive fields stay in the same
version and readers ignore fields they do not know; removing or changing one is a new version, written in
parallel. Times of receipt exist on trusted events only: for live data they are the study date.
"""

import re
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

Outcome = Literal["clean", "duplicate", "corrected", "conflict", "quarantined", "dead"]
RunOutcome = Literal["predicted", "incomplete", "out_of_domain", "failed", "waiting"]
LifecycleKind = Literal[
    "first_instance",
    "late_instance",
    "revised",
    "quarantined",
    "uid_conflict",
    "identity_conflict",
    "scored",
    "incomplete",
    "out_of_domain",
    "failed",
    "retracted",
    "resolved",
    "source_deleted",
]

T = TypeVar("T")
#: Words to which later releases may add: who reads them skips those it does not know. Only on topics that no
#: role reads; `schemas.compatibility` goes by the mark.
Open = Annotated[T, msgspec.Meta(extra_json_schema={"x-open": True})]


_INTAKE: Final = re.compile(r"([0-9A-Za-z_-]+\+*)/([0-9]{1,18})/([0-9]{1,9})")


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """Base of everything that is said: frozen, keyword-only, unknown fields ignored."""


class Pointer(Value, frozen=True, kw_only=True):
    """Where bytes are: never a path of a host.

    Attributes
    ----------
    uri : str
        ``spool://<spool id>/<segment>``, ``clean://<key>``, ``trusted://<key>``, ``results://<key>`` or
        ``s3://<bucket>/<key>``.
    offset, length : int
        Range in bytes.
    digest : str or None
        Of the range, where it is known: SHA-256 in hex, or ``xxh3:`` and 16 digits for spooled bytes.
    checksum : str, left out where it is not known
        The same for stored objects: ``xxh3:`` and 16 digits, or ``crc32:`` and 8 of the member of an archive, as
        it is without compression. Release 0.1.0 gave stored objects a `digest`.
    inflated : int, left out where the range is as it is
        The range is a raw deflate stream (RFC 1951), a member of an archive, of so many bytes without compression.
    """

    uri: str
    offset: int
    length: int
    digest: str | None = None
    checksum: str | msgspec.UnsetType = (
        msgspec.UNSET
    )  # left out, so that a body of 0.1.0 is said again as it was
    inflated: int | msgspec.UnsetType = msgspec.UNSET


class Intake(Value, frozen=True, kw_only=True):
    """One arrival: record `record` of segment `segment` of one spool. The ledger counts these."""

    spool: str
    segment: int
    record: int

    def __str__(self) -> str:
        return f"{self.spool}/{self.segment}/{self.record}"

    @classmethod
    def parse(cls, text: str) -> "Intake":
        """Return the intake that is written so; raise ValueError for a text that names none."""
        found = _INTAKE.fullmatch(text)
        if found is None:
            raise ValueError("expected an intake: spool/segment/record")
        return cls(spool=found[1], segment=int(found[2]), record=int(found[3]))

    @property
    def again(self) -> "Intake":
        """The intake that a release of this one is: the same numbers in a spool of its own name."""
        return msgspec.structs.replace(self, spool=f"{self.spool}+")

    @property
    def origin(self) -> "Intake":
        """The intake that came through the door, of which this is a release, or itself."""
        return msgspec.structs.replace(self, spool=self.spool.rstrip("+"))


class Arrival(Value, frozen=True, kw_only=True):
    """Which instance of which association: lets the catalog see that an association is complete.

    `association` is a random id and `ordinal` a count from 0 within it; neither says when.
    """

    association: str
    ordinal: int


class Release(Value, frozen=True, kw_only=True):
    """An operator lets a quarantined or dead intake cross once more.

    Attributes
    ----------
    origin : str
        The intake that is released.
    admitted : tuple of str
        Reasons of quarantine that the operator answers for (`schemas.reasons.ADMISSIBLE`); all others are
        judged anew.
    """

    origin: str
    admitted: tuple[str, ...] = ()


class ReceivedInstance(Value, frozen=True, kw_only=True):
    """One instance as it came, by pointer; or released from the quarantine. Trusted.

    Attributes
    ----------
    dataset_offset : int
        Bytes before the dataset at the pointer: preamble and file meta of an object of a bucket. What the
        receiver keeps is the dataset alone.
    """

    intake: Intake
    pointer: Pointer
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    source: str
    arrival: Arrival
    received_at: float
    dataset_mismatch: bool = False
    release: Release | None = None
    dataset_offset: int = 0


class InstanceReceived(Value, frozen=True, kw_only=True):
    """1 to 64 instances of one study, on `instance.received.v1`. Trusted.

    `study_instance_uid` is the study as sent, or the SOP Instance UID where there is none.
    """

    project: str
    study_instance_uid: str
    instances: tuple[ReceivedInstance, ...]


class AssociationClosed(Value, frozen=True, kw_only=True):
    """An association that carried `instances` instances of this study has closed.

    Published behind those instances with the same key; on clean topics the UID is the pseudonymous one.
    """

    project: str
    study_instance_uid: str
    association: str
    instances: int


class ObjectDeleted(Value, frozen=True, kw_only=True):
    """An object that was taken in is no longer in its bucket; the store itself has said so. Trusted."""

    project: str
    study_instance_uid: str
    sop_instance_uid: str
    intake: Intake


class CleanInstance(Value, frozen=True, kw_only=True):
    """One instance after de-identification.

    Attributes
    ----------
    content_key, pixel_key : str
        HMAC of `content_id` and `pixel_id`: equal content has equal keys, the raw digests stay trusted.
    version : int
        0 for the first content of this SOP Instance UID, n for its n-th correction.
    conflict : bool
        Another pixel content under a known SOP Instance UID: kept, not effective until resolved.
    facts : dict
        The queryable fields (`consumers.deid.engine.InstanceFacts`).
    metadata : str or None
        The clean DICOM JSON model, zlib-compressed and base64; None where it is too large for a message,
        and then `metadata_object` points at it.
    quiet_seconds : float
        How long a study of this source must be quiet before it is taken as closed.
    manifest : Pointer or None
        What was done to it at the boundary, as JSON: profile, and action and rule by tag. Instances to which the
        same was done share one; events of release 0.1.0 have none.
    """

    sop_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    content_key: str
    pixel_key: str
    version: int
    conflict: bool
    object: Pointer
    facts: dict[str, Any]
    arrival: Arrival
    quiet_seconds: float = 15.0
    metadata: str | None = None
    metadata_object: Pointer | None = None
    manifest: Pointer | None = None


class InstanceDeidentified(Value, frozen=True, kw_only=True):
    """1 to 64 clean instances of one study, on `instance.deidentified.v1`."""

    project: str
    study_instance_uid: str
    patient_id: str
    instances: tuple[CleanInstance, ...]


class ExcludedInstance(Value, frozen=True, kw_only=True):
    """One instance nobody should wait for, with the reason word."""

    sop_instance_uid: str
    arrival: Arrival
    reason: str


class InstanceExcluded(Value, frozen=True, kw_only=True):
    """Instances of a study that settled without a clean object; same topic and key as the clean ones."""

    project: str
    study_instance_uid: str
    instances: tuple[ExcludedInstance, ...]


class SettledRecord(Value, frozen=True, kw_only=True):
    """How one intake ended."""

    record: int
    outcome: Outcome
    reason: str | None = None


class InstanceSettled(Value, frozen=True, kw_only=True):
    """Outcomes of records of one segment, on `instance.settled.v1`. Trusted."""

    spool: str
    segment: int
    records: tuple[SettledRecord, ...]


class SegmentRelayed(Value, frozen=True, kw_only=True):
    """How many records of a segment the relay has published; `sealed` when there will be no more. Trusted.

    Attributes
    ----------
    epoch : str, left out by who has none
        Of publishing. Another one than before: all of the segment is published again, and has to settle again
        before its bytes may be freed. Said once before its first record.
    """

    spool: str
    segment: int
    records: int
    sealed: bool
    epoch: str | None = None


class StudyRevised(Value, frozen=True, kw_only=True):
    """A study as it was when it became quiet: a set of instances with a number.

    Attributes
    ----------
    set_id : str
        SHA-256 over the sorted (SOP Instance UID, content key, pixel key).
    manifest : Pointer
        The immutable list of the set (`Manifest`).
    flags : tuple of str
        ``uid_conflict`` where a conflicting version is kept; ``identity_conflict`` where the study belongs
        to two patients (indexed, not scored).
    rescore : tuple of str, left out for a revision as it comes
        An operator wants it scored again: digests of the packages that are meant, and no others.
    explain : str, left out unless it is asked for
        Not scored again: the answer that counts gets a map by this method.
    """

    project: str
    study_instance_uid: str
    patient_id: str
    revision: int
    set_id: str
    instances: int
    modalities: tuple[str, ...]
    manifest: Pointer
    flags: tuple[str, ...] = ()
    rescore: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    explain: str | msgspec.UnsetType = msgspec.UNSET


class ManifestInstance(Value, frozen=True, kw_only=True):
    """One effective instance of a revision."""

    sop_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    content_key: str
    pixel_key: str
    conflict: bool
    object: Pointer
    facts: dict[str, Any]


class Manifest(Value, frozen=True, kw_only=True):
    """The immutable list behind a revision, an object in the clean store."""

    project: str
    study_instance_uid: str
    patient_id: str
    revision: int
    set_id: str
    instances: tuple[ManifestInstance, ...]


class ModelIdentity(Value, frozen=True, kw_only=True):
    """Which model said it: id and version for people, the digest for certainty."""

    id: str
    version: str
    sha256: str
    framework: str
    preparation: str
    parameters: str


class PredictionInput(Value, frozen=True, kw_only=True):
    """One selected input, named by what it is to the model (a view, a series role).

    Attributes
    ----------
    sop_instance_uid : str
        The image; of a series, its first slice.
    series_instance_uid, instances : str and int, left out for single images
        The series, and how many of its images were used.
    """

    name: str
    sop_instance_uid: str
    series_instance_uid: str | msgspec.UnsetType = msgspec.UNSET
    instances: int | msgspec.UnsetType = msgspec.UNSET


class PredictionMeasurement(Value, frozen=True, kw_only=True):
    """One number that a model gave.

    Attributes
    ----------
    unit : str
        UCUM; ``1`` for a plain number.
    low, high : float, left out where the model gives no spread
        Lowest and highest of passes over the same input moved a little: how sure the model is of itself.
    confidence : str, left out where nothing is said
        A word of the model's card, as ``low``.
    """

    name: str
    value: float
    unit: str
    low: float | msgspec.UnsetType = msgspec.UNSET
    high: float | msgspec.UnsetType = msgspec.UNSET
    confidence: str | msgspec.UnsetType = msgspec.UNSET


class PredictionMap(Value, frozen=True, kw_only=True):
    """Where a model looked: an object of the results store, with the method that made it."""

    method: str
    measurement: str
    object: Pointer


class Prediction(Value, frozen=True, kw_only=True):
    """A model's answer for one selected set of inputs, on `prediction.v1`.

    Attributes
    ----------
    prediction_id : str
        UUIDv5 of (project, study, inputs' set id, model digest, preparation version, parameter digest): the
        same inputs and model give the same id and the same body.
    status : str
        ``preliminary`` for a first answer, ``amended`` for one that supersedes, ``retracted`` for none.
    outcome : str
        ``predicted``, or why there is no score: ``incomplete``, ``out_of_domain``, ``failed``.
    score : float or None
        0 to 1, the probability that `score_meaning` names; None without a prediction.
    probabilities : dict
        Class name to probability, 0 to 1.
    supersedes : str or None
        The prediction that this one replaces.
    measurements : tuple, left out where the model gives none
        Numbers beside the score, as the card names them.
    gates : dict, left out where the model measures nothing
        What the domain checks saw, by measure; of `out_of_domain` the last is what was refused.
    candidates : tuple of str, left out where single images are selected
        Series that would have fitted when this was said, the chosen one first.
    provisional : bool, left out of what is said of studies
        Of one image, as it came, before its study had a revision: `revision` is 0. The study's result follows.
    decisive_sop_instance_uid : str, left out unless images are looked at one by one
        Which of the inputs speaks for the study.
    software : str, left out by 0.1.0
        Version of prodrome that has computed it.
    maps : tuple, left out where there are none
        Explanations, made later than the prediction, which they supersede with the same numbers.
    """

    prediction_id: str
    project: str
    study_instance_uid: str
    patient_id: str
    revision: int
    status: Literal["preliminary", "amended", "retracted"]
    outcome: RunOutcome
    model: ModelIdentity
    modality: str
    sop_class_uids: tuple[str, ...]
    body_part: str
    inputs: tuple[PredictionInput, ...]
    inputs_set_id: str
    score: float | None
    score_meaning: str
    calibrated: bool
    category: str | None
    probabilities: dict[str, float]
    thresholds: dict[str, float]
    quality_flags: tuple[str, ...]
    reason: str | None
    deid_profile: str
    intended_use: str
    supersedes: str | None = None
    measurements: tuple[PredictionMeasurement, ...] | msgspec.UnsetType = msgspec.UNSET
    gates: dict[str, float] | msgspec.UnsetType = msgspec.UNSET
    candidates: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    software: str | msgspec.UnsetType = msgspec.UNSET
    provisional: bool | msgspec.UnsetType = msgspec.UNSET
    decisive_sop_instance_uid: str | msgspec.UnsetType = msgspec.UNSET
    maps: tuple[PredictionMap, ...] | msgspec.UnsetType = msgspec.UNSET


class Lifecycle(Value, frozen=True, kw_only=True):
    """What happened to a study, on `lifecycle.v1`, so that consumers need not guess."""

    project: str
    study_instance_uid: str
    kind: Open[LifecycleKind]
    revision: int | None = None
    sop_instance_uid: str | None = None
    reason: str | None = None
    model_id: str | None = None


class DeadLetter(Value, frozen=True, kw_only=True):
    """A message that could not be worked on, whole, so that it can be replayed.

    `key`, `value` and the values of `headers` are base64; the zone of the topic is the zone of the message.
    """

    stage: str
    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    attempts: int
    key: str
    value: str
    headers: dict[str, str]


#: CloudEvents type -> event type. A new version is a new row.
EVENT_TYPES: dict[str, type[Value]] = {
    "org.prodrome.instance.received.v1": InstanceReceived,
    "org.prodrome.association.closed.v1": AssociationClosed,
    "org.prodrome.object.deleted.v1": ObjectDeleted,
    "org.prodrome.instance.settled.v1": InstanceSettled,
    "org.prodrome.segment.relayed.v1": SegmentRelayed,
    "org.prodrome.instance.deidentified.v1": InstanceDeidentified,
    "org.prodrome.instance.excluded.v1": InstanceExcluded,
    "org.prodrome.study.revised.v1": StudyRevised,
    "org.prodrome.imaging.prediction.created.v1": Prediction,
    "org.prodrome.lifecycle.v1": Lifecycle,
    "org.prodrome.deadletter.v1": DeadLetter,
}
