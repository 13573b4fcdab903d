"""One instance over the boundary, inside a worker process: raw bytes by pointer in, a `Crossing` out.

1. Read the raw bytes by pointer; their checksum must hold.
2. De-identify (`consumers.deid`, pure).
3. Write the clean object and what was done to it, or encrypt the raw bytes into the quarantine store.
4. Return what the stage needs to decide and to publish; pixels never leave the worker.

Nothing is published or indexed here. A repeat writes the same objects under the same keys.
"""

import base64
import dataclasses
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

import xxhash
from blake3 import blake3

from consumers.deid.engine import (
    InstanceFacts,
    IntakeContext,
    Profile,
    ProjectKeys,
    VaultEntry,
    clean_object_key,
    deidentify,
    first_release_ids,
    load_profile,
)
from consumers.kept import Kept
from consumers.pixeltext import LONGEST_SECONDS, pixel_cleaner
from consumers.rawobjects import RawObjects
from infra.objects import open_store
from infra.settings import Settings, master_key, sources
from infra.spool import SpoolStore, UnknownSpool
from infra.spool.client import RangeClient, patience
from schemas.errors import ProdromeError, Quarantine
from schemas.events import Intake, Pointer, ReceivedInstance
from schemas.reasons import ADMISSIBLE
from schemas.sources import Source

#: zlib's middle: level 6 costs twice the time for 3 % on DICOM JSON
COMPRESSION: Final = 3
#: Of an instance whose source was taken out of the settings since.
_FACTS: Final = tuple(field.name for field in dataclasses.fields(InstanceFacts))
#: Left out where nothing is known: most instances have no geometry, or none of the words.
_OPTIONAL: Final = frozenset(f.name for f in dataclasses.fields(InstanceFacts) if f.default is None)
_UNKNOWN: Final = Source(name="unknown")


@dataclass(frozen=True, kw_only=True, slots=True)
class Crossing:
    """One instance after the boundary, clean or quarantined; trusted, for the stage's decision."""

    intake: Intake
    study_instance_uid: str
    sop_instance_uid: str
    source: str
    quiet_seconds: float
    quarantine: str | None = None
    detail: str = ""
    kept: Pointer | None = None
    patient: str = ""
    series_instance_uid: str = ""
    sop_class_uid: str = ""
    transfer_syntax_uid: str = ""
    content_id: str = ""
    pixel_id: str = ""
    content_key: str = ""
    pixel_key: str = ""
    clean_object: Pointer | None = None
    facts: dict[str, Any] | None = None
    metadata: str | None = None
    metadata_object: Pointer | None = None
    manifest: Pointer | None = None
    vault: VaultEntry | None = None


