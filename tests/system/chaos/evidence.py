"""What there is to judge: the sender's ledger beside everything that the system has written. Values only.

`Evidence` is what `checker.judge` takes; `collect` fills it from the real tables, stores and topics of a
*world*: the running system, or a rig of its stages. Each part is read from where it lies, by a reader of our
own where the product has one (objects are parsed whole by pydicom), and nothing is asked of a role.
"""

import hashlib
import io
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import pydicom
import xxhash
from sender import Sent, image_digest

from consumers.deid.keys import ProjectKeys
from infra.kafka import Received
from infra.seal import Sealer
from infra.settings import Settings, sealing_secrets
from schemas.events import EVENT_TYPES, DeadLetter, InstanceSettled, Manifest, Pointer, StudyRevised
from schemas.topics import TOPICS


class Ended(NamedTuple):
    """One intake and how it ended, by its row."""

    intake: str
    uid: str
    outcome: str
    reason: str | None


class Row(NamedTuple):
    """One indexed version of an instance."""

    study: str
    uid: str
    content_key: str
    pixel_key: str
    version: int
    conflict: bool
    key: str
    length: int
    digest: str


class Stored(NamedTuple):
    """One clean object; `image` is None where it does not parse to its end."""

    length: int
    digest: str
    uid: str | None
    image: str | None


class Head(NamedTuple):
    """The newest revision of a study and what its manifest lists; None where there is no such object."""

    study: str
    revision: int
    set_id: str
    published: bool
    members: frozenset[str] | None


class Predicted(NamedTuple):
    """One stored prediction."""

    study: str
    model: str
    prediction: str
    published: bool
    body: str
    effective: bool


