"""Sightings become intakes: each object version once, published before anything is said to be done.

1. The store is asked for each object: what is there now, and its first kilobytes. Only sources of the settings are
   asked for.
2. Object versions that are known already say nothing more.
3. What an object is gives its instances: one, or the members of an archive.
4. Their intake numbers are written beside the object (*claimed*), their events published and confirmed, the ledger told,
   and the object noted as *published*. Cut anywhere, the same numbers are published again, and effects are keyed by
   them.

Two processes that take the same object in the same moment may number it twice: the second intake then settles as a
duplicate. An object that is refused for what it is, is noted with its reason, so that it is not read again.

It deletes no message and reads no dataset to its end.
"""

import hashlib
import logging
import threading
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from infra import metrics
from infra.buckets import Buckets
from infra.cassandra import Statement, Tables
from infra.clock import Clock
from infra.logs import place
from producers.bridge import archive
from producers.bridge.contents import BEGIN_BYTES, Instance, instance_of, is_archive
from producers.bridge.dialects import Sighting
from producers.bridge.numbers import Numbers, Told, spool_of
from producers.outbox import Arrived, events_of, relayed
from schemas.buckets import ObjectVersion
from schemas.codec import Message, encode
from schemas.errors import BadMessage, Refused, SlowDown
from schemas.events import Arrival, Intake, ObjectDeleted, Pointer, ReceivedInstance
from schemas.ids import study_key
from schemas.sources import Source, of_object
from schemas.topics import RECEIVED

log = logging.getLogger(__name__)

#: A folder's objects are spread over so many partitions of the table.
PARTS: Final = 16
#: Events published together: what they point at is in memory as events only.
PUBLISHED_TOGETHER: Final = 1024
SLOW_SECONDS: Final = 1.0

_SELECT: Final = (
    "SELECT key, version, state, intake, members, project, study_uid, sop_uid, at FROM bucket_objects"
    " WHERE bucket = ? AND folder = ? AND part = ? AND key IN ?"
)
_CLAIM: Final = (
    "INSERT INTO bucket_objects (bucket, folder, part, key, version, state, intake, members, project, study_uid,"
    " sop_uid, at) VALUES (?, ?, ?, ?, ?, 'claimed', ?, ?, ?, ?, ?, ?)"
)
_STATE: Final = (
    "INSERT INTO bucket_objects (bucket, folder, part, key, version, state, at) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_REFUSE: Final = (
    "INSERT INTO bucket_objects (bucket, folder, part, key, version, state, reason, at)"
    " VALUES (?, ?, ?, ?, ?, 'refused', ?, ?)"
)

#: What the bytes themselves say: it is noted, and not read again. Other refusals may be mended.
OF_ITS_BYTES: Final = frozenset({"not_dicom", "no_usable_uid", "too_large", "bad_archive"})

Partition = tuple[str, str, int]


class Publisher(Protocol):
    """What this needs of Kafka."""

    def send(self, messages: Sequence[Message]) -> None:
        """Return once all are confirmed; raise `SlowDown` where none may be taken as sent."""


class Seen(NamedTuple):
    """An object as the store has confirmed it, with its first bytes."""

    source: Source
    version: ObjectVersion
    begin: bytes


class Piece(NamedTuple):
    """An instance of an object, before it has a number."""

    instance: Instance
    pointer: Pointer


def partition_of(bucket: str, key: str) -> Partition:
    """Return the partition of a key: its folder, and a part of that."""
    folder = key.rpartition("/")[0]
    return bucket, folder, hashlib.blake2b(key.encode(), digest_size=1).digest()[0] % PARTS


