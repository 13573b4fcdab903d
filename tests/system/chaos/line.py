"""The whole way in one process, so that it can be killed between any two effects and broken on purpose.

Everything is the product's own but Kafka and faust: a real spool, the relay, the boundary, the stages under
their loop, a real Cassandra and a real store. `Broker` is a list with offsets and commits. A `Fuse` counts
the effects (rows, objects, messages, places, commits) and blows before or after the n-th: that is a `kill -9`
of the process that made it, for nothing of it lives on but what was written.
"""

import uuid
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from evidence import Evidence, collect
from needles import Search, identifiers
from places import Place, hits, of_file, of_text
from sender import Ledger, facts_of

from consumers import boundary
from consumers.catalog import Catalog
from consumers.deid.keys import ProjectKeys
from consumers.deidentify import Deidentify
from consumers.ledger import Ledger as LedgerStage
from consumers.loop import Loop
from consumers.workers import Job
from infra.cassandra import Tables
from infra.clock import ManualClock
from infra.kafka import Received
from infra.objects import Store
from infra.settings import load, master_key
from infra.spool import Spool, SpoolReader
from infra.spool.format import InstanceHeader
from producers.relay import Relay
from producers.send import Item, inspect_file
from schemas.codec import Message
from schemas.dicom_reader import read_file_header
from schemas.errors import SlowDown
from schemas.topics import TOPICS

#: Past every quiet time.
QUIET = 60.0


class Killed(BaseException):
    """The process is gone; nothing in the product catches it."""


class Endless(BaseException):
    """The line waits for ever: a mistake of a test, or a stage that should not wait."""


class Fuse:
    """Blows at the n-th effect, `before` it happens or behind it; `error` is raised then."""

    def __init__(self) -> None:
        self.count = 0
        self.at: int | None = None
        self.error: type[BaseException] = Killed
        self.before = True

    def set(self, at: int, *, before: bool = True, error: type[BaseException] = Killed) -> None:
        """Blow at the `at`-th effect from now, once."""
        self.count, self.at, self.before, self.error = 0, at, before, error

    def run(self, effect: Callable[[], Any]) -> Any:
        """Do an effect, or die."""
        here = self.at is not None and self.count == self.at
        self.count += 1
        if here and self.before:
            self._blow()
        result = effect()
        if here and not self.before:
            self._blow()
        return result

    def _blow(self) -> None:
        self.at = None
        raise self.error("fuse")


class Fused:
    """Tables or a store whose writes are effects."""

    def __init__(self, inside: Any, fuse: Fuse) -> None:
        self._inside, self._fuse = inside, fuse

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inside, name)
        if name not in ("put", "put_again", "run", "run_once"):
            return method

        def call(*arguments: Any) -> Any:
            if name == "run" and arguments[0].startswith("SELECT"):
                return method(*arguments)
            return self._fuse.run(lambda: method(*arguments))

        return call

    def run_all(self, statements: Iterable[Any]) -> list[Any]:
        """Each for itself: they go beside each other, and a death may come between any two."""
        return self._apart(list(statements), lambda one: self._inside.run_all([one])[0])

    def write(self, partitions: Iterable[Any]) -> None:
        """Each partition for itself."""
        self._apart(list(partitions), lambda one: self._inside.write([one]))

    def write_small(self, rows: Sequence[Any]) -> None:
        """Each row for itself."""
        self._apart(list(rows), lambda one: self._inside.write_small([one]))

    def _apart(self, some: list[Any], effect: Callable[[Any], Any]) -> list[Any]:
        # In an order that nobody relies on.
        order = sorted(range(len(some)), key=lambda i: zlib.crc32(bytes([i % 256, self._fuse.count % 256])))
        done = {i: self._fuse.run(lambda i=i: effect(some[i])) for i in order}  # type: ignore[misc]
        return [done[i] for i in range(len(some))]


