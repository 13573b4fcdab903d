"""The lister: finds what events have lost, by looking at what is there.

1. A source's keys are listed in their order, a page in memory at a time, and cut into runs where the digest of a key
   says so: about 512 keys, the same runs in every look but where keys came or went.
2. A run whose every object was settled at an earlier look has its digest kept; while nothing in it changes, the digest
   is all that is compared. So a look at a bucket that rests costs a request a thousand objects and a row a run.
3. Of another run each object is looked up: one that is not known is taken in; one that was published and has no
   outcome for long, or got one shortly before the power failed, is published again, under the same intake; young ones
   are left to their events.
4. After each run how far it came is noted, and when: a look that was cut goes on there, and what settled much before
   the last note of a boot had the time to reach the disk.

What it finds takes the bulk lane. A backfill is the same look at one prefix, once. On another boot of the machine kept
digests are void: what Kafka or Cassandra lost with the power would otherwise never be missed.
"""

import datetime
import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from infra import metrics
from infra.buckets import Buckets
from infra.cassandra import Tables
from infra.clock import Clock, seconds_of
from infra.spool import files
from producers.bridge.dialects import Sighting
from producers.bridge.take import Taking
from schemas.buckets import ObjectVersion
from schemas.errors import Refused, SlowDown
from schemas.events import Intake
from schemas.sources import Source

log = logging.getLogger(__name__)

NAME: Final = "lister"
#: A run ends where a key's digest is 0 in so many bits: 512 keys, give or take; and at this many at the latest.
RUN_BITS: Final = 9
RUN_KEYS: Final = 4096
#: A published object without an outcome is published again after this long: an outcome takes seconds, a queue of dead
#: dependencies may take longer, and a repeat costs little.
UNSETTLED_SECONDS: Final = 900.0
#: What settled so shortly before we were last at work in another boot may not have been written when that ended.
WRITTEN_SECONDS: Final = 600.0
#: When a repeat settled stands nowhere, nor when one of numbers that never end since a process was killed: there it is
#: what was published on the day before.
OPEN_SECONDS: Final = 86400.0

_KEPT: Final = "SELECT digest FROM listed_runs WHERE source = ? AND until = ?"
_KEEP: Final = "INSERT INTO listed_runs (source, until, digest) VALUES (?, ?, ?)"
_VOID: Final = "DELETE FROM listed_runs WHERE source = ?"
_FAR: Final = "SELECT after, boot, sure FROM listings WHERE source = ?"
_NOTE: Final = "INSERT INTO listings (source, after, boot, sure) VALUES (?, ?, ?, ?)"
_SEE: Final = "INSERT INTO lister_boots (boot, seen) VALUES (?, ?)"
_SEEN: Final = "SELECT seen FROM lister_boots WHERE boot = ?"
_OUTCOMES: Final = "SELECT outcomes, settled_at FROM ledger_segments WHERE spool = ? AND segment = ?"


class Look(NamedTuple):
    """What one look at a source was: objects listed, runs that were as before, and what became of the others."""

    listed: int
    runs: int
    resting: int
    outcomes: Counter[str]


class Doubt(NamedTuple):
    """What is in doubt since the power failed: what was published before the machine's boot, and settled since."""

    booted: float
    since: float