class Taking:
    """Takes objects in; see the module. For one thread, which may wait long.

    Parameters
    ----------
    role : str
        Who publishes: ``bridge`` or ``lister``.
    buckets : Buckets
        The store.
    tables : Tables
        The trusted keyspace.
    producer : Publisher
        The trusted Kafka.
    sources : sequence of Source
        Those with a bucket are admitted.
    clock : Clock
        For the time of receipt.
    stopping : threading.Event
        Ends a wait for the store with `SlowDown`.
    large_bytes, limit_bytes : int
        Larger instances take the bulk lane; larger ones still are refused.
    requests : int
        To the store at once.
    """

    def __init__(
        self,
        role: str,
        buckets: Buckets,
        tables: Tables,
        producer: Publisher,
        sources: Sequence[Source],
        clock: Clock,
        stopping: threading.Event,
        *,
        large_bytes: int,
        limit_bytes: int,
        requests: int,
    ) -> None:
        self._role, self._buckets, self._tables, self._producer = role, buckets, tables, producer
        self._sources, self._clock, self._stopping = sources, clock, stopping
        self._large_bytes, self._limit_bytes = large_bytes, limit_bytes
        self._numbers = Numbers(tables)
        self._pool = ThreadPoolExecutor(requests, "bucket")

    def take(self, sighted: Sequence[Sighting], lane: str, *, again: bool = False) -> Counter[str]:
        """Return when everything is taken in, known already, or refused; say how many objects ended how.

        Parameters
        ----------
        sighted : sequence of Sighting
            In any order, repeated or not.
        lane : str
            ``live`` or ``bulk``.
        again : bool
            Publish what is known once more, under its numbers.

        Raises
        ------
        SlowDown
            Told to stop while something did not answer; or Cassandra or Kafka is down: all again then.
        """
        done: Counter[str] = Counter()
        created = dict.fromkeys(one for one in sighted if one.kind == "created")
        removed = dict.fromkeys(one for one in sighted if one.kind == "removed")
        seen: dict[tuple[str, str, str], Seen] = {}
        for result in self._each(self._confirm, list(created)):
            if isinstance(result, Refused):
                done[result.reason] += 1
            else:
                seen.setdefault((result.version.bucket, result.version.key, result.version.version), result)
        known = self.known([one.version for one in seen.values()])
        fresh = []
        for name, one in seen.items():
            row = known.get(name)
            if row is not None and row.state in ("published", "refused") and not again:
                done["known"] += 1
            else:
                fresh.append((one, row))
        done += self._take_in(fresh, lane)
        done += self._forget(list(removed))
        for what, count in done.items():
            metrics.inc("prodrome_bucket_objects_total", count, role=self._role, outcome=what)
        return done

    def known(self, versions: Sequence[ObjectVersion]) -> dict[tuple[str, str, str], Any]:
        """Return the rows of these object versions, by bucket, key and version."""
        wanted: dict[Partition, list[str]] = defaultdict(list)
        for version in versions:
            wanted[partition_of(version.bucket, version.key)].append(version.key)
        return {(bucket, row.key, row.version): row for bucket, row in self._rows(wanted)}

    def close(self) -> None:
        """Tell the ledger of the segments that end here."""
        self._tell(self._numbers.close())

    def _confirm(self, sighting: Sighting) -> Seen:
        source = of_object(self._sources, sighting.bucket, sighting.key)
        if source is None:
            raise Refused("unknown_source", "an object that no source names")
        version, begin = self._buckets.begin(sighting.bucket, sighting.key, BEGIN_BYTES, sighting.version_id)
        return Seen(source, version, begin)

    def _take_in(self, fresh: Sequence[tuple[Seen, Any]], lane: str) -> Counter[str]:
        done: Counter[str] = Counter()
        claims: list[tuple[Seen, Any, list[Piece]]] = []
        looked = self._each(self._pieces, [one for one, _ in fresh])
        for (one, row), result in zip(fresh, looked, strict=True):
            if isinstance(result, Refused):
                done[result.reason] += 1
                if result.reason in OF_ITS_BYTES:
                    self._write([(one.version, (_REFUSE, result.reason))])
            else:
                claims.append((one, row, result))
        some: list[tuple[Seen, Any, list[Piece]]] = []
        for claim in claims:
            some.append(claim)
            if sum(len(pieces) for _, _, pieces in some) >= PUBLISHED_TOGETHER:
                self._publish(some, lane)
                some = []
        if some:
            self._publish(some, lane)
        done["taken"] += len(claims)
        return done

    def _pieces(self, one: Seen) -> list[Piece]:
        """Return the instances of an object; raises `Refused` where it has none, or the store has lost it since."""
        version = one.version
        read = partial(self._read, version)
        if not is_archive(one.begin):
            if version.size > self._limit_bytes:
                raise Refused("too_large", f"expected at most {self._limit_bytes} bytes, came {version.size}")
            instance = instance_of(one.begin, version.size, lambda wanted: read(0, wanted))
            return [Piece(instance, Pointer(uri=version.uri, offset=0, length=version.size))]
        pieces = []
        for info in archive.members(read, version.size):
            try:
                pieces.append(self._member(read, version, info))
            except Refused as refusal:
                log.warning("a member of an archive is refused: %s", refusal)
                metrics.inc("prodrome_bridge_members_refused_total", reason=refusal.reason)
        if not pieces:
            raise Refused("bad_archive", "no member of it is an instance")
        return pieces

    def _member(self, read: Callable[[int, int], bytes], version: ObjectVersion, info: Any) -> Piece:
        member = archive.open_member(read, version.size, info, self._limit_bytes)
        more = partial(archive.begin, read, member)
        instance = instance_of(member.begin, member.size, more)
        pointer = Pointer(
            uri=version.uri,
            offset=member.offset,
            length=member.length,
            checksum=f"crc32:{member.crc:08x}",
            inflated=msgspec.UNSET if member.inflated is None else member.inflated,
        )
        return Piece(instance, pointer)

    def _read(self, version: ObjectVersion, offset: int, length: int) -> bytes:
        try:
            return self._buckets.read(version, offset, length)
        except BadMessage as error:
            reason = "object_gone" if error.reason == "missing_raw" else "edge_failed"
            raise Refused(reason, error.detail) from None

    def _publish(self, claims: Sequence[tuple[Seen, Any, list[Piece]]], lane: str) -> None:
        numbered = [(one, self._number(one, row, pieces), pieces) for one, row, pieces in claims]
        self._write(
            (one.version, (_CLAIM, str(first), len(pieces), one.source.project, *_uids(pieces)))
            for (one, first, pieces), (_, row, _) in zip(numbered, claims, strict=True)
            if row is None or row.intake != str(first)
        )
        now = self._clock.now()
        arrived = [
            self._arrived(one, piece, msgspec.structs.replace(first, record=first.record + i), lane, now)
            for one, first, pieces in numbered
            for i, piece in enumerate(pieces)
        ]
        self._producer.send(events_of(arrived, self._role))
        known = [row for _, row, pieces in claims for _ in pieces]
        fresh = [
            one.instance.intake
            for one, row in zip(arrived, known, strict=True)
            if row is None or row.state != "published"
        ]
        self._tell(self._numbers.published(fresh))
        self._write((one.version, (_STATE, "published")) for one, _, _ in numbered)

    def _tell(self, told: Iterable[Told]) -> None:
        self._producer.send([relayed(*at[:3], sealed=at.sealed, role=self._role) for at in told])

    def _number(self, one: Seen, row: Any, pieces: Sequence[Piece]) -> Intake:
        if row is not None and row.intake and row.members == len(pieces):
            return Intake.parse(row.intake)
        return self._numbers.take(spool_of(one.source.name), len(pieces))

    def _arrived(self, one: Seen, piece: Piece, intake: Intake, lane: str, now: float) -> Arrived:
        instance = piece.instance
        size = piece.pointer.length if piece.pointer.inflated is msgspec.UNSET else piece.pointer.inflated
        return Arrived(
            topic=RECEIVED["bulk" if size > self._large_bytes else lane],
            project=one.source.project,
            study=instance.study_instance_uid or instance.sop_instance_uid,
            instance=ReceivedInstance(
                intake=intake,
                pointer=piece.pointer,
                sop_class_uid=instance.sop_class_uid,
                sop_instance_uid=instance.sop_instance_uid,
                transfer_syntax_uid=instance.transfer_syntax_uid,
                source=one.source.name,
                arrival=Arrival(association=_association(intake), ordinal=intake.record),
                received_at=now,
                dataset_offset=instance.dataset_offset,
            ),
            trace=uuid.uuid4().hex,
        )

    def _forget(self, removed: Sequence[Sighting]) -> Counter[str]:
        """Say of objects that were taken in that they are gone; whether they are, the store says."""
        done: Counter[str] = Counter()
        ours = [one for one in removed if of_object(self._sources, one.bucket, one.key)]
        done["unknown_source"] += len(removed) - len(ours)
        looked = self._each(lambda one: self._buckets.look(one.bucket, one.key), ours)
        gone = [
            one
            for one, result in zip(ours, looked, strict=True)
            if isinstance(result, Refused) and result.reason == "object_gone"
        ]
        done["known"] += len(ours) - len(gone)
        for one in gone:
            rows = self._rows({partition_of(one.bucket, one.key): [one.key]})
            taken = [row for _, row in rows if row.state == "published" and row.sop_uid]
            self._producer.send([_deleted(row, self._role) for row in taken])
            for _, row in rows:
                name = (*partition_of(one.bucket, one.key), one.key, row.version)
                self._tables.run(_STATE, (*name, "deleted", self._time()))
            done["removed"] += 1
        return done

    def _rows(self, wanted: dict[Partition, list[str]]) -> list[tuple[str, Any]]:
        asked = [(_SELECT, (*where, sorted(set(keys)))) for where, keys in wanted.items()]
        found = self._tables.run_all(asked)
        return [(where[0], row) for where, rows in zip(wanted, found, strict=True) for row in rows]

    def _write(self, rows: Iterable[tuple[ObjectVersion, tuple[Any, ...]]]) -> None:
        """Write a row an object; the values of each end with the time."""
        partitions: dict[Partition, list[Statement]] = defaultdict(list)
        for version, (cql, *values) in rows:
            where = partition_of(version.bucket, version.key)
            partitions[where].append((cql, (*where, version.key, version.version, *values, self._time())))
        self._tables.write(partitions.values())

    def _time(self) -> int:
        return int(self._clock.now() * 1000)

    def _each(self, step: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Run a step for each item, some at once, and return what came, or that it was refused, in order.

        What waits for the store is tried again alone: what has come is not asked for twice.
        """
        results: dict[int, Any] = {}
        while len(results) < len(items):
            left = [i for i in range(len(items)) if i not in results]
            for i, result in zip(left, self._pool.map(_caught(step), [items[i] for i in left]), strict=True):
                if not isinstance(result, SlowDown):
                    results[i] = result
                    continue
                waits = result
            if len(results) < len(items):
                log.warning("waiting: %s", waits)
                metrics.inc("prodrome_stage_slowdowns_total", stage=self._role)
                if self._stopping.wait(SLOW_SECONDS):
                    raise waits
        return [results[i] for i in range(len(items))]


def _caught(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def run(item: Any) -> Any:
        try:
            return step(item)
        except (Refused, SlowDown) as error:
            return error
        except Exception as error:  # a defect of ours is one object's affair; its text may quote a key
            log.error("an object cannot be taken in: %s at %s", type(error).__name__, place(error))
            return Refused("edge_failed", type(error).__name__)

    return run


def _association(intake: Intake) -> str:
    # One for each segment, the same each time, and no name of a source on the clean side.
    name = f"{intake.spool}/{intake.segment}"
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def _uids(pieces: Sequence[Piece]) -> tuple[str | None, str | None]:
    """What a deletion is said of; of an archive nothing is."""
    if len(pieces) != 1:
        return None, None
    instance = pieces[0].instance
    return instance.study_instance_uid or instance.sop_instance_uid, instance.sop_instance_uid


def _deleted(row: Any, role: str) -> Message:
    event = ObjectDeleted(
        project=row.project,
        study_instance_uid=row.study_uid,
        sop_instance_uid=row.sop_uid,
        intake=Intake.parse(row.intake),
    )
    key = study_key(row.project, row.study_uid)
    return encode(RECEIVED["live"], key, event, identity=(row.intake, "deleted"), source=role)
