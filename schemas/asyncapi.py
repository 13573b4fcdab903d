"""The AsyncAPI 3.0 document: topics, messages, who sends and who receives, for subscribers and their tools.

`document` builds it from the table of topics, the event types, the headers and the worked examples; nothing in
it is written by hand but the sentences here. `schemas.generate` writes it to schemas/asyncapi.json.

Payloads are the JSON Schemas of `schemas/json` with their parts under `components/schemas`.
"""

from collections.abc import Iterator
from typing import Any, Final, get_args

import msgspec

from schemas.codec import HEADERS
from schemas.events import EVENT_TYPES
from schemas.topics import KEYS, TOPICS, Topic, Zone
from schemas.worked_examples import messages

BINDING: Final = "0.5.0"
DESCRIPTION: Final = """\
DICOM in, risk predictions out. Delivery is at least once, in order within a key; a repeat has the same key, \
`ce_id` and body. Fields are only added within a version: ignore those you do not know. Clean topics hold \
pseudonyms only and no time of receipt; trusted ones hold identifiers of patients.

For a subscriber: `prediction.v1` and `lifecycle.v1`, and the rule in docs/subscribing.md."""
_ZONES: Final[dict[Zone, str]] = {
    "trusted": "Holds identifiers of patients: for roles of the trusted side alone.",
    "clean": "Pseudonyms only. The place of subscribers.",
}
_ALWAYS: Final = tuple(name for name, _ in HEADERS if name != "ce_subject")


def document(version: str) -> dict[str, Any]:
    """Return the AsyncAPI document of a version of prodrome."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "prodrome",
            "version": version,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {zone: _server(zone) for zone in get_args(Zone)},
        "channels": {topic.name: _channel(topic) for topic in TOPICS},
        "operations": dict(_operations()),
        "components": {"schemas": payload_schemas()},
    }


def payload_schemas() -> dict[str, Any]:
    """Return the schema of every event type and of its parts, by name."""
    _, parts = msgspec.json.schema_components(
        EVENT_TYPES.values(), ref_template="#/components/schemas/{name}"
    )
    return parts


def _server(zone: Zone) -> dict[str, Any]:
    return {
        "host": "{bootstrap}",
        "protocol": "kafka",
        "description": _ZONES[zone],
        "variables": {
            "bootstrap": {
                "default": "127.0.0.1:19092",
                "description": f"The site's brokers, as in PRODROME_{zone.upper()}_KAFKA.",
            }
        },
    }


def _channel(topic: Topic) -> dict[str, Any]:
    channel = {
        "address": topic.name,
        "description": f"Key: {KEYS[topic.name]}. Zone: {topic.zone}.",
        "servers": [{"$ref": f"#/servers/{topic.zone}"}],
        "messages": {kind: _message(topic, kind) for kind in topic.types},
        "tags": [{"name": topic.zone}],
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": {"cleanup.policy": ["delete"], "retention.ms": topic.retention_ms},
                "bindingVersion": BINDING,
            }
        },
    }
    return channel if topic.types else {k: v for k, v in channel.items() if k != "messages"}


def _message(topic: Topic, kind: str) -> dict[str, Any]:
    event = EVENT_TYPES[kind]
    return {
        "name": kind,
        "title": event.__name__,
        "summary": (event.__doc__ or "").strip().partition("\n")[0],
        "headers": _headers(topic, kind),
        "payload": {"$ref": f"#/components/schemas/{event.__name__}"},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": KEYS[topic.name]},
                "bindingVersion": BINDING,
            }
        },
        "examples": list(_examples(topic, kind)),
    }


def _headers(topic: Topic, kind: str) -> dict[str, Any]:
    said: dict[str, Any] = {
        "content-type": {"const": "application/json"},
        "ce_specversion": {"const": "1.0"},
        "ce_id": {"format": "uuid"},
        "ce_type": {"const": kind},
        "ce_source": {"enum": [f"/prodrome/{role}" for role in topic.writers]},
        "ce_dataschema": {"const": f"prodrome:schemas/json/{kind}.json"},
    }
    properties = {
        name: {"type": "string", "description": text, **said.get(name, {})} for name, text in HEADERS
    }
    return {"type": "object", "properties": properties, "required": list(_ALWAYS)}


def _examples(topic: Topic, kind: str) -> Iterator[dict[str, Any]]:
    for worked in messages():
        if worked.message.topic == topic.name and worked.kind == kind:
            yield {
                "name": worked.name or "example",
                "headers": {name: data.decode() for name, data in worked.message.headers},
                "payload": msgspec.json.decode(worked.message.value),
            }


def _operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for topic in TOPICS:
        roles = [(role, "send") for role in topic.writers] + [(role, "receive") for role in topic.readers]
        for role, action in roles:
            channel = f"#/channels/{topic.name}"
            operation: dict[str, Any] = {
                "action": action,
                "channel": {"$ref": channel},
                "title": f"{role} {action}s {topic.name}",
                "tags": [{"name": role}],
            }
            if topic.types:
                operation["messages"] = [{"$ref": f"{channel}/messages/{kind}"} for kind in topic.types]
            yield f"{role}.{action}.{topic.name}", operation
