"""What is not taken is said and counted: refusals at the door, messages that nobody can work on."""

import json
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from house import House, eventually, stored

from infra.connections import kafka_of
from infra.kafka import Producer
from producers import upper_layer as ul
from schemas.codec import Message
from schemas.topics import BY_NAME, DEAD_LETTER_TOPIC

pytestmark = pytest.mark.stack

_VERIFICATION: Final = {1: ("1.2.840.10008.1.1", ["1.2.840.10008.1.2"])}
#: stage -> the topic that it reads
STAGES: Final = {
    "deidentify": "instance.received.v1",
    "deidentify-bulk": "instance.received.bulk.v1",
    "ledger": "instance.settled.v1",
    "catalog": "instance.deidentified.v1",
    "score-images": "instance.deidentified.v1",
    "score": "study.revised.v1",
}


def knock(house: House, called: str, calling: str, address: str = "127.0.0.1") -> ul.Rejected | ul.Accepted:
    """Ask for an association from one of the machine's own addresses, and return the answer."""
    here = house.settings.receive
    with socket.create_connection((here.host, here.port), 30, source_address=(address, 0)) as line:
        line.sendall(ul.associate_request(calling, called, _VERIFICATION, 16384))
        answer = line.makefile("rb")
        head = answer.read(6)
        return ul.parse_associate_response(head[0], answer.read(int.from_bytes(head[2:6])))


#: (called, calling, address, diagnostic of the rejection, reason that is counted)
STRANGERS: Final = (
    ("NOBODY", "TESTS", "127.0.0.1", 7, "unknown_called_ae"),
    ("PRODROME", "STRANGER", "127.0.0.1", 3, "not_authorised"),
    ("PRODROME", "ELSEWHERE", "127.0.0.1", 3, "not_authorised"),
    ("PRODROME", "TESTS", "127.0.0.2", 3, "not_authorised"),
)


def test_strangers_are_counted_apart(house: House) -> None:
    """An unknown title or address is rejected for good, counted under its reason, and in no balance."""
    before = house.json("status", "--json")
    for called, calling, address, diagnostic, _ in STRANGERS:
        assert knock(house, called, calling, address) == ul.Rejected(1, 1, diagnostic)
    after = house.json("status", "--json")
    refused = Counter(after["refused"]) - Counter(before["refused"])
    assert refused == Counter(reason for *_, reason in STRANGERS)
    assert after["balance"] == before["balance"]


def test_a_known_caller_is_let_in(house: House) -> None:
    """The same knock under a known title is accepted: the refusals are not of something else."""
    assert isinstance(knock(house, "PRODROME", "TESTS"), ul.Accepted)


def broken(topic: str) -> Iterator[tuple[str, Message]]:
    """Messages that nobody can work on, with the reason that each must get."""
    kind = BY_NAME[topic].types[0]
    later = kind.removesuffix("1") + "9"
    for reason, value, said in (
        ("malformed_message", b"{ this is no JSON", kind),
        ("malformed_message", b'{"project": 7}', kind),
        ("malformed_message", b"", kind),
        ("unknown_version", b"{}", later),
        ("unknown_version", b"{}", ""),
    ):
        headers = [("ce_type", said.encode())] if said else []
        yield reason, Message(topic, b"a key", value, headers)


def letters(house: House, zone: str) -> list[dict[str, Any]]:
    """The dead letters of a zone, as they stand on its topic."""
    return [json.loads(message.value) for message in house.topic(DEAD_LETTER_TOPIC[zone])]


def dead(house: House, stage: str) -> dict[str, int]:
    """The dead letters of a stage by reason, as `status` counts them."""
    counted: dict[str, int] = house.json("status", "--json")["deadletters"].get(stage, {})
    return counted


def pids(house: House) -> dict[str, int]:
    """The process of each program."""
    return {p["name"]: p["pid"] for p in house.json("status", "--json")["programs"]}


@pytest.fixture(scope="module")
def sent(house: House) -> House:
    """A house onto whose topics broken messages were put, five for each, now dead letters of every reader."""
    producer = Producer(kafka_of(house.settings.trusted))
    producer.send([message for topic in set(STAGES.values()) for _, message in broken(topic)])
    for zone, stages in (("trusted", 3), ("clean", 3)):
        eventually(lambda zone=zone, n=5 * stages: len(letters(house, zone)) >= n, f"{zone} dead letters")
    return house


@pytest.mark.parametrize("stage", STAGES)
def test_broken_messages_are_dead_letters(sent: House, stage: str) -> None:
    """Each stage makes a dead letter of what it cannot read, with its reason, and holds on to the bytes."""
    zone = BY_NAME[STAGES[stage]].zone
    mine = [letter for letter in letters(sent, zone) if letter["stage"] == stage]
    assert sorted(letter["reason"] for letter in mine) == sorted(r for r, _ in broken(STAGES[stage]))
    assert {letter["topic"] for letter in mine} == {STAGES[stage]}
    assert dead(sent, stage) == {"malformed_message": 3, "unknown_version": 2}


