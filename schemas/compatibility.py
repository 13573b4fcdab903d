"""What would break a reader or a writer of an earlier release: two contracts compared. Pure.

1. A contract is data: the topics with zone, partitions, retention, key and types, and a JSON Schema a type
   (`contract` gives this checkout's, `schemas/releases` holds those of releases).
2. `breaks` lists, in words, what within a version must not happen. Releases run side by side while a site is
   upgraded, so it looks both ways: old messages in front of new readers, new messages in front of old ones.

Allowed are: a new optional field, a new type, a new topic, a longer retention, and a new word in an
enumeration that is marked open. Anything else is a new version, written in parallel.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from schemas.events import EVENT_TYPES
from schemas.generate import schema, version
from schemas.topics import KEYS, TOPICS

#: Say nothing about what may stand in a message.
_WORDS: Final = frozenset({"title", "description", "$schema", "$id", "$defs", "examples", "x-open"})
#: Looked at one by one below; every other keyword has to stay as it is.
_SEEN: Final = frozenset({"$ref", "anyOf", "enum", "properties", "required", "items", "additionalProperties"})

Json = dict[str, Any]


def contract() -> Json:
    """Return the contract of this checkout, as it reads from a file."""
    said = {
        "version": version(),
        "topics": {
            topic.name: {
                "zone": topic.zone,
                "partitions": topic.partitions,
                "retention_ms": topic.retention_ms,
                "key": KEYS[topic.name],
                "types": list(topic.types),
            }
            for topic in TOPICS
        },
        "schemas": {kind: schema(kind) for kind in EVENT_TYPES},
    }
    found: Json = msgspec.json.decode(msgspec.json.encode(said))
    return found


def breaks(old: Json, new: Json) -> list[str]:
    """Return what a later contract breaks of an earlier one; nothing where they may run side by side."""
    return [*_topics(old["topics"], new["topics"]), *_types(old["schemas"], new["schemas"])]


def _topics(old: Json, new: Json) -> Iterator[str]:
    for name, before in old.items():
        after = new.get(name)
        if after is None:
            yield f"topic {name} is gone"
            continue
        for what in ("zone", "partitions", "key"):
            if before[what] != after[what]:
                yield f"topic {name}: another {what}"
        if after["retention_ms"] < before["retention_ms"]:
            yield f"topic {name}: a shorter retention"
        for kind in set(before["types"]) - set(after["types"]):
            yield f"topic {name} does not carry {kind} any more"


def _types(old: Json, new: Json) -> Iterator[str]:
    for kind, before in old.items():
        if kind not in new:
            yield f"type {kind} is gone"
        else:
            yield from _Compared(before, new[kind]).schemas(before, new[kind], kind)


class _Compared:
    """Two schemas of one type, with the definitions that they refer to."""

    def __init__(self, old: Json, new: Json) -> None:
        self._old, self._new = old.get("$defs", {}), new.get("$defs", {})

    def schemas(self, old: Json, new: Json, at: str) -> Iterator[str]:
        """Yield what changed for the worse between two schemas at one place."""
        old, new = _resolved(old, self._old), _resolved(new, self._new)
        for keyword in sorted((old.keys() | new.keys()) - _WORDS - _SEEN):
            if old.get(keyword) != new.get(keyword):
                yield f"{at}: another {keyword}"
        yield from self._alternatives(old, new, at)
        yield from _enumeration(old, new, at)
        yield from self._properties(old, new, at)
        for keyword in ("items", "additionalProperties"):
            yield from self._inner(old.get(keyword, True), new.get(keyword, True), f"{at}[]")

    def _alternatives(self, old: Json, new: Json, at: str) -> Iterator[str]:
        before, after = old.get("anyOf", []), new.get("anyOf", [])
        if len(before) != len(after):
            yield f"{at}: other alternatives"
            return
        for one, other in zip(before, after, strict=True):
            yield from self.schemas(one, other, at)

    def _properties(self, old: Json, new: Json, at: str) -> Iterator[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        for name, was in before.items():
            if name in after:
                yield from self.schemas(was, after[name], f"{at}.{name}")
            else:
                yield f"{at}.{name} is gone"
        always, now = set(old.get("required", ())), set(new.get("required", ()))
        for name in sorted(now - always):
            yield f"{at}.{name} is required now, and old messages lack it"
        for name in sorted((always - now) & after.keys()):
            yield f"{at}.{name} may be absent now, and old readers need it"

    def _inner(self, old: Any, new: Any, at: str) -> Iterator[str]:
        if isinstance(old, dict) and isinstance(new, dict):
            yield from self.schemas(old, new, at)
        elif old != new:
            yield f"{at}: other members"


def _enumeration(old: Json, new: Json, at: str) -> Iterator[str]:
    before, after = old.get("enum"), new.get("enum")
    if before is None or after is None:
        if before != after:
            yield f"{at}: an enumeration on one side alone"
        return
    for word in sorted(set(before) - set(after)):
        yield f"{at}: the word {word} is gone"
    if not new.get("x-open"):
        for word in sorted(set(after) - set(before)):
            yield f"{at}: old readers do not know the word {word}"


def _resolved(value: Json, parts: Json) -> Json:
    # No type refers to itself, so this ends.
    while "$ref" in value:
        value = {
            **parts[value["$ref"].removeprefix("#/$defs/")],
            **{k: v for k, v in value.items() if k != "$ref"},
        }
    return value
