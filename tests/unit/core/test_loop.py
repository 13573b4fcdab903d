"""The loop around every stage: each message is handled or a dead letter, and no exception leaves."""

import base64
import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers import loop as rules
from consumers.loop import ATTEMPTS, Loop, Record
from infra.kafka import MESSAGE_BYTES
from schemas.codec import MEANT_FOR, Message, encode
from schemas.errors import BadMessage, SlowDown
from schemas.events import DeadLetter, InstanceSettled
from schemas.topics import Zone

TOPIC = "instance.settled.v1"


class Sent(NamedTuple):
    """A message as faust hands it over."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Any


class Letters:
    """A producer that keeps what it is given, after `down` refusals."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.down = 0

    def send(self, messages: Sequence[Message]) -> None:
        if self.down:
            self.down -= 1
            raise SlowDown("the broker is away")
        self.sent += messages

    @property
    def reasons(self) -> list[str]:
        return [json.loads(m.value)["reason"] for m in self.sent]


class Recording:
    """A stage that notes every batch and then does what it is told for its offsets."""

    name, zone, topics, group, batch, pace = "ledger", "trusted", (TOPIC,), "prodrome-test", 16, 0.0
    zone: Zone

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.abandoned: list[tuple[int, str]] = []
        self.cannot_abandon = False
        self.ticks = 0
        self.errors: dict[int, Callable[[int], Exception | None]] = {}

    def handle(self, records: Sequence[Record]) -> None:
        self.batches.append([r.offset for r in records])
        for record in records:
            tried = sum(record.offset in batch for batch in self.batches)
            error = self.errors.get(record.offset, lambda _: None)(tried)
            if error is not None:
                raise error

    def abandon(self, record: Record, error: BadMessage) -> None:
        self.abandoned.append((record.offset, error.reason))
        if self.cannot_abandon:
            raise KeyError

    def tick(self) -> None:
        self.ticks += 1

    def assigned(self, partitions: frozenset[int]) -> None: ...

    def caught_up(self, partitions: frozenset[int]) -> None: ...


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "SLOW_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(rules, "PAUSED_SECONDS", 0.0)


@pytest.fixture
def stage() -> Recording:
    return Recording()


@pytest.fixture
def letters() -> Letters:
    return Letters()


@pytest.fixture
def loop(stage: Recording, letters: Letters) -> Loop:
    return Loop(stage, letters, threading.Event(), 100)  # type: ignore[arg-type]


def good(offset: int) -> Sent:
    event = InstanceSettled(spool="s", segment=0, records=())
    message = encode(TOPIC, b"s/0", event, identity=(offset,), source="test")
    return Sent(TOPIC, 3, offset, message.key, message.value, message.headers)


def goods(count: int) -> list[Sent]:
    return [good(offset) for offset in range(count)]


def always(error: Exception) -> Callable[[int], Exception]:
    return lambda _: error


def once(error: Exception) -> Callable[[int], Exception | None]:
    return lambda tried: error if tried == 1 else None


def test_a_good_batch_is_handled_once_in_order(loop: Loop, stage: Recording, letters: Letters) -> None:
    """The whole batch in one call, and nothing else."""
    loop.process(goods(5))
    assert stage.batches == [[0, 1, 2, 3, 4]]
    assert letters.sent == []
    assert loop.state == "idle"