class Broker:
    """Topics as lists; a group has the place that it committed."""

    def __init__(self, fuse: Fuse) -> None:
        self._fuse = fuse
        self.topics: dict[str, list[list[Received]]] = {t.name: [[] for _ in range(3)] for t in TOPICS}
        self.committed: dict[tuple[str, str, int], int] = defaultdict(int)

    def send(self, messages: Sequence[Message]) -> None:
        """Append all; each may be the last that was confirmed."""
        for message in messages:
            self._fuse.run(lambda message=message: self._append(message))  # type: ignore[misc]

    def _append(self, message: Message) -> None:
        partitions = self.topics[message.topic]
        number = zlib.crc32(message.key) % len(partitions)
        where = (message.topic, number, len(partitions[number]))
        partitions[number].append(Received(*where, message.key, message.value, list(message.headers)))

    def poll(self, group: str, topics: Sequence[str], most: int) -> list[Received]:
        """Return the next messages of a group."""
        found = [
            message
            for topic in topics
            for number, partition in enumerate(self.topics[topic])
            for message in partition[self.committed[group, topic, number] :]
        ]
        return found[:most]

    def commit(self, group: str, messages: Sequence[Received]) -> None:
        """Move the group behind these messages."""

        def move() -> None:
            for message in messages:
                self.committed[group, message.topic, message.partition] = message.offset + 1

        with suppress(SlowDown):  # a commit that failed comes with the next one
            self._fuse.run(move)

    def waiting(self, group: str, topics: Sequence[str]) -> int:
        """Messages that the group has not committed."""
        return len(self.poll(group, topics, 1 << 30))


class Inline:
    """Workers in this process."""

    def __init__(self, _function: Any, _setup: Any, arguments: tuple[Any, ...], *_: Any) -> None:
        self._boundary = boundary.Boundary(*arguments)

    def run(self, jobs: Sequence[Job]) -> list[Any]:
        """Cross one after the other."""
        return [self._cross(job) for job in jobs]

    def _cross(self, job: Job) -> Any:
        try:
            return self._boundary.cross(*job.argument)
        except Exception as error:
            return error