class Lister:
    """Looks at sources; for one thread.

    Parameters
    ----------
    buckets : Buckets
        The store.
    tables : Tables
        The trusted keyspace.
    taking : Taking
        What takes objects in.
    clock : Clock
        For the age of objects.
    young_seconds : float
        Younger objects are left to their events.
    stopping : threading.Event
        Ends a look behind a run.
    """

    def __init__(
        self,
        buckets: Buckets,
        tables: Tables,
        taking: Taking,
        clock: Clock,
        young_seconds: float,
        stopping: threading.Event,
    ) -> None:
        self._buckets, self._tables, self._taking, self._clock = buckets, tables, taking, clock
        self._young_seconds, self._stopping = young_seconds, stopping
        self._doubt: Doubt | None = None

    def look(
        self,
        name: str,
        source: Source,
        *,
        since: float = 0.0,
        progress: Callable[[int], None] = lambda _count: None,
    ) -> Look:
        """Look at everything of a source once, from where an earlier look was cut.

        Parameters
        ----------
        name : str
            Of the look: what is remembered is remembered under it, for this bucket and prefix.
        source : Source
            Bucket and prefix.
        since : float
            Objects written before are passed over, seconds since the epoch.
        progress : callable
            Told how many more objects are looked at.

        Raises
        ------
        Refused
            The bucket is not there for us.
        SlowDown
            Something does not answer; the next look goes on where this one was.
        """
        name = f"{name} s3://{source.bucket}/{source.prefix}"  # a source that moves begins anew
        boot = files.boot_id()
        after, sure = self._begin(name, boot)
        self._doubt = self._doubt_of(sure) if sure != boot else None
        outcomes: Counter[str] = Counter()
        listed = runs = resting = 0
        self._segment.cache_clear()
        pages = self._buckets.pages(source.bucket, source.prefix, after)
        for run in _runs(version for page in pages for version in page):
            found = [version for version in run if version.modified >= since]
            digest = _digest(found)
            kept = self._tables.run(_KEPT, (name, run[-1].key))
            if kept and kept[0].digest == digest:
                resting += 1
            else:
                at_rest, done = self._look_at(found)
                outcomes += done
                if at_rest:
                    self._tables.run(_KEEP, (name, run[-1].key, digest))
            self._note(name, run[-1].key, boot, sure)
            listed, runs = listed + len(run), runs + 1
            progress(len(run))
            if self._stopping.is_set():
                raise SlowDown("told to stop")
        self._note(name, "", boot, boot)
        return Look(listed, runs, resting, outcomes)

    def _begin(self, name: str, boot: str) -> tuple[str, str]:
        """Return the key behind which this look begins, and the boot up to whose end a whole look has made sure."""
        row = next(iter(self._tables.run(_FAR, (name,))), None)
        if row is None:
            return "", ""
        sure = row.sure or row.boot
        if row.boot == boot:
            return row.after or "", sure
        log.warning("the machine was restarted: every object is looked up again")
        self._tables.run(_VOID, (name,))
        return "", sure

    def _doubt_of(self, sure: str) -> Doubt:
        booted = self._clock.now() - files.uptime()
        row = next(iter(self._tables.run(_SEEN, (sure,))), None) if sure else None
        since = seconds_of(row.seen) - WRITTEN_SECONDS if row else booted - OPEN_SECONDS
        return Doubt(booted, since)

    def _note(self, name: str, after: str, boot: str, sure: str) -> None:
        self._tables.run(_NOTE, (name, after, boot, sure))
        self._tables.run(_SEE, (boot, datetime.datetime.fromtimestamp(self._clock.now(), datetime.UTC)))

    def _look_at(self, versions: Sequence[ObjectVersion]) -> tuple[bool, Counter[str]]:
        """Take in what is not known of a run; return whether all of it is settled, and what was done."""
        known = self._taking.known(versions)
        now = self._clock.now()
        missing: list[Sighting] = []
        again: list[Sighting] = []
        waiting = 0
        for version in versions:
            row = known.get((version.bucket, version.key, version.version))
            sighting = Sighting("created", version.bucket, version.key)
            if row is None or row.state in ("claimed", "deleted"):
                if now - version.modified < self._young_seconds:
                    waiting += 1
                else:
                    missing.append(sighting)
            elif row.state == "published" and not self._settled(row):
                if now - seconds_of(row.at) > UNSETTLED_SECONDS:
                    again.append(sighting)
                else:
                    waiting += 1
            elif row.state == "published" and self._is_in_doubt(row):
                again.append(sighting)
        done = self._taking.take(missing, "bulk") if missing else Counter[str]()
        if again:
            log.warning("%d objects have no outcome yet, or one in doubt: published again", len(again))
            done += self._taking.take(again, "bulk", again=True)
        done["waiting"] += waiting
        return not (missing or again or waiting), +done

    def _settled(self, row: Any) -> bool:
        first = Intake.parse(row.intake)
        segment = self._segment(first.spool, first.segment)
        ours = (segment.outcomes or b"")[first.record : first.record + row.members] if segment else b""
        return len(ours) == row.members and all(ours)

    def _is_in_doubt(self, row: Any) -> bool:
        """Whether what came of a settled object may be lost: it settled shortly before the power failed."""
        published = seconds_of(row.at)
        if self._doubt is None or published >= self._doubt.booted:
            return False
        first = Intake.parse(row.intake)
        at = self._segment(first.spool, first.segment).settled_at
        settled = seconds_of(at) if at is not None else 0.0
        # Not known when: its segment has not settled, or had before this was published again.
        if published > settled:
            return published > self._doubt.since - OPEN_SECONDS
        return settled > self._doubt.since

    @lru_cache(maxsize=64)  # noqa: B019  one lister lives as long as its process; cleared with each look
    def _segment(self, spool: str, segment: int) -> Any:
        return next(iter(self._tables.run(_OUTCOMES, (spool, segment))), None)


def run(
    lister: Lister,
    sources: Sequence[Source],
    stop: threading.Event,
    clock: Clock,
    interval_seconds: float,
    paused: Callable[[], bool] = lambda: False,
) -> None:
    """Look at all sources again and again until `stop` is set; one that fails holds up no other."""
    while not stop.is_set():
        began = clock.monotonic()
        for source in [] if paused() else sources:
            if not stop.is_set():
                _look(lister, source, clock)
        stop.wait(max(1.0, interval_seconds - (clock.monotonic() - began)))


def _look(lister: Lister, source: Source, clock: Clock) -> None:
    began = clock.monotonic()
    try:
        look = lister.look("lister", source)
    except Refused as refusal:
        log.error("source %s cannot be listed: %s", source.name, refusal)
        metrics.inc("prodrome_bucket_objects_total", role=NAME, outcome=refusal.reason)
        return
    except SlowDown as error:
        metrics.inc("prodrome_stage_slowdowns_total", stage=NAME)
        log.warning("waiting: %s", error)
        return
    seconds = clock.monotonic() - began
    metrics.put("prodrome_lister_look_seconds", seconds, source=source.name)
    metrics.put("prodrome_lister_objects", look.listed, source=source.name)
    metrics.put("prodrome_lister_last_seconds", clock.now(), source=source.name)
    what = ", ".join(f"{count} {word}" for word, count in sorted(look.outcomes.items())) or "nothing new"
    log.info("source %s: %d objects in %.1f s, %d of %d runs rest; %s",
             source.name, look.listed, seconds, look.resting, look.runs, what)  # fmt: skip


def _runs(versions: Iterable[ObjectVersion]) -> Iterator[list[ObjectVersion]]:
    run: list[ObjectVersion] = []
    for version in versions:
        run.append(version)
        mark = hashlib.blake2b(version.key.encode("utf-8", "surrogatepass"), digest_size=4).digest()
        if not int.from_bytes(mark, "big") & ((1 << RUN_BITS) - 1) or len(run) == RUN_KEYS:
            yield run
            run = []
    if run:
        yield run


def _digest(versions: Iterable[ObjectVersion]) -> bytes:
    whole = hashlib.blake2b(digest_size=16)
    for version in versions:
        whole.update(f"{version.key}\0{version.version}\n".encode("utf-8", "surrogatepass"))
    return whole.digest()
