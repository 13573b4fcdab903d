"""Builds that are broken on purpose: each a patch of one place, and the fault that makes it show.

`BROKEN` is the table: a name, the patch, the fault (none where it shows by itself), and the kinds under which
the checker must report it. None of this is in the product; what the order of system calls proves stands in
`test_sync_order`, and what needs a broker of its own in `test_broken_builds`.
"""

import itertools
import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import pytest
from evidence import checksum_of
from line import Killed, Line

from consumers import boundary, identity, intakes, settle
from consumers.assemble import Assembler
from consumers.catalog import _CLOSED
from consumers.ledger import Ledger, Segment
from consumers.loop import Loop
from infra.objects import Store
from producers.relay import Relay
from schemas.errors import SlowDown
from schemas.events import Pointer

Patch = Callable[[pytest.MonkeyPatch], None]
Fault = Callable[[Line, random.Random], None]


def commit_before_effect(patch: pytest.MonkeyPatch) -> None:
    """A batch is worked on after the next one has come, and is committed by then."""
    right = Loop.process
    late: dict[Loop, Any] = {}

    def process(self: Loop, messages: Any) -> None:
        waiting, late[self] = late.get(self), messages
        if waiting:
            right(self, waiting)

    patch.setattr(Loop, "process", process)


def swallow_exception(patch: pytest.MonkeyPatch) -> None:
    """A dependency that is down is logged, and the batch taken as done."""
    right = Loop._persist

    def persist(self: Loop, step: Callable[[], None]) -> None:
        def quiet() -> None:
            try:
                step()
            except SlowDown:
                return

        right(self, quiet)

    patch.setattr(Loop, "_persist", persist)


def index_before_object(patch: pytest.MonkeyPatch) -> None:
    """An object is written when the next one comes; its row and its event are there before."""
    right = Store.put
    late: dict[Store, tuple[str, bytes]] = {}  # by store: one of a process that died is another

    def put(self: Store, key: str, data: bytes) -> Pointer:
        if self in late:
            right(self, *late[self])
        late[self] = (key, data)
        checksum = checksum_of(data)
        return Pointer(uri=f"{self.scheme}://{key}", offset=0, length=len(data), checksum=checksum)

    patch.setattr(Store, "put", put)