def test_large_messages_are_handled_in_slices(
    loop: Loop, stage: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call gets no more bytes than a slice, or one message that is larger; order stays, nothing is left out."""
    monkeypatch.setattr(rules, "SLICE_BYTES", 2 * len(good(0).value))
    loop.process(goods(5))
    assert stage.batches == [[0, 1], [2, 3], [4]]
    monkeypatch.setattr(rules, "SLICE_BYTES", 1)
    loop.process([good(5), good(6)])
    assert stage.batches[3:] == [[5], [6]]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Sent(TOPIC, 3, 9, b"k", b"{}", []), "unknown_version"),
        (Sent(TOPIC, 3, 9, None, None, None), "unknown_version"),
        (good(9)._replace(value=b"not JSON"), "malformed_message"),
        (good(9)._replace(value=None), "malformed_message"),
        (good(9)._replace(headers={"ce_type": b"org.prodrome.instance.settled.v9"}), "unknown_version"),
        (good(9)._replace(headers=[("ce_type", None), ("x", None)]), "unknown_version"),
    ],
)
def test_what_cannot_be_decoded_is_a_letter_and_the_rest_goes_on(
    loop: Loop, stage: Recording, letters: Letters, message: Sent, reason: str
) -> None:
    """A message without value, key, headers or a value in a header included."""
    loop.process([good(8), message, good(10)])
    assert stage.batches == [[8, 10]]
    assert letters.reasons == [reason]


def test_what_is_put_back_for_another_stage_is_passed_over(
    loop: Loop, stage: Recording, letters: Letters
) -> None:
    """Two stages of one topic: what one gave up and gets again is nothing to the other, be it good or broken."""
    mine, theirs = ((MEANT_FOR, name.encode()) for name in (stage.name, "another"))
    broken = good(10)._replace(value=b"{")
    sent = [good(8), good(9), broken, good(11)]
    marks = [mine, theirs, theirs, None]
    loop.process(
        [
            m._replace(headers=[*m.headers, mark] if mark else m.headers)
            for m, mark in zip(sent, marks, strict=True)
        ]
    )
    assert stage.batches == [[8, 11]]
    assert letters.sent == []


def test_a_letter_holds_the_whole_message(loop: Loop, letters: Letters) -> None:
    """Replaying it needs nothing else; its id is that of the place, so that a repeat is the same letter."""
    bad = good(9)._replace(value=b"\xff{")
    loop.process([bad])
    loop.process([bad])
    first, again = letters.sent
    letter = json.loads(first.value)
    assert first == again
    assert first.topic == "deadletter.trusted.v1"
    assert base64.b64decode(letter["value"]) == bad.value
    assert {k: base64.b64decode(v) for k, v in letter["headers"].items()} == dict(bad.headers)
    assert (letter["topic"], letter["partition"], letter["offset"]) == (TOPIC, 3, 9)


def test_a_message_too_large_for_a_letter_is_told_without_its_value(loop: Loop, letters: Letters) -> None:
    """A letter that the broker refuses would stop the stage for ever."""
    loop.process([good(9)._replace(value=b" " * (MESSAGE_BYTES + 1))])
    letter = json.loads(letters.sent[0].value)
    assert letter["value"] == ""
    assert "2097153 bytes are not kept" in letter["detail"]


def test_a_dependency_that_is_down_is_waited_for_without_limit(
    loop: Loop, stage: Recording, letters: Letters
) -> None:
    """The same batch again, far more often than a failing message is tried; no dead letter."""
    stage.errors[1] = lambda tried: SlowDown("down") if tried < 50 else None
    loop.process(goods(3))
    assert stage.batches == [[0, 1, 2]] * 50
    assert letters.sent == []


def test_a_bad_message_is_found_alone_and_the_others_are_handled(
    loop: Loop, stage: Recording, letters: Letters
) -> None:
    """`BadMessage` in a batch: one by one; it is one letter after one more look, with its own reason."""
    stage.errors[1] = always(BadMessage("missing_object", "no manifest"))
    loop.process(goods(3))
    assert stage.batches == [[0, 1, 2], [0], [1], [2]]
    assert letters.reasons == ["missing_object"]


def test_an_unknown_error_is_tried_three_times_and_not_quoted(
    loop: Loop, stage: Recording, letters: Letters
) -> None:
    """Its type and place are told; its text may hold a value of a dataset."""
    stage.errors[1] = always(ValueError("DOE^JANE"))
    loop.process(goods(3))
    assert stage.batches == [[0, 1, 2], [0], *[[1]] * ATTEMPTS, [2]]
    letter = json.loads(letters.sent[0].value)
    assert (letter["reason"], letter["attempts"]) == ("stage_failed", ATTEMPTS)
    assert letter["detail"].startswith("ValueError at test_loop.py:")


@pytest.mark.parametrize("cannot", [False, True])
def test_a_stage_hears_of_a_message_before_its_letter(
    loop: Loop, stage: Recording, letters: Letters, cannot: bool
) -> None:
    """It tells those who wait for the message; if it cannot even do that, the letter is written still."""
    stage.cannot_abandon = cannot
    stage.errors[1] = always(BadMessage("missing_object"))
    loop.process(goods(3))
    assert stage.abandoned == [(1, "missing_object")]
    assert letters.reasons == ["missing_object"]


def test_an_error_that_passes_leaves_no_letter(loop: Loop, stage: Recording, letters: Letters) -> None:
    """A batch that failed once is handled message by message."""
    stage.errors[2] = once(RuntimeError())
    loop.process(goods(3))
    assert stage.batches == [[0, 1, 2], [0], [1], [2]]
    assert letters.sent == []


def test_a_message_waits_for_a_dependency_alone_too(loop: Loop, stage: Recording, letters: Letters) -> None:
    """`SlowDown` never counts as an attempt."""
    stage.errors[0] = lambda tried: ValueError() if tried in (1, 9) else SlowDown("") if tried < 9 else None
    loop.process(goods(2))
    assert letters.sent == []
    assert stage.batches[-2:] == [[0], [1]]


def test_a_letter_waits_for_the_broker(loop: Loop, stage: Recording, letters: Letters) -> None:
    """While the dead letter cannot be written nothing is acknowledged."""
    letters.down = 20
    stage.errors[0] = always(BadMessage("missing_object"))
    loop.process(goods(1))
    assert letters.reasons == ["missing_object"]


def test_a_stage_stops_past_the_limit_instead_of_emptying_its_topic(
    stage: Recording, letters: Letters
) -> None:
    """More than `limit` letters without good messages beside them: halted, until the process is told to end."""
    stopping = threading.Event()
    loop = Loop(stage, letters, stopping, 5)  # type: ignore[arg-type]
    bad = [good(offset)._replace(value=b"") for offset in range(100)]
    seen = []

    def tell_to_end() -> None:
        while loop.state != "halted":
            stopping.wait(0.01)
        seen.append(len(letters.sent))
        stopping.set()

    thread = threading.Thread(target=tell_to_end)
    thread.start()
    with pytest.raises(SystemExit):
        loop.process(bad)
    thread.join()
    assert seen == [6]
    assert len(letters.sent) == 6


def test_good_messages_pay_for_bad_ones(stage: Recording, letters: Letters) -> None:
    """One bad message in ten goes on for ever; the limit is for a cause that hits nearly all."""
    loop = Loop(stage, letters, threading.Event(), 5)  # type: ignore[arg-type]
    for _ in range(50):
        loop.process([good(0)._replace(value=b""), *goods(10)])
    assert len(letters.sent) == 50


def test_a_stop_while_a_dependency_is_down_ends_the_process_without_acknowledging(
    stage: Recording, letters: Letters
) -> None:
    """Nothing of the batch was said to be done, so it comes again."""
    stopping = threading.Event()
    loop = Loop(stage, letters, stopping, 5)  # type: ignore[arg-type]
    stage.errors[0] = lambda tried: stopping.set() or SlowDown("down")  # type: ignore[func-returns-value]
    with pytest.raises(SystemExit):
        loop.process(goods(2))
    assert stage.batches == [[0, 1]]


def test_deadlines_wait_for_a_dependency(loop: Loop) -> None:
    """A tick that meets a database that is down is repeated, not forgotten."""
    answers = iter([SlowDown(""), SlowDown(""), None])
    seen: list[Exception | None] = []

    def tick() -> None:
        seen.append(answer := next(answers))
        if answer is not None:
            raise answer

    loop.call(tick)
    assert len(seen) == 3
    assert loop.state == "idle"


fates = st.sampled_from(["good", "undecodable", "bad", "broken", "flaky", "slow"])


@given(st.lists(fates, max_size=12))
def test_whatever_happens_each_message_is_handled_or_a_letter(told: list[str]) -> None:
    """No exception leaves, none is lost, none is both; the order of those handled is kept."""
    stage, letters = Recording(), Letters()
    loop = Loop(stage, letters, threading.Event(), 1000)  # type: ignore[arg-type]
    makes: dict[str, Callable[[int], Exception | None]] = {
        "bad": always(BadMessage("missing_object")),
        "broken": always(KeyError("x")),
        "flaky": once(OSError()),
        "slow": lambda tried: SlowDown("") if tried < 4 else None,
    }
    stage.errors = {i: makes[fate] for i, fate in enumerate(told) if fate in makes}
    loop.process(
        [good(i)._replace(value=b"!") if f == "undecodable" else good(i) for i, f in enumerate(told)]
    )
    lettered = Counter(json.loads(m.value)["offset"] for m in letters.sent)
    assert lettered == {i: 1 for i, f in enumerate(told) if f in ("undecodable", "bad", "broken")}
    handled = {offset for batch in stage.batches for offset in batch}
    assert handled == {i for i, f in enumerate(told) if f != "undecodable"}
    assert all(batch == sorted(batch) for batch in stage.batches)


def test_letters_are_events_of_their_topic(loop: Loop, letters: Letters) -> None:
    """`prodrome deadletters list` reads them by the codec like anything else."""
    from schemas.codec import decode
    from schemas.topics import BY_NAME

    loop.process([good(1)._replace(value=b"")])
    sent = letters.sent[0]
    assert isinstance(decode(sent.value, sent.headers, accepts=BY_NAME[sent.topic].types), DeadLetter)


def test_a_paused_stage_stands_still_and_loses_nothing(letters: Letters) -> None:
    """While paused nothing is handled and no deadline looked at; afterwards the batch is handled whole."""
    stage, asked = Recording(), []

    def paused() -> bool:
        asked.append(len(stage.batches))
        return len(asked) <= 2

    loop = Loop(stage, letters, threading.Event(), 5, paused)  # type: ignore[arg-type]
    loop.tick()
    assert stage.ticks == 0
    loop.process([good(0)])
    assert asked == [0, 0, 0]
    assert len(stage.batches) == 1
    loop.tick()
    assert stage.ticks == 1


def test_a_paused_stage_can_be_stopped(letters: Letters) -> None:
    """A process that is told to end while it is paused ends, with nothing acknowledged."""
    stage, stopping = Recording(), threading.Event()
    stopping.set()
    loop = Loop(stage, letters, stopping, 5, lambda: True)  # type: ignore[arg-type]
    with pytest.raises(SystemExit):
        loop.process([good(0)])
    assert not stage.batches
