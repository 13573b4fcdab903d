"""Where devices draw text: regions by device, in a table of ours.

A rule of `devices.toml` has conditions, all of which must hold (keyword -> words, one of which is in the value),
and boxes in pixels that are blanked whatever the detector says.
"""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from consumers.deid.picture import Picture
from consumers.pixeltext.picture import Box


class Rule(NamedTuple):
    """One device's regions."""

    name: str
    conditions: tuple[tuple[str, tuple[str, ...]], ...]
    boxes: tuple[Box, ...]


@cache
def rules() -> tuple[Rule, ...]:
    """Return the rules of the packaged table."""
    said = tomllib.loads((files("consumers.pixeltext") / "devices.toml").read_text())
    return tuple(_rule(entry) for entry in said["rule"])


def device_boxes(picture: Picture) -> list[Box]:
    """Return what the rules blank in each frame, cut to its size."""
    held = (rule for rule in rules() if all(_holds(picture, *condition) for condition in rule.conditions))
    return [_cut(box, picture) for rule in held for box in rule.boxes]


def _rule(entry: dict[str, Any]) -> Rule:
    conditions = tuple((keyword, tuple(words)) for keyword, words in entry["when"].items())
    boxes = tuple((b[0], b[1], b[2], b[3]) for b in entry["blank"])
    return Rule(entry["name"], conditions, boxes)


def _holds(picture: Picture, keyword: str, words: tuple[str, ...]) -> bool:
    value = picture.header.get(keyword, "").casefold()
    return any(word == value if word.isdecimal() else word.casefold() in value for word in words)


def _cut(box: Box, picture: Picture) -> Box:
    left, top, right, bottom = box
    return (
        min(left, picture.columns),
        min(top, picture.rows),
        min(right, picture.columns),
        min(bottom, picture.rows),
    )
