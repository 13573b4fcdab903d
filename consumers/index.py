"""Index: the rows of clean instances, and the effective set that they make.

`rows` are the insert-only rows of one study's partition, `lookups` those of other partitions; `effective`
says which version of each SOP Instance UID counts. Functions of values; the catalog writes and reads.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from infra.cassandra import Statement
from schemas.codec import body
from schemas.events import CleanInstance, InstanceDeidentified, ManifestInstance, Pointer

_INSTANCE: Final = (
    "INSERT INTO study_instances (project, study, sop, content_key, pixel_key, patient, series, sop_class,"
    " transfer_syntax, modality, version, conflict, object, facts, metadata, manifest)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_PATIENT: Final = "INSERT INTO patient_studies (project, patient, study) VALUES (?, ?, ?)"
_BY_UID: Final = "INSERT INTO instances_by_uid (project, sop, study) VALUES (?, ?, ?)"
SELECT: Final = (
    "SELECT sop, content_key, pixel_key, patient, series, sop_class, transfer_syntax, modality, version, conflict,"
    " object, facts FROM study_instances WHERE project = ? AND study = ?"
)


def rows(event: InstanceDeidentified) -> list[Statement]:
    """Return the rows of the study's own partition."""
    return [(_INSTANCE, _values(event, instance)) for instance in event.instances]


def lookups(event: InstanceDeidentified) -> list[Statement]:
    """Return the rows by which a study is found: by patient, by instance."""
    found: list[Statement] = [(_PATIENT, (event.project, event.patient_id, event.study_instance_uid))]
    found += [
        (_BY_UID, (event.project, i.sop_instance_uid, event.study_instance_uid)) for i in event.instances
    ]
    return found


def _values(event: InstanceDeidentified, instance: CleanInstance) -> tuple[Any, ...]:
    return (
        event.project, event.study_instance_uid, instance.sop_instance_uid, instance.content_key,
        instance.pixel_key, event.patient_id, instance.series_instance_uid, instance.sop_class_uid,
        instance.transfer_syntax_uid, str(instance.facts.get("modality") or ""), instance.version,
        instance.conflict, body(instance.object).decode(), json.dumps(instance.facts),
        instance.metadata or _pointer_text(instance.metadata_object), _pointer_text(instance.manifest),
    )  # fmt: skip


def _pointer_text(pointer: Pointer | None) -> str:
    return body(pointer).decode() if pointer is not None else ""


class Effective(NamedTuple):
    """What counts of a study: instances sorted by SOP Instance UID, its patient, its flags."""

    instances: list[ManifestInstance]
    patient: str
    flags: tuple[str, ...]


def effective(found: Iterable[Any]) -> Effective:
    """Return what counts of a study; no instances where nothing is indexed.

    Parameters
    ----------
    found : iterable of rows
        All rows of `SELECT`.

    Returns
    -------
    Effective
        The newest version that is no conflict, of each SOP Instance UID; flagged where a conflict is kept.
        Flags are ``uid_conflict`` and ``identity_conflict``: two patients among what counts and what is kept
        as a conflict. A version that was corrected is neither, so that a patient can be corrected.
    """
    versions: dict[str, list[Any]] = defaultdict(list)
    for row in found:
        versions[row.sop].append(row)
    counting = [_effective_version(versions[sop]) for sop in sorted(versions)]
    instances = [_manifest_instance(row, versions[row.sop]) for row in counting]
    kept = [row for rows_ in versions.values() for row in rows_ if row.conflict]
    patients = sorted({row.patient for row in (*counting, *kept)})
    flags = []
    if any(i.conflict for i in instances):
        flags.append("uid_conflict")
    if len(patients) > 1:
        flags.append("identity_conflict")
    return Effective(instances, counting[0].patient if counting else "", tuple(flags))


def _effective_version(versions: Sequence[Any]) -> Any:
    # The first version of a SOP Instance UID is never a conflict, so there is always one that counts.
    return max((v for v in versions if not v.conflict), key=lambda v: v.version, default=versions[0])


def _manifest_instance(row: Any, versions: Sequence[Any]) -> ManifestInstance:
    return ManifestInstance(
        sop_instance_uid=row.sop,
        series_instance_uid=row.series,
        sop_class_uid=row.sop_class,
        transfer_syntax_uid=row.transfer_syntax,
        content_key=row.content_key,
        pixel_key=row.pixel_key,
        conflict=any(v.conflict for v in versions),
        object=msgspec.json.decode(row.object, type=Pointer),
        facts=json.loads(row.facts),
    )
