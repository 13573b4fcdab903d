"""The container file as data: what each stage copies, runs and says."""

import json
import re
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).parents[3]
CONTAINERFILE = CHECKOUT / "infra" / "deploy" / "Containerfile"


class Stage(NamedTuple):
    """One FROM with its instructions, (name, text)."""

    name: str
    base: str
    lines: list[tuple[str, str]]

    def of(self, instruction: str) -> list[str]:
        """The texts of an instruction."""
        return [text for name, text in self.lines if name == instruction]

    def copies(self) -> list[tuple[str, list[str], str]]:
        """Every COPY as (stage it is from, or empty; sources; destination)."""
        found = []
        for text in self.of("COPY"):
            words = text.split()
            origin = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else ""
            found.append((origin, words[:-1], words[-1]))
        return found


def parse(text: str) -> dict[str, Stage]:
    """The stages of a container file by name."""
    joined = re.sub(
        r"\s*\\\n\s*", " ", "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    )
    stages: dict[str, Stage] = {}
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            base, _, stage = rest.partition(" AS ")
            stages[stage] = Stage(stage, base, [])
        elif stages:
            list(stages.values())[-1].lines.append((name, rest.strip()))
    return stages


STAGES = parse(CONTAINERFILE.read_text())
#: The images: what a stage is built on is inherited.
IMAGES = {name: stage for name, stage in STAGES.items() if stage.base == "role"}


def rooms(image: str) -> set[str]:
    """What of the checkout is in an image, below its root."""
    stages = (STAGES["role"], IMAGES[image])
    return {
        source
        for stage in stages
        for origin, sources, _ in stage.copies()
        if not origin
        for source in sources
    }


def lock(image: str) -> Path:
    """The lock that an image is installed from."""
    [origin] = [origin for origin, _, _ in IMAGES[image].copies() if origin]
    [[source]] = [sources for _, sources, _ in STAGES[origin].copies()]
    return CHECKOUT / source


def command(image: str) -> list[str]:
    """What an image runs by default."""
    found: list[str] = json.loads(IMAGES[image].of("CMD")[0])
    return found
