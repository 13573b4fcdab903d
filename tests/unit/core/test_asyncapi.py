"""The AsyncAPI document is valid, whole, and says what the code says."""

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from schemas.asyncapi import document
from schemas.topics import BY_NAME, TOPICS

OFFICIAL = json.loads(
    gzip.decompress((Path(__file__).parents[2] / "data" / "asyncapi-3.0.0.json.gz").read_bytes())
)
MADE = document("1.2.3")


def found_at(reference: str) -> Any:
    """What a local reference points at; KeyError where there is nothing."""
    value: Any = MADE
    for part in reference.removeprefix("#/").split("/"):
        value = value[part]
    return value


def references(value: Any) -> list[str]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = [value["$ref"]] if isinstance(value, dict) and isinstance(value.get("$ref"), str) else []
    return own + [found for item in inner for found in references(item)]


def test_the_document_is_valid_by_the_official_schema() -> None:
    """AsyncAPI 3.0.0's own JSON Schema, bindings of Kafka included."""
    assert [error.message for error in Draft7Validator(OFFICIAL).iter_errors(MADE)] == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda made: made.update(asyncapi="2.6.0"),
        lambda made: made["info"].pop("version"),
        lambda made: made["channels"]["prediction.v1"].update(partitions=12),
        lambda made: made["channels"]["prediction.v1"]["bindings"]["kafka"].update(partitions="12"),
        lambda made: made["operations"]["score.send.prediction.v1"].update(action="publish"),
        lambda made: made["servers"]["clean"].pop("protocol"),
        lambda made: made["components"]["schemas"]["Lifecycle"].update(type="record"),
    ],
    ids=["version", "info", "channel", "binding", "action", "server", "payload"],
)
def test_a_spoilt_document_is_refused(spoil: Any) -> None:
    """The official schema bites at every level that the document uses."""
    made = copy.deepcopy(MADE)
    spoil(made)
    assert not Draft7Validator(OFFICIAL).is_valid(made)


def test_every_reference_leads_somewhere() -> None:
    """The official schema does not follow references."""
    assert len(references(MADE)) > 100
    for reference in references(MADE):
        found_at(reference)
    with pytest.raises(KeyError):
        found_at("#/components/schemas/Nothing")


@pytest.mark.parametrize("topic", [topic.name for topic in TOPICS if topic.types])
def test_examples_are_valid_by_payload_and_headers(topic: str) -> None:
    """Each message of a channel has an example, and its schemas accept it: as draft 7, which tools read."""
    for message in MADE["channels"][topic]["messages"].values():
        assert message["examples"]
        for example in message["examples"]:
            whole = {"components": MADE["components"], **message["payload"]}
            Draft7Validator(whole).validate(example["payload"])
            Draft7Validator(message["headers"]).validate(example["headers"])
            assert not Draft7Validator(whole).is_valid({})
            assert not Draft7Validator(message["headers"]).is_valid({})


def test_operations_are_the_writers_and_readers_of_the_table() -> None:
    """Nobody sends or receives who is not in the table of topics, and all who are."""
    said = {
        (op["tags"][0]["name"], op["action"], op["channel"]["$ref"].removeprefix("#/channels/"))
        for op in MADE["operations"].values()
    }
    assert said == {(role, "send", t.name) for t in TOPICS for role in t.writers} | {
        (role, "receive", t.name) for t in TOPICS for role in t.readers
    }


def test_channels_carry_partitions_retention_and_zone() -> None:
    """What a subscriber plans by stands in the channel."""
    for name, channel in MADE["channels"].items():
        kafka, topic = channel["bindings"]["kafka"], BY_NAME[name]
        assert (kafka["partitions"], kafka["topicConfiguration"]["retention.ms"]) == (
            topic.partitions,
            topic.retention_ms,
        )
        assert channel["servers"] == [{"$ref": f"#/servers/{topic.zone}"}]