@pytest.mark.parametrize("zone", ["trusted", "clean"])
def test_dead_letters_are_listed(sent: House, zone: str) -> None:
    """`prodrome deadletters` shows a line a letter, with stage, place and reason; one reason where asked."""
    all_of_them = sent.prodrome("deadletters", "list", "--zone", zone).stdout
    some = sent.prodrome("deadletters", "list", "--zone", zone, "--reason", "unknown_version").stdout
    for stage, topic in STAGES.items():
        lines = [line for line in all_of_them.splitlines() if re.search(rf" {stage} +│ +{topic} ", line)]
        assert len(lines) == (5 if BY_NAME[topic].zone == zone else 0)
    assert "unknown_version" in some
    assert "malformed_message" not in some


def test_a_replay_does_not_multiply_what_is_still_broken(sent: House) -> None:
    """`prodrome replay` puts letters back on their topics; each comes back as one letter, the first is done with."""
    asked = ("replay", "--zone", "clean", "--reason", "unknown_version")
    before = len(letters(sent, "clean"))
    assert "6 would be replayed" in sent.prodrome(*asked, "--dry-run").stdout
    assert "6 replayed" in sent.prodrome(*asked).stdout
    eventually(lambda: len(letters(sent, "clean")) == before + 6, "letters of the replay")
    for stage in ("catalog", "score-images", "score"):
        assert dead(sent, stage) == {"malformed_message": 3, "unknown_version": 2}
    of_one = ("--stage", "score", "--reason", "unknown_version", "--json")
    listed = [json.loads(line) for line in sent.prodrome("deadletters", "list", *of_one).stdout.splitlines()]
    assert listed.pop() == {"counts": {"score unknown_version": 2}}
    assert sent.json("replay", listed[0]["letter"], "--json") == {"replayed": 1}
    eventually(lambda: len(letters(sent, "clean")) == before + 7, "letter of the second replay")
    assert sent.json("replay", listed[0]["letter"], "--json") == {"would be replayed": 0}
    assert sent.json("replay", listed[0]["letter"], "--again", "--json") == {"replayed": 1}
    eventually(lambda: len(letters(sent, "clean")) == before + 8, "letter of the third replay")


def test_a_letter_is_shown_without_its_message(sent: House) -> None:
    """`deadletters show`: the body only where it is asked for; recorded either way."""
    (listed, *_) = sent.prodrome(
        "deadletters", "list", "--reason", "unknown_version", "--json"
    ).stdout.splitlines()
    name = json.loads(listed)["letter"]
    assert "key" not in sent.json("deadletters", "show", name)
    assert sent.json("deadletters", "show", name, "--values")["key"] == "a key"
    assert sent.prodrome("deadletters", "show", "nobody").returncode == 1
    assert sent.prodrome("audit", "list", "--action", "deadletters-show").stdout.count(name) == 2


def test_a_discarded_letter_is_let_be(sent: House) -> None:
    """It is asked for, is not open any more, and is not replayed."""
    which = ("--stage", "ledger", "--reason", "malformed_message")
    assert "--yes" in sent.prodrome("deadletters", "discard", *which).stderr
    assert sent.json("deadletters", "discard", *which, "--yes", "--json") == {"discarded": 3}
    assert dead(sent, "ledger") == {"unknown_version": 2}
    assert sent.json("replay", *which, "--json") == {"would be replayed": 0}
    shown = sent.prodrome("deadletters", "list", *which, "--state", "discarded").stdout
    assert "3 dead letters" in shown
    assert any(
        "begun" in line for line in sent.prodrome("audit", "list", "--action", "discard").stdout.splitlines()
    )


def test_the_stages_go_on(sent: House, shared: Callable[[str], Path]) -> None:
    """With all that on their topics, the stages still take an image from the door to the index."""
    before = sent.balance()
    path = shared("dicom-mix/src/pydicom/data/test_files/MR_small.dcm")
    assert stored(sent.send([path], "DEFECTS"))
    assert sent.gained(before) == {"acknowledged": 1, "clean": 1}


def test_no_role_dies_of_it(sent: House) -> None:
    """A broken message is no crash loop: with one more for each, every role goes on in the same process."""
    before, found = pids(sent), len(letters(sent, "clean")) + len(letters(sent, "trusted"))
    Producer(kafka_of(sent.settings.trusted)).send([next(broken(topic))[1] for topic in set(STAGES.values())])
    eventually(
        lambda: len(letters(sent, "clean")) + len(letters(sent, "trusted")) == found + len(STAGES), "letters"
    )
    assert pids(sent) == before
