"""Write `devices.toml` from the rules of pydicom/deid (MIT); run by hand when they change.

Taken are rules all of whose conditions must hold (`contains`, `equals`) and whose boxes are numbers; of these the
facts: which device, which size, which boxes. `ctpcoordinates` are left, top, width, height.

    python consumers/pixeltext/generate.py deid.dicom > consumers/pixeltext/devices.toml
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CONDITION = re.compile(r"\+?\s*(contains|equals)\s+(\w+)\s+(.+)")
_BOXES = re.compile(r"(ctp)?coordinates\s+(\d+),\s*(\d+),\s*(\d+),\s*(\d+)")
_SPELT = {"Manfacturer": "Manufacturer", "Manufacture": "Manufacturer"}
_COMMENT = re.compile(r"\s*#.*")


def rules(text: str) -> Iterator[dict[str, Any]]:
    """Yield name, conditions and boxes (left, top, right, bottom) of each rule that is taken."""
    for block in re.split(r"^LABEL ", text, flags=re.MULTILINE)[1:]:
        name, *lines = (_COMMENT.sub("", line).strip() for line in block.split("\n"))
        lines = [line for line in lines if line and not line.startswith("%")]
        boxes = [_box(match) for line in lines if (match := _BOXES.fullmatch(line))]
        conditions = [line for line in lines if "coordinates" not in line]
        matches = [_CONDITION.fullmatch(line) for line in conditions]
        if boxes and all(matches) and "||" not in block:
            when = {_SPELT.get(match[2], match[2]): _words(match[3]) for match in matches if match}
            yield {"name": " ".join(name.split()), "when": when, "blank": boxes}


def _words(value: str) -> list[str]:
    return [word.strip() for word in value.split("|")]


def _box(match: re.Match[str]) -> list[int]:
    left, top, right, bottom = (int(match[n]) for n in (2, 3, 4, 5))
    return [left, top, left + right, top + bottom] if match[1] else [left, top, right, bottom]


if __name__ == "__main__":
    print("# Where devices draw text: written by generate.py from pydicom/deid (MIT, Copyright (c) 2016-2022")
    print(
        "# Vanessa Sochat), whose rules are CTP's and Stanford's. Boxes: left, top, right, bottom in pixels."
    )
    for rule in rules(Path(sys.argv[1]).read_text()):
        when = ", ".join(f"{keyword} = {json.dumps(words)}" for keyword, words in rule["when"].items())
        print(f"\n[[rule]]\nname = {json.dumps(rule['name'])}\nwhen = {{ {when} }}\nblank = {rule['blank']}")