class Said(NamedTuple):
    """One message: which, where, and digests of what it says."""

    topic: str
    where: str
    key: str
    id: str
    body: str
    about: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that is judged; see the module.

    `clean_uid` maps each UID that was sent to its pseudonym. `kept` is the digest of the bytes that quarantine
    holds of an intake. `leaks` names places behind the boundary that hold something planted. `expected_dead`
    are the UIDs that are poison, and `scored` the pseudonymous studies that a model must have answered.
    """

    sent: Sequence[Sent]
    clean_uid: Mapping[str, str]
    ended: Sequence[Ended] = ()
    rows: Sequence[Row] = ()
    objects: Mapping[str, Stored] = field(default_factory=dict)
    heads: Sequence[Head] = ()
    predictions: Sequence[Predicted] = ()
    said: Sequence[Said] = ()
    settled: Mapping[str, frozenset[str]] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    dead: Sequence[str] = ()
    leaks: Sequence[str] = ()
    in_flight: int = 0
    lags: Mapping[str, int] = field(default_factory=dict)
    expected_dead: frozenset[str] = frozenset()
    scored: frozenset[str] = frozenset()


class World(Protocol):
    """Where evidence lies."""

    project: str
    settings: Settings
    keys: ProjectKeys
    trusted: Any
    clean: Any
    clean_folder: Path
    trusted_folder: Path

    def topic(self, name: str) -> Iterable[Received]:
        """All messages of a topic."""

    def in_flight(self) -> int:
        """Acknowledged intakes without an outcome."""

    def lags(self) -> Mapping[str, int]:
        """Messages that wait, by group."""

    def leaks(self) -> Sequence[str]:
        """Places behind the boundary that hold something planted."""


def collect(world: World, sent: Sequence[Sent], **more: Any) -> Evidence:
    """Read everything that a world holds of its project.

    Parameters
    ----------
    world : World
        What is judged.
    sent : sequence of Sent
        The sender's ledger.
    **more
        `expected_dead` and `scored`.
    """
    uids = {one.uid for one in sent} | {one.study for one in sent}
    clean_uid = {uid: world.keys.pseudonymous_uid(uid) for uid in uids}
    ended = list(_ended(world, sorted({one.study for one in sent})))
    mine = {end.intake for end in ended}
    said: list[Said] = []
    settled: dict[str, set[str]] = {}
    dead: list[str] = []
    for topic in TOPICS:
        for message in world.topic(topic.name):
            event = _event(message)
            if isinstance(event, InstanceSettled):
                for record in event.records:
                    intake = f"{event.spool}/{event.segment}/{record.record}"
                    if intake in mine:
                        settled.setdefault(intake, set()).add(record.outcome)
            if isinstance(event, DeadLetter):
                dead.append(f"{event.stage}: {event.reason} {event.topic}/{event.partition}@{event.offset}")
            if getattr(event, "project", world.project) == world.project:
                said.append(_said(message, event))
    return Evidence(
        sent=sent,
        clean_uid=clean_uid,
        ended=ended,
        rows=list(_rows(world)),
        objects=dict(_objects(world)),
        heads=list(_heads(world)),
        predictions=list(_predictions(world)),
        said=said,
        settled={intake: frozenset(outcomes) for intake, outcomes in settled.items()},
        kept=dict(_kept(world)),
        dead=dead,
        leaks=world.leaks(),
        in_flight=world.in_flight(),
        lags=world.lags(),
        **more,
    )


def checksum_of(data: bytes) -> str:
    """Return the checksum by which pointers name the bytes of an object."""
    return f"xxh3:{xxhash.xxh3_64_hexdigest(data)}"


def parsed(data: bytes) -> Stored:
    """Return what a clean object is, parsed whole by another library than the one that wrote it."""
    digest = checksum_of(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(io.BytesIO(data))
            return Stored(len(data), digest, str(dataset.SOPInstanceUID), image_digest(dataset))
    except Exception:  # whatever a half object makes of a parser
        return Stored(len(data), digest, None, None)


def _ended(world: World, studies: Sequence[str]) -> Iterator[Ended]:
    cql = "SELECT sop_uid, intake, outcome, reason FROM study_intakes WHERE project = ? AND study_uid = ?"
    for rows in world.trusted.run_all((cql, (world.project, study)) for study in studies):
        yield from (Ended(row.intake, row.sop_uid, row.outcome, row.reason) for row in rows)


def _rows(world: World) -> Iterator[Row]:
    cql = "SELECT project, study, sop, content_key, pixel_key, version, conflict, object FROM study_instances"
    for row in world.clean.run(cql):
        if row.project == world.project:
            pointer = msgspec.json.decode(row.object, type=Pointer)
            place = (pointer.uri.removeprefix("clean://"), pointer.length, pointer.checksum or "")
            yield Row(row.study, row.sop, row.content_key, row.pixel_key, row.version, row.conflict, *place)


def _objects(world: World) -> Iterator[tuple[str, Stored]]:
    # By the end of the name: what a kill left beside an object (`#1`) no store lists, and reconcile removes it.
    for path in sorted((world.clean_folder / world.project).rglob("*.dcm")):
        yield str(path.relative_to(world.clean_folder)), parsed(path.read_bytes())


def _heads(world: World) -> Iterator[Head]:
    cql = "SELECT project, study, revision, set_id, published, body FROM study_head"
    for row in world.clean.run(cql):
        if row.project == world.project:
            pointer = msgspec.json.decode(row.body, type=StudyRevised).manifest
            members = _members(world.clean_folder / pointer.uri.removeprefix("clean://"))
            yield Head(row.study, row.revision, row.set_id, row.published, members)


def _members(path: Path) -> frozenset[str] | None:
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError):
        return None
    return frozenset(instance.sop_instance_uid for instance in manifest.instances)


def _predictions(world: World) -> Iterator[Predicted]:
    heads = {
        (row.study, row.model): row.prediction
        for row in world.clean.run("SELECT project, study, model, prediction FROM prediction_head")
        if row.project == world.project
    }
    cql = "SELECT project, study, model, prediction, published, body FROM predictions"
    for row in world.clean.run(cql):
        if row.project == world.project:
            body = hashlib.sha256(row.body.encode()).hexdigest()
            effective = heads.get((row.study, row.model)) == row.prediction
            yield Predicted(row.study, row.model, row.prediction, row.published, body, effective)


def _kept(world: World) -> Iterator[tuple[str, str]]:
    days = world.trusted.run("SELECT day FROM quarantine_days WHERE project = ?", (world.project,))
    sealer = Sealer(sealing_secrets(world.settings), world.project, "quarantine", world.keys.key_id)
    for day in days:
        rows = world.trusted.run(
            "SELECT intake, object FROM quarantine WHERE project = ? AND day = ?", (world.project, day.day)
        )
        for row in rows:
            path = world.trusted_folder / row.object.partition("://")[2]
            try:
                raw = sealer.open(path.read_bytes(), f"{world.project} {row.intake}")
            except (OSError, ValueError):
                continue  # then it is not kept
            yield row.intake, hashlib.sha256(raw).hexdigest()


def _event(message: Received) -> Any:
    kind = dict(message.headers).get("ce_type", b"").decode("ascii", "replace")
    try:
        return msgspec.json.decode(message.value, type=EVENT_TYPES[kind])
    except (KeyError, msgspec.DecodeError):
        return None


def _said(message: Received, event: Any) -> Said:
    headers = dict(message.headers)
    about: tuple[str, ...] = ()
    if isinstance(event, StudyRevised):
        about = (event.study_instance_uid, str(event.revision), event.set_id)
    elif hasattr(event, "prediction_id"):
        about = (event.prediction_id,)
    body = hashlib.sha256(message.value).hexdigest()
    where = f"{message.topic}/{message.partition}@{message.offset}"
    return Said(message.topic, where, message.key.hex(), headers.get("ce_id", b"").decode(), body, about)


def as_json(evidence: Evidence) -> str:
    """Return evidence as text, for a look at what was judged."""
    return json.dumps(msgspec.to_builtins(evidence), indent=1)