class Boundary:
    """What a worker holds: keys, stores, profile."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._master = master_key(settings)
        self._relays = RangeClient(settings.spool) if settings.spool.readers else None
        self._spools = self._find_spools()
        self._objects = RawObjects(settings)
        self._clean = open_store(settings.clean, "clean", "clean")
        self.kept = Kept(settings)
        self._sources = {source.name: source for source in sources(settings)}
        self._profile = profile_of(settings)
        self._cleaner = pixel_cleaner(self._profile)
        self._manifest = lru_cache(maxsize=1024)(self._put_manifest)
        self._keys = cache(
            lambda project: ProjectKeys.derive(self._master, project, settings.deidentify.key_id)
        )

    def cross(self, project: str, study: str, instance: ReceivedInstance) -> Crossing:
        """Return the crossing of one instance.

        Raises
        ------
        BadMessage
            `missing_raw`, `raw_corrupt`: the pointer's bytes are gone or not what was written.
        SlowDown
            A store does not answer.
        """
        raw = self.read(project, instance)
        keys = self._keys(project)
        source = self._sources.get(instance.source, _UNKNOWN)
        common: dict[str, Any] = {
            "intake": instance.intake,
            "study_instance_uid": keys.pseudonymous_uid(study),
            "source": source.name,
            "quiet_seconds": source.quiet_seconds,
        }
        try:
            return self._clean_crossing(project, raw, instance, source, keys, common)
        except Quarantine as doubt:
            return Crossing(
                **common,
                sop_instance_uid=keys.pseudonymous_uid(instance.sop_instance_uid),
                sop_class_uid=instance.sop_class_uid,
                quarantine=doubt.reason,
                detail=doubt.detail,
                kept=self.keep(project, instance, raw),
            )

    def _clean_crossing(
        self,
        project: str,
        raw: bytes,
        instance: ReceivedInstance,
        source: Source,
        keys: ProjectKeys,
        common: dict[str, Any],
    ) -> Crossing:
        context = IntakeContext(
            project=project,
            transfer_syntax_uid=instance.transfer_syntax_uid,
            sop_class_uid=instance.sop_class_uid,
            sop_instance_uid=instance.sop_instance_uid,
            issuer=source.issuer,
            admit_burned_in=source.admit_burned_in,
            admitted=ADMISSIBLE & set(instance.release.admitted) if instance.release else frozenset(),
        )
        if instance.dataset_mismatch:
            raise Quarantine("dataset_mismatch", "the receiver answered B007")
        done = deidentify(raw, context, self._profile, keys, self._cleaner)
        if done.study_instance_uid != common["study_instance_uid"]:
            raise Quarantine("dataset_mismatch", "the study read at the door is not the dataset's")
        key = clean_object_key(
            content_id=done.content_id,
            pixel_id=done.pixel_id,
            transfer_syntax_uid=done.transfer_syntax_uid,
            profile=self._profile,
            keys=keys,
        )
        # By its bytes too: one content may come in two encodings (fragments, offset tables, padding), and the object
        # of the version that counts must not give way to that of its duplicate.
        file = done.part10
        path = f"{project}/{key[:2]}/{key}-{xxhash.xxh3_64_hexdigest(file)}"
        metadata = base64.b64encode(zlib.compress(done.metadata_json, COMPRESSION)).decode()
        small = len(metadata) <= self._settings.catalog.metadata_inline_bytes
        return Crossing(
            **common,
            sop_instance_uid=done.sop_instance_uid,
            patient=done.patient,
            series_instance_uid=done.series_instance_uid,
            sop_class_uid=done.sop_class_uid,
            transfer_syntax_uid=done.transfer_syntax_uid,
            content_id=done.content_id,
            pixel_id=done.pixel_id,
            content_key=done.content_key,
            pixel_key=done.pixel_key,
            clean_object=self._clean.put(path + ".dcm", file),
            facts={  # flat, so no deep copy
                name: value
                for name in _FACTS
                if (value := getattr(done.facts, name)) is not None or name not in _OPTIONAL
            },
            metadata=metadata if small else None,
            metadata_object=None if small else self._clean.put(path + ".json.z.b64", metadata.encode()),
            manifest=self._manifest(project, done.manifest_json),
            vault=done.vault,
        )

    def _put_manifest(self, project: str, manifest: bytes) -> Pointer:
        # Named by its content: the instances of a series, to which the same was done, share one.
        return self._clean.put(f"{project}/manifests/{blake3(manifest).hexdigest()}.json", manifest)

    def first_release_ids(self, project: str, instance: ReceivedInstance) -> tuple[str, str]:
        """Return content and pixel digest of an instance that has crossed, as release 0.1.0 made them."""
        raw, keys = self.read(project, instance), self._keys(project)
        return first_release_ids(raw, instance.transfer_syntax_uid, self._profile, keys)

    def read(self, project: str, instance: ReceivedInstance) -> bytes:
        """Return the raw bytes of an instance, its dataset, checked."""
        if instance.release:
            return self.kept.bytes_of(project, instance.intake, instance.pointer)
        if self._objects.names(instance.pointer):
            return self._objects.read(instance.pointer)[instance.dataset_offset :]
        try:
            return self._spools.read(instance.pointer)
        except UnknownSpool:  # perhaps one that was made, or mounted, since we looked
            self._spools = self._find_spools()
            return self._spools.read(instance.pointer)

    def expect(self, instances: Iterable[ReceivedInstance]) -> None:
        """Begin to read what lies in buckets and will be asked for soon."""
        self._objects.expect(instance.pointer for instance in instances if not instance.release)

    def patience(self, instance: ReceivedInstance) -> float:
        """Return how long an instance may wait for a relay or bucket to read from, and for its pixels to be cleaned, in seconds."""
        relay = 0.0 if self._relays is None else patience(instance.pointer.length)
        if self._objects.names(instance.pointer):
            relay = RawObjects.patience(instance.pointer)
        pixels = 0.0 if self._cleaner is None else LONGEST_SECONDS
        return relay + pixels

    def _find_spools(self) -> SpoolStore:
        """Return the spools that this machine finds now: its own and those of the settings, and the relays.

        A folder that is not there yet, that this role may not see, or a share that is not mounted, is left
        out: a pointer into it is asked of the relays, or waited for.
        """
        found = []
        for folder in (self._settings.spool.path, *self._settings.spool.others):
            with suppress(FileNotFoundError, PermissionError):
                SpoolStore.of(Path(folder))
                found.append(Path(folder))
        return SpoolStore.of(*found, remote=self._relays)

    def pseudonymous_uid(self, project: str, uid: str) -> str:
        """Map a UID into the project's clean domain."""
        return str(self._keys(project).pseudonymous_uid(uid))

    def keep(self, project: str, instance: ReceivedInstance, raw: bytes) -> Pointer:
        """Return where the raw bytes are kept in the quarantine; those of a release are there already."""
        return instance.pointer if instance.release else self.kept.keep(project, instance.intake, raw)


def profile_of(settings: Settings) -> Profile:
    """Return the profile that the settings name; raises `ProdromeError` for one that retains UIDs."""
    profile = load_profile(settings.deidentify.profile)
    if "uids" in profile.options:
        raise ProdromeError(
            f"the profile {profile.name} retains UIDs: expected one that does not, for topics and tables of the"
            " clean zone know pseudonyms only; `prodrome deid` takes it"
        )
    return profile


_boundary: Boundary | None = None


def setup(settings: Settings) -> None:
    """Prepare this worker process."""
    global _boundary
    _boundary = Boundary(settings)


def cross(argument: tuple[str, str, ReceivedInstance]) -> Crossing:
    """Cross one instance in this worker process; see `Boundary.cross`."""
    if _boundary is None:
        raise RuntimeError("expected setup() before cross()")
    return _boundary.cross(*argument)


def expect(arguments: list[tuple[str, str, ReceivedInstance]]) -> None:
    """Begin to read what these crossings will need from buckets."""
    if _boundary is not None:
        _boundary.expect([instance for _, _, instance in arguments])
