"""A message is read back as what was written, or refused with a reason that quotes nothing."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import MAX_MESSAGE_BYTES, body, decode, encode
from schemas.errors import BadMessage
from schemas.events import EVENT_TYPES, Intake, Lifecycle, Value
from schemas.reasons import kind_of
from schemas.topics import TOPICS
from schemas.worked_examples import EXAMPLES

KINDS = sorted(EVENT_TYPES)
SECRET = "DOE^JANE-19700101"
events = st.sampled_from([(kind, event) for kind, _, event in EXAMPLES])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def message(event: Value, topic: str, **more: Any) -> Any:
    return encode(topic, b"default/1.2", event, identity=("a", 1), source="catalog", **more)


def read(kind: str, value: bytes | None) -> Value:
    return decode(value, [("ce_type", kind.encode())], accepts=KINDS)


def refused(kind: str, value: bytes | None) -> BadMessage:
    with pytest.raises(BadMessage) as caught:
        read(kind, value)
    assert kind_of(caught.value.reason) == "deadletter"
    return caught.value


def read_or_refused(kind: str, value: bytes) -> None:
    """Nothing else may happen to a message."""
    try:
        read(kind, value)
    except BadMessage:
        error = refused(kind, value)
        assert error.reason == "malformed_message"
        assert SECRET not in str(error)


@pytest.mark.parametrize(("kind", "name", "event"), EXAMPLES, ids=[f"{k} {n}" for k, n, _ in EXAMPLES])
def test_a_message_comes_back_as_its_event_from_every_topic_that_carries_it(
    kind: str, name: str, event: Value
) -> None:
    """Encode and decode are each other's inverse."""
    for topic in (t for t in TOPICS if kind in t.types):
        sent = message(event, topic.name)
        assert decode(sent.value, sent.headers, accepts=topic.types) == event


def test_a_repeat_differs_in_no_byte() -> None:
    """The same event has the same body and id; trace and attempt stand in headers."""
    event = EXAMPLES[0][2]
    first, again = (message(event, "instance.received.v1", extra={"attempt": n}) for n in "12")
    assert first.value == again.value
    assert dict(first.headers)["ce_id"] == dict(again.headers)["ce_id"]
    assert dict(again.headers)["attempt"] == b"2"


def test_an_event_is_not_put_on_a_topic_of_others() -> None:
    """A trusted event on a clean topic is found before it is sent."""
    with pytest.raises(ValueError, match="carries"):
        message(EXAMPLES[0][2], "instance.deidentified.v1")


def test_unknown_fields_are_ignored() -> None:
    """Additive fields stay version 1."""
    for kind, _, event in EXAMPLES:
        longer = json.loads(body(event)) | {"a_field_of_the_future": {"x": [1]}}
        assert read(kind, json.dumps(longer).encode()) == event


@pytest.mark.parametrize("kind", ["", "org.prodrome.lifecycle.v2", SECRET, "\udcff"])
def test_an_unknown_type_is_refused_without_its_name(kind: str) -> None:
    """A type of another version, none, or nonsense is `unknown_version`."""
    with pytest.raises(BadMessage) as caught:
        decode(b"{}", [("ce_type", kind.encode("utf-8", "surrogateescape"))], accepts=KINDS)
    assert caught.value.reason == "unknown_version"
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("headers", [None, [], [("ce_type", None)], [("other", b"x")]])
def test_a_message_without_a_type_is_refused(headers: Any) -> None:
    """Kafka allows no headers at all, and headers without a value."""
    with pytest.raises(BadMessage, match="no ce_type header"):
        decode(b"{}", headers, accepts=KINDS)


def test_a_type_that_the_topic_does_not_carry_is_refused() -> None:
    """A known type in the wrong place is as bad as an unknown one."""
    sent = message(Lifecycle(project="p", study_instance_uid="1", kind="revised"), "lifecycle.v1")
    with pytest.raises(BadMessage, match=r"came org\.prodrome\.lifecycle\.v1"):
        decode(sent.value, sent.headers, accepts=("org.prodrome.study.revised.v1",))


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"project":' * 5_000,
        b"1" * (4 * MAX_MESSAGE_BYTES + 1),
        b'{"project": "p", "study_instance_uid": "1", "kind": "DOE^JANE-19700101"}',
        b'{"project": "p", "study_instance_uid": "1", "kind": "DOE^JANE-19700101 - at `$`"}',
        b'{"project": "DOE^JANE-19700101", "study_instance_uid": 1, "kind": "revised"}',
        b'{"project": "p", "study_instance_uid": "1", "kind": "revised", "revision": 1e400}',
    ],
    ids=str,
)
def test_a_malformed_body_is_refused_and_never_quoted(value: bytes | None) -> None:
    """Texts of errors end in logs and dead letters' details, on the clean side too."""
    error = refused("org.prodrome.lifecycle.v1", value)
    assert error.reason == "malformed_message"
    assert "DOE" not in str(error)


@given(st.sampled_from(KINDS), st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_bad_message(kind: str, value: bytes) -> None:
    """Whatever lies on a topic, a consumer sees an event or a `BadMessage`."""
    refused(kind, value)


@given(events, st.data())
def test_a_mutated_example_is_read_or_refused_without_a_quote(example: Any, data: st.DataObject) -> None:
    """One field of a good message replaced by anything: an event, or a reason that names no value."""
    kind, event = example
    shown = json.loads(body(event))
    field = data.draw(st.sampled_from(sorted(shown)))
    shown[field] = data.draw(values | st.just({SECRET: [SECRET]}))
    read_or_refused(kind, json.dumps(shown).encode())


@given(events, st.integers(0, 10_000), st.binary(min_size=1, max_size=3))
def test_a_message_with_changed_bytes_is_read_or_refused(example: Any, at: int, new: bytes) -> None:
    """Bit rot and cut messages are no crash either."""
    kind, event = example
    value = body(event)
    at %= len(value)
    read_or_refused(kind, value[:at] + new + value[at + len(new) :])


@pytest.mark.parametrize("text", ["b7d1f0c2a94e4c51/3/41", "b7d1f0c2a94e4c51+/3/41", "s++/0/0"])
def test_an_intake_reads_as_it_is_written(text: str) -> None:
    """A release of it is another intake, and knows where it came from."""
    intake = Intake.parse(text)
    assert str(intake) == text
    assert intake.again != intake
    assert intake.again.origin == intake.origin == Intake.parse(text.replace("+", ""))


@pytest.mark.parametrize("text", ["", "s/3", "s/3/41/5", "+s/3/41", "s/-3/41", "s/3/x", "../3/4", "s/3/41\n"])
def test_what_is_no_intake_is_refused(text: str) -> None:
    """It comes from a command line."""
    with pytest.raises(ValueError, match="expected an intake"):
        Intake.parse(text)