@dataclass
class Line:
    """One spool and the way behind it; also a `World` that evidence is collected from."""

    home: Path
    tables: Tables
    project: str
    batch: int = 2
    fuse: Fuse = field(default_factory=Fuse)
    kills: int = 0
    on_wait: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        key = self.home / "secrets" / "master.key"
        key.parent.mkdir(parents=True, exist_ok=True)
        key.write_text("07" * 32)
        key.chmod(0o600)
        self.settings = load({"PRODROME_HOME": str(self.home)})
        self.clock = ManualClock()
        self.keys = ProjectKeys.derive(
            master_key(self.settings), self.project, self.settings.deidentify.key_id
        )
        self.trusted = self.clean = self.tables
        self.clean_folder, self.trusted_folder = self.home / "clean", self.home / "trusted"
        self.broker = Broker(self.fuse)
        self.spool = Spool(Path(self.settings.spool.path), clock=self.clock)
        self.ledger = Ledger(self.home / "sent.jsonl")
        self.planted: set[str] = set()
        self._closed = False
        self.start()

    def close(self) -> None:
        """End the writer of the spool."""
        if not self._closed:
            self.spool.close()
        self._closed = True

    # the sender's side

    def send(self, *paths: Path) -> None:
        """Store files in one association, each noted before and behind."""
        association = uuid.uuid4().hex
        for ordinal, path in enumerate(paths):
            item = inspect_file(path)
            assert isinstance(item, Item)
            facts = facts_of(item)
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
            self.planted |= {one for one in identifiers(dataset) if len(one) > 6}
            self.ledger.note(facts, "attempt")
            data = path.read_bytes()
            header = self._header(item, facts.study, association, ordinal)
            self.spool.store(header, data[read_file_header(data).dataset_offset :])
            self.ledger.note(facts, "answer", 0)
        self.spool.close_association(association, "released")

    def _header(self, item: Item, study: str, association: str, ordinal: int) -> InstanceHeader:
        return InstanceHeader(
            project=self.project, source="local", association=association, ordinal=ordinal,
            calling_ae_title="T", called_ae_title="P", address="127.0.0.1", trace="0" * 32,
            received_at=self.clock.now(), sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid, transfer_syntax_uid=item.transfer_syntax_uid,
            study_instance_uid=study,
        )  # fmt: skip

    # the system's side

    def start(self) -> None:
        """Begin anew, as processes that know nothing but what was written."""
        tables: Any = Fused(self.tables, self.fuse)
        broker: Any = self.broker
        self.relay = Relay(self.spool.folder, broker, large_bytes=1 << 30, clock=self.clock)
        store: Any = Fused(Store(self.settings.clean.store, "clean"), self.fuse)
        boundary_stage = Deidentify(self.settings, tables, broker, self.clock)
        workers: Any = boundary_stage._workers
        for side in (workers._boundary, boundary_stage._boundary):
            side._clean = Fused(side._clean, self.fuse)
            side.kept.store = Fused(side.kept.store, self.fuse)
        stages = [
            boundary_stage,
            Catalog(self.settings, tables, store, broker, self.clock),
            LedgerStage(self.settings, tables, self.clock),
        ]
        self.loops = [Loop(stage, broker, _Never(self), 100) for stage in stages]  # type: ignore[arg-type]
        self._told = False

    def run(self, rounds: int = 1 << 30) -> None:
        """Go on for so many rounds, or until nothing is left to do; whoever is killed begins anew."""
        for _ in range(rounds):
            try:
                if not self._told:
                    for loop in self.loops:
                        loop.call(lambda loop=loop: loop.stage.assigned(frozenset(range(3))))  # type: ignore[misc]
                    self._told = True
                busy = self._round()
                if not busy and not self._settle():
                    return
            except Killed:
                self.kills += 1
                self.start()

    def _round(self) -> bool:
        busy = False
        while self._relay():
            busy = True
        for loop in self.loops:
            stage = loop.stage
            messages = self.broker.poll(stage.group, stage.topics, self.batch)
            if messages:
                loop.process(messages)
                self.broker.commit(stage.group, messages)
                busy = True
        return busy

    def _relay(self) -> bool:
        try:
            return self.relay.step()
        except SlowDown:
            return True

    def _settle(self) -> bool:
        """Let the quiet time pass; return whether that made work."""
        before = self.fuse.count
        for loop in self.loops:
            loop.stage.caught_up(frozenset(range(3)))
        self.clock.advance(QUIET)
        for loop in self.loops:
            loop.call(loop.stage.tick)
        # A tick that did something may have left the rest to the next one.
        return before != self.fuse.count or any(
            self.broker.waiting(loop.stage.group, loop.stage.topics) for loop in self.loops
        )

    # the world's side

    def topic(self, name: str) -> Iterable[Received]:
        """All messages of a topic."""
        return [message for partition in self.broker.topics[name] for message in partition]

    def in_flight(self) -> int:
        """Of this spool alone: the keyspace is shared."""
        reader = SpoolReader(self.spool.folder)
        rows = "SELECT segment, counts FROM ledger_segments WHERE spool = ?"
        settled = sum(sum((row.counts or {}).values()) for row in self.tables.run(rows, (reader.id,)))
        return sum(reader.instances().values()) - settled

    def lags(self) -> Mapping[str, int]:
        """Messages that wait, by group."""
        return {
            loop.stage.group: self.broker.waiting(loop.stage.group, loop.stage.topics) for loop in self.loops
        }

    def leaks(self) -> list[str]:
        """Every clean object, message and row of this project, searched."""
        return [
            f"{name}: {len(found)} planted"
            for name, found in hits(Search(self.planted), self._places()).items()
        ]

    def _places(self) -> Iterator[Place]:
        for path in sorted(self.clean_folder.rglob("*")):
            if path.is_file():
                yield from of_file(f"object {path.name[-12:]}", path.read_bytes())
        for topic in TOPICS:
            for message in self.topic(topic.name) if topic.zone == "clean" else ():
                yield Place(f"{topic.name} key", message.key)
                yield from of_text(f"{topic.name} value", message.value)
        for row in self.tables.run("SELECT JSON * FROM study_instances"):
            if f'"{self.project}"' in row[0]:
                yield from of_text("study_instances", row[0].encode())

    def evidence(self) -> Evidence:
        """Collect."""
        return collect(self, self.ledger.sent())


class _Never:
    """A stop that nobody sets; pauses are skipped, and told."""

    def __init__(self, line: Line) -> None:
        self._line, self._waits = line, 0

    def is_set(self) -> bool:
        return False

    def wait(self, _seconds: float | None = None) -> bool:
        self._waits += 1
        if self._waits > 1000:
            raise Endless("a dependency is waited for, and nothing brings it back")
        self._line.on_wait()
        return False