def half_objects(patch: pytest.MonkeyPatch) -> None:
    """An object is cut in its middle, as by a writer that was killed and does not rename."""
    right = Store.put
    count = itertools.count()

    def put(self: Store, key: str, data: bytes) -> Pointer:
        if key.endswith(".dcm") and next(count) % 7 == 3:
            right(self, key, data[: len(data) // 2])
            checksum = checksum_of(data)
            return Pointer(uri=f"{self.scheme}://{key}", offset=0, length=len(data), checksum=checksum)
        return right(self, key, data)

    patch.setattr(Store, "put", put)


def conflict_is_duplicate(patch: pytest.MonkeyPatch) -> None:
    """A known SOP Instance UID is a duplicate, whatever it shows."""
    right = identity.decide

    def decide(arrived: Any, known: Any) -> Any:
        if known and known[0].intake != arrived.intake:
            return arrived.becomes("duplicate", known[0].version)
        return right(arrived, known)

    patch.setattr(intakes, "decide", decide)


def duplicate_is_corrected(patch: pytest.MonkeyPatch) -> None:
    """The same content again counts as a new version."""
    patch.setattr(identity, "_same", lambda arrived, version: arrived.intake == version.intake)


def forget_own_intake(patch: pytest.MonkeyPatch) -> None:
    """A repeat of an intake is taken as another arrival, so that it has two outcomes."""
    right = identity.decide

    def decide(arrived: Any, known: Any) -> Any:
        return right(arrived, [version._replace(intake="forgotten") for version in known])

    patch.setattr(intakes, "decide", decide)


def pass_a_tag(patch: pytest.MonkeyPatch) -> None:
    """One identifying attribute goes through the boundary as it came."""
    right = boundary.load_profile
    patch.setattr(boundary, "load_profile", lambda name: right(name).without(0x00080020))


def save_before_publishing(patch: pytest.MonkeyPatch) -> None:
    """The relay notes its place first, and publishes then."""

    def publish(self: Relay) -> bool:
        records = list(itertools.islice(self._reader.records(self.state.segment, self.state.offset), 2))
        if not records:
            return False
        numbers = [r.number + 1 for r in records if r.number < 1 << 31]
        self._save(offset=records[-1].end, records=max([self.state.records, *numbers]))
        self._publisher.send(relay_messages(self._reader.id, records, self._large_bytes))
        return True

    from producers.outbox import messages as relay_messages

    patch.setattr(Relay, "_publish_chunk", publish)


def settle_before_clean(patch: pytest.MonkeyPatch) -> None:
    """Outcomes are published, and what is clean is forgotten where the process dies between."""
    right = settle.clean_events
    seen: set[str] = set()

    def clean_events(decided: Any) -> Any:
        names = {str(one.instance.intake) for one in decided}
        first, _ = not names & seen, seen.update(names)
        return [] if first else right(decided)

    patch.setattr(settle, "clean_events", clean_events)


def bodies_that_differ(patch: pytest.MonkeyPatch) -> None:
    """An event says when it was made, so that a repeat is another event under the same id."""
    right = settle._clean_instance
    count = itertools.count()

    def clean_instance(one: Any) -> Any:
        import msgspec

        instance = right(one)
        return msgspec.structs.replace(instance, facts={**instance.facts, "made": next(count)})

    patch.setattr(settle, "_clean_instance", clean_instance)


def forget_before_publishing(patch: pytest.MonkeyPatch) -> None:
    """A study is taken from the open ones, and gets its revision then."""
    right = Assembler.close

    def close(self: Assembler, *keys: Any) -> None:
        for partition, key in itertools.product(range(3), keys):
            self._tables.run(_CLOSED, (partition, *key))
        right(self, *keys)

    patch.setattr(Assembler, "close", close)


def ledger_by_count(patch: pytest.MonkeyPatch) -> None:
    """The ledger adds outcomes up, so that a repeat counts twice."""

    def settle_again(self: Segment, record: int, outcome: Any) -> None:
        from consumers.ledger import CODES

        self.outcomes.append(CODES[outcome])

    patch.setattr(Segment, "settle", settle_again)


def ledger_loses_rows(patch: pytest.MonkeyPatch) -> None:
    """The ledger writes what a batch says over what stood there."""
    right = Ledger._update

    def update(self: Ledger, key: Any, events: Any) -> None:
        tables = self._tables
        self._tables = _Forgetful(tables)  # type: ignore[assignment]
        right(self, key, events)
        self._tables = tables

    patch.setattr(Ledger, "_update", update)


class _Forgetful:
    def __init__(self, tables: Any) -> None:
        self._tables = tables

    def run(self, cql: str, values: Any) -> Any:
        return [] if cql.startswith("SELECT") else self._tables.run(cql, values)

    def run_once(self, cql: str, values: Any) -> Any:
        return True, self._tables.run(cql.replace(" IF NOT EXISTS", ""), values)


# faults


def kill_anywhere(line: Line, chance: random.Random) -> None:
    """Die five times, each at an effect that chance chooses."""
    _again(line, chance, Killed, 5)


def refuse_anywhere(line: Line, chance: random.Random) -> None:
    """A dependency is away a dozen times."""
    _again(line, chance, SlowDown, 12)


def kill_when_sent(line: Line, chance: random.Random) -> None:
    """Die right behind a message that is confirmed, or in its place."""
    right = line.broker.send
    at = chance.randrange(2)

    def send(messages: Any) -> None:
        nonlocal at
        topics = {message.topic for message in messages}
        if topics & WATCHED:
            at -= 1
            if at == -1:
                if line.fuse.before:
                    raise Killed
                right(messages)
                raise Killed
        right(messages)

    line.fuse.before = False
    line.broker.send = send  # type: ignore[method-assign]


WATCHED: Final = {"instance.deidentified.v1"}


def kill_in_place_of(topic: str, first: int = 2) -> Fault:
    """Die in place of one of the first batches to a topic; a catalog closes all of a small load in one."""

    def fault(line: Line, chance: random.Random) -> None:
        right, at = line.broker.send, chance.randrange(first)

        def send(messages: Any) -> None:
            nonlocal at
            if any(message.topic == topic for message in messages):
                at -= 1
                if at == -1:
                    raise Killed
            right(messages)

        line.broker.send = send  # type: ignore[method-assign]

    return fault


def _again(line: Line, chance: random.Random, error: type[BaseException], times: int) -> None:
    right = line.fuse.run
    places = {chance.randrange(3, 60) for _ in range(times)}
    count = itertools.count()

    def run(effect: Callable[[], Any]) -> Any:
        if next(count) in places:
            raise error("chance")
        return right(effect)

    line.fuse.run = run  # type: ignore[method-assign]


def nothing(line: Line, chance: random.Random) -> None:
    """It shows by itself."""


class Broken(NamedTuple):
    """A broken build."""

    patch: Patch
    fault: Fault
    caught_as: tuple[str, ...]


BROKEN: Final[dict[str, Broken]] = {
    "commit offset before effect": Broken(commit_before_effect, kill_anywhere, ("lost", "stuck")),
    "swallow exception": Broken(swallow_exception, refuse_anywhere, ("lost", "stuck")),
    "index before object": Broken(index_before_object, kill_anywhere, ("lost",)),
    "half objects": Broken(half_objects, nothing, ("corrupt",)),
    "a conflict is a duplicate": Broken(conflict_is_duplicate, nothing, ("lost",)),
    "a duplicate is a correction": Broken(duplicate_is_corrected, nothing, ("doubled",)),
    "an intake forgets its answer": Broken(
        forget_own_intake, kill_when_sent, ("doubled", "lost")
    ),
    "one tag passes": Broken(pass_a_tag, nothing, ("leaked",)),
    "the relay saves before it publishes": Broken(
        save_before_publishing, kill_in_place_of("instance.received.v1"), ("lost", "stuck")
    ),
    "settled before clean": Broken(settle_before_clean, nothing, ("lost",)),
    "bodies that differ": Broken(bodies_that_differ, kill_when_sent, ("doubled",)),
    "forgotten before published": Broken(
        forget_before_publishing, kill_in_place_of("study.revised.v1", 1), ("lost",)
    ),
    "the ledger counts": Broken(ledger_by_count, kill_when_sent, ("stuck",)),
    "the ledger overwrites": Broken(ledger_loses_rows, nothing, ("stuck",)),
}  # fmt: skip
