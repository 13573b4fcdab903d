"""Assemble: turn what is indexed of a quiet study into a revision, once.

1. Read the study's rows; take the effective instances; name the set.
2. The set of the head already? Then nothing is new, and what was said is said again with the same body: a repeat
   that comes this far means that something behind it died, and a power loss may have taken topic and manifest.
3. Write the manifest and the revision's row, then take the next number by lightweight transaction.
4. Publish `study.revised`, then mark the head as published.

Studies that are quiet together take these steps beside each other, and are published with one request.

If the process dies between 3 and 4, the next owner finds an unpublished head and publishes the same body. A
woken zombie loses the transaction and reads again.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from consumers.index import SELECT, Effective, effective
from consumers.quiet import StudyKey
from infra import metrics
from infra.cassandra import Tables
from infra.kafka import Producer
from infra.objects import Store
from infra.together import Together
from schemas.codec import Message, body, encode
from schemas.errors import BadMessage
from schemas.events import Lifecycle, LifecycleKind, Manifest, Pointer, StudyRevised
from schemas.ids import set_id, study_key

log = logging.getLogger(__name__)

#: Studies closed beside each other: each waits for some ten answers of Cassandra, one after the other.
TOGETHER: Final = 8

_HEAD: Final = "SELECT revision, set_id, published, body FROM study_head WHERE project = ? AND study = ?"
_FIRST: Final = (
    "INSERT INTO study_head (project, study, revision, set_id, published, body) VALUES (?, ?, ?, ?, false, ?)"
    " IF NOT EXISTS"
)
_NEXT: Final = (
    "UPDATE study_head SET revision = ?, set_id = ?, published = false, body = ? WHERE project = ? AND study = ?"
    " IF revision = ?"
)
_PUBLISHED: Final = (
    "UPDATE study_head SET published = true WHERE project = ? AND study = ? IF revision = ? AND set_id = ?"
)
_REVISION: Final = "INSERT INTO study_revisions (project, study, revision, set_id, instances, manifest) VALUES (?, ?, ?, ?, ?, ?)"


class Assembler:
    """Makes revisions; sole writer of `study_head` and `study_revisions`."""

    def __init__(self, tables: Tables, store: Store, producer: Producer) -> None:
        self._tables, self._store, self._producer = tables, store, producer
        self._together = Together("close", TOGETHER)

    def head(self, key: StudyKey) -> Any:
        """Return the newest revision's row, or None."""
        found = self._tables.run(_HEAD, key)
        return found[0] if found else None

    def heads(self, keys: Sequence[StudyKey]) -> list[Any]:
        """Return the newest revision's row, or None, of each of these studies."""
        return [rows[0] if rows else None for rows in self._tables.run_all((_HEAD, key) for key in keys)]

    def close(self, *keys: StudyKey) -> None:
        """Give quiet studies their revisions, unless their sets have one; returns when all are published."""
        revised = [event for event in self._together(self._revision, keys) if event]
        self._producer.send([message for event in revised for message in self._messages(event)])
        self._together(self._published, revised)

    def _revision(self, key: StudyKey) -> StudyRevised | None:
        """Return what is to be said of a study, and again where it was; None where there is nothing."""
        raced = False
        while True:
            counting = effective(self._tables.run(SELECT, key))
            if not counting.instances:
                return None  # opened, but its rows were never written: the message ended as a dead letter
            name = set_id((i.sop_instance_uid, i.content_key, i.pixel_key) for i in counting.instances)
            head = self.head(key)
            if head is None or head.set_id != name or not self._has_manifest(key, head, counting):
                if not self._take_number(key, head, name, counting):
                    log.info("another catalog closed a study first; reading again")
                    raced = True
                    continue
                head = self.head(key)
            return None if raced and head.published else msgspec.json.decode(head.body, type=StudyRevised)

    def say(self, key: StudyKey, kind: LifecycleKind, **more: Any) -> Message:
        """Return a lifecycle message about a study."""
        event = Lifecycle(project=key.project, study_instance_uid=key.study, kind=kind, **more)
        identity = (*key, kind, str(more.get("revision", "")))
        return encode(
            "lifecycle.v1", study_key(*key), event, identity=identity, source="catalog", subject=key.study
        )

    def _take_number(self, key: StudyKey, head: Any, name: str, counting: Effective) -> bool:
        revision = head.revision + 1 if head else 1
        revised = self._revised(key, revision, name, counting)
        self._tables.run(
            _REVISION, (*key, revision, name, revised.instances, body(revised.manifest).decode())
        )
        text = body(revised).decode()
        if head is None:
            return self._tables.run_once(_FIRST, (*key, revision, name, text))[0]
        return self._tables.run_once(_NEXT, (revision, name, text, *key, head.revision))[0]

    def _has_manifest(self, key: StudyKey, head: Any, counting: Effective) -> bool:
        """Whether the head's manifest is there, or could be written as it was; its members' flags may have changed."""
        pointer = msgspec.json.decode(head.body, type=StudyRevised).manifest
        try:
            self._store.get(pointer)
            return True
        except BadMessage:
            again = body(_manifest(key, head.revision, head.set_id, counting))
            return (
                len(again) == pointer.length
                and self._put_manifest(key, head.revision, head.set_id, again) == pointer
            )

    def _revised(self, key: StudyKey, revision: int, name: str, counting: Effective) -> StudyRevised:
        pointer = self._put_manifest(key, revision, name, body(_manifest(key, revision, name, counting)))
        return StudyRevised(
            project=key.project,
            study_instance_uid=key.study,
            patient_id=counting.patient,
            revision=revision,
            set_id=name,
            instances=len(counting.instances),
            modalities=tuple(sorted({str(i.facts.get("modality") or "") for i in counting.instances} - {""})),
            manifest=pointer,
            flags=counting.flags,
        )

    def _put_manifest(self, key: StudyKey, revision: int, name: str, data: bytes) -> Pointer:
        # Named by content and number: flags of a member may change while the set's name does not.
        return self._store.put_again(f"{key.project}/manifests/{name[:2]}/{name}-{revision}.json", data)

    def _messages(self, revised: StudyRevised) -> list[Message]:
        key, kinds = _key(revised), list[LifecycleKind](["revised"])
        if "identity_conflict" in revised.flags:
            kinds.append("identity_conflict")
            metrics.inc("prodrome_catalog_identity_conflicts_total")
        identity = (*key, revised.revision, revised.set_id)
        return [
            encode(
                "study.revised.v1", study_key(*key), revised, identity=identity, source="catalog", subject=key.study
            ),
            *(self.say(key, kind, revision=revised.revision) for kind in kinds),
        ]  # fmt: skip

    def _published(self, revised: StudyRevised) -> None:
        self._tables.run_once(_PUBLISHED, (*_key(revised), revised.revision, revised.set_id))
        metrics.inc("prodrome_catalog_revisions_total")


def _key(revised: StudyRevised) -> StudyKey:
    return StudyKey(revised.project, revised.study_instance_uid)


def _manifest(key: StudyKey, revision: int, name: str, counting: Effective) -> Manifest:
    return Manifest(
        project=key.project,
        study_instance_uid=key.study,
        patient_id=counting.patient,
        revision=revision,
        set_id=name,
        instances=tuple(counting.instances),
    )
