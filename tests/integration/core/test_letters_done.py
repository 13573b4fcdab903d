"""A replay that is cut sends again and loses nothing; a letter that came back is open, one that was done is not."""

import uuid
from typing import Any

import pytest
from stage_rig import Outbox

from commands.deadletters import Letter, discard_letters, replay_letters, state_of
from infra.cassandra import Tables
from schemas.codec import b64
from schemas.errors import SlowDown
from schemas.events import DeadLetter
from schemas.topics import RECEIVED

pytestmark = pytest.mark.stack


def letter(value: bytes = b"{}") -> Letter:
    """A letter of its own."""
    event = DeadLetter(
        stage="deidentify", topic=RECEIVED["live"], partition=3, offset=7, reason="stage_failed", detail="",
        attempts=1, key=b64(b"key"), value=b64(value), headers={"ce_type": b64(b"kind")},
    )  # fmt: skip
    return Letter("trusted", uuid.uuid4().hex, "2@17", "open", event)


def what(tables: Tables, one: Letter) -> str | None:
    """What became of a letter."""
    rows = tables.run("SELECT what FROM letters_done WHERE zone = ? AND letter = ?", (one.zone, one.id))
    return rows[0].what if rows else None


class Killed:
    """Tables of a process that is killed before it notes anything."""

    def run_all(self, _: Any) -> None:
        raise KeyboardInterrupt


def test_a_replay_sends_the_message_unchanged_and_notes_it(tables: Tables, outbox: Outbox) -> None:
    """Topic, key, body and headers are those that the stage was given, and it is meant for that stage alone."""
    one = letter()
    assert replay_letters(tables, outbox, [one]) == {"replayed": 1}
    assert outbox.sent == [
        (RECEIVED["live"], b"key", b"{}", [("ce_type", b"kind"), ("meant_for", one.event.stage.encode())])
    ]
    assert state_of(what(tables, one), one.place) == "replayed"


def test_a_replay_that_is_killed_is_sent_again(tables: Tables, outbox: Outbox) -> None:
    """Between the broker's confirmation and the note: the letter is open, and its message the same."""
    one = letter()
    with pytest.raises(KeyboardInterrupt):
        replay_letters(Killed(), outbox, [one])  # type: ignore[arg-type]
    assert state_of(what(tables, one), one.place) == "open"
    replay_letters(tables, outbox, [one])
    assert outbox.sent[0] == outbox.sent[1]


def test_a_broker_that_is_away_leaves_the_letter_open(tables: Tables, outbox: Outbox) -> None:
    """Nothing is noted that was not confirmed."""
    one, outbox.away = letter(), True
    with pytest.raises(SlowDown):
        replay_letters(tables, outbox, [one])
    assert what(tables, one) is None


def test_a_letter_without_its_message_is_not_replayed(tables: Tables, outbox: Outbox) -> None:
    """It was too large to keep; that is said, and it stays open."""
    one = letter(b"")
    assert replay_letters(tables, outbox, [one])["replayed"] == 0
    assert (outbox.sent, what(tables, one)) == ([], None)


def test_a_newer_copy_is_open_again(tables: Tables) -> None:
    """The same id behind the place that was noted: the cause is still there."""
    one = letter()
    discard_letters(tables, [one])
    done = what(tables, one)
    assert [state_of(done, place) for place in ("2@9", "2@17", "2@18")] == ["discarded", "discarded", "open"]
