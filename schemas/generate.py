"""Write schemas/json, schemas/examples and asyncapi.json from the event types: `python -m schemas.generate`.

1. `files` returns every file's text by its path below this folder: a JSON Schema (draft 2020-12) a type,
   named as the `ce_dataschema` header names it, the worked examples, and the AsyncAPI document.
2. Run as a program, it writes them and removes what no type stands behind any more.

Additional fields are allowed everywhere: a reader of version 1 ignores what it does not know.
"""

import json
import tomllib
from pathlib import Path
from typing import Any, Final

import msgspec

from schemas.asyncapi import document
from schemas.events import EVENT_TYPES
from schemas.worked_examples import EXAMPLES

ROOT: Final = Path(__file__).parent
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def files() -> dict[str, str]:
    """Return the text of every generated file by its path below schemas/."""
    made = {f"json/{kind}.json": _text(schema(kind)) for kind in EVENT_TYPES}
    for kind, name, event in EXAMPLES:
        path = f"examples/{kind}{'.' if name else ''}{name}.json"
        made[path] = _text(msgspec.to_builtins(event))
    made["asyncapi.json"] = _text(document(version()))
    return made


def schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema of a CloudEvents type's body."""
    head = {"$schema": DIALECT, "$id": f"prodrome:schemas/json/{kind}.json"}
    return head | msgspec.json.schema(EVENT_TYPES[kind])


def version() -> str:
    """Return the version of this checkout, as its pyproject.toml says it."""
    table = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())
    return str(table["project"]["version"])


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _write() -> None:
    wanted = files()
    for folder in ("json", "examples"):
        (ROOT / folder).mkdir(exist_ok=True)
        for path in (ROOT / folder).iterdir():
            if f"{folder}/{path.name}" not in wanted:
                path.unlink()
    for name, text in wanted.items():
        (ROOT / name).write_text(text)


if __name__ == "__main__":
    _write()
