"""Readers first: what the last release wrote is read here, and what is written here its readers read."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from schemas.codec import body, decode
from schemas.release import latest
from schemas.topics import BY_NAME
from schemas.worked_examples import Worked, messages

HERE = Path(__file__).parent
RELEASE = latest()
CONTRACT = json.loads((RELEASE / "contract.json").read_text())
WORKED: list[dict[str, Any]] = json.loads((RELEASE / "messages.json").read_text())
#: What the release itself wrote while it worked on synthetic exams.
RECORDED: list[dict[str, Any]] = json.loads(
    gzip.decompress((HERE.parents[1] / "data" / "stored" / f"{RELEASE.name}.json.gz").read_bytes())
)["messages"]


def by_the_release(lines: list[list[Any]]) -> list[Any]:
    """What the readers of the release make of messages."""
    ended = subprocess.run(
        [sys.executable, HERE / "release_reader.py", RELEASE / "readers.zip"],
        input="".join(json.dumps(line) + "\n" for line in lines),
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        cwd=HERE,
        capture_output=True,
        check=True,
        text=True,
    )
    return [json.loads(line) for line in ended.stdout.splitlines()]


def shown(worked: Worked, **more: Any) -> list[Any]:
    message = worked.message
    headers = {name: value.decode() for name, value in message.headers}
    return [message.topic, headers, json.dumps(json.loads(message.value) | more)]


def known_words(worked: Worked) -> bool:
    """Whether an example uses only words that the release knows; others are skipped by subscribers."""
    kind = json.loads(worked.message.value).get("kind")
    schema = CONTRACT["schemas"]["org.prodrome.lifecycle.v1"]["$defs"]["Lifecycle"]
    return worked.kind != "org.prodrome.lifecycle.v1" or kind in schema["properties"]["kind"]["enum"]


NEW = [
    worked
    for worked in messages()
    if worked.kind in CONTRACT["topics"].get(worked.message.topic, {"types": []})["types"]
    and known_words(worked)
]


@pytest.mark.parametrize("written", [WORKED, RECORDED], ids=["worked", "recorded"])
def test_messages_of_the_release_are_read_without_loss(written: list[dict[str, Any]]) -> None:
    """Every field of every message comes back with its value."""
    assert {message["topic"] for message in written} >= {"prediction.v1", "instance.received.v1"}
    for message in written:
        headers = [(name, text.encode()) for name, text in message["headers"].items()]
        event = decode(message["value"].encode(), headers, accepts=BY_NAME[message["topic"]].types)
        assert contains(json.loads(body(event)), json.loads(message["value"]))


def test_messages_of_today_are_read_by_the_release() -> None:
    """Fields that it does not know are nothing to it; those it knows have their values."""
    read = by_the_release([shown(worked, a_field_of_the_future={"x": [1]}) for worked in NEW])
    assert len(read) == len(NEW) > 10
    for worked, event in zip(NEW, read, strict=True):
        assert contains(json.loads(worked.message.value), event)


def test_a_message_that_breaks_the_contract_is_refused_by_the_release() -> None:
    """The release's readers are what they were: a retyped field and a lost one are dead letters to them."""
    prediction = next(worked for worked in NEW if worked.message.topic == "prediction.v1")
    topic, headers, value = shown(prediction)
    lost = {name: field for name, field in json.loads(value).items() if name != "model"}
    retyped = json.loads(value) | {"revision": "1"}
    assert by_the_release([[topic, headers, json.dumps(spoilt)] for spoilt in (lost, retyped)]) == [
        "malformed_message",
        "malformed_message",
    ]


def contains(whole: Any, some: Any) -> bool:
    """Whether every field of `some` stands in `whole` with its value."""
    if isinstance(some, dict):
        return isinstance(whole, dict) and all(n in whole and contains(whole[n], v) for n, v in some.items())
    if isinstance(some, list):
        return len(whole) == len(some) and all(contains(a, b) for a, b in zip(whole, some, strict=True))
    return bool(whole == some)
