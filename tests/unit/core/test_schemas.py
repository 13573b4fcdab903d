"""The JSON Schemas and examples are current, true and open to fields of the future."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from schemas.codec import body
from schemas.events import EVENT_TYPES, Lifecycle
from schemas.generate import ROOT, files, schema
from schemas.worked_examples import EXAMPLES

KINDS = sorted(EVENT_TYPES)


def walk(value: Any) -> list[dict[str, Any]]:
    """Every object inside a JSON value."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value] * isinstance(value, dict) + [found for item in inner for found in walk(item)]


def test_written_schemas_and_examples_are_those_of_the_types() -> None:
    """A changed type whose files were not written anew (`make docs`) fails here."""
    found = {
        str(path.relative_to(ROOT)): path.read_text()
        for pattern in ("json/*", "examples/*", "asyncapi.json")
        for path in ROOT.glob(pattern)
    }
    assert found == files()


def test_a_changed_type_changes_its_schema() -> None:
    """The drift test bites: another field gives another schema."""

    class Longer(Lifecycle, frozen=True, kw_only=True):
        more: int = 0

    assert msgspec.json.schema(Longer) != msgspec.json.schema(Lifecycle)


def test_generating_is_repeatable(tmp_path: Path) -> None:
    """Another process with another hash seed makes the same text."""
    code = "import schemas.generate as g, json; print(json.dumps(g.files()))"
    made = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT.parent)},
        capture_output=True,
        check=True,
        text=True,
    )
    assert json.loads(made.stdout) == files()


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_is_valid_and_forbids_no_additional_field(kind: str) -> None:
    """Readers ignore unknown fields, so no schema may refuse them."""
    made = schema(kind)
    Draft202012Validator.check_schema(made)
    assert not [found for found in walk(made) if found.get("additionalProperties") is False]
    assert made["$id"] == f"prodrome:schemas/json/{kind}.json"


@pytest.mark.parametrize(("kind", "name", "event"), EXAMPLES, ids=[f"{k} {n}" for k, n, _ in EXAMPLES])
def test_an_example_is_valid_and_is_read_back_as_itself(kind: str, name: str, event: Any) -> None:
    """What an example shows is what the code writes and reads."""
    shown = json.loads(body(event))
    Draft202012Validator(schema(kind)).validate(shown)
    assert msgspec.json.decode(body(event), type=EVENT_TYPES[kind]) == event


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_refuses_an_example_without_a_required_field(kind: str) -> None:
    """A schema that accepts anything would be a defect."""
    shown = next(json.loads(body(event)) for of, _, event in EXAMPLES if of == kind)
    del shown[next(iter(shown))]
    assert not Draft202012Validator(schema(kind)).is_valid(shown)


def test_every_type_has_an_example_and_a_topic() -> None:
    """No type is unexplained, and none crosses no topic."""
    from schemas.topics import TOPICS

    assert {kind for kind, name, _ in EXAMPLES if not name} == set(EVENT_TYPES)
    assert {kind for topic in TOPICS for kind in topic.types} == set(EVENT_TYPES)
