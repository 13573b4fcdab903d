"""A newcomer's hour: send, see the dashboards answer, break what the runbook names, follow its page, mended.

The commands are taken from the page itself, so that a page that does not mend fails here.
"""

import json
import re
import shutil
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from house import CHECKOUT, House, eventually, exams, stored, study_of, write_exam

from infra.demo import Pixels
from infra.monitoring.dashboards import DASHBOARDS

pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed: make peers"),
]


def ask(house: House, expression: str) -> list[Any]:
    """What the stack's Prometheus answers."""
    address = house.json("status", "--json")["addresses"]["metrics"]["prometheus"].removesuffix("/metrics")
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{address}/api/v1/query?{query}", timeout=20) as answer:
        found: list[Any] = json.loads(answer.read())["data"]["result"]
        return found


def commands_of(page: str, part: str) -> list[str]:
    """The commands that a part of a runbook page names."""
    text = (CHECKOUT / "docs" / "runbook" / f"{page}.md").read_text()
    return re.findall(r"`prodrome ([^`]+)`", text.split(f"## {part}")[1].split("\n## ")[0])


def test_a_newcomers_hour(house: House, images: Mapping[str, Pixels], tmp_path: Path) -> None:
    """One exam seen through; the score stage stands still; its alert leads to the page, and the page mends it."""
    first, second = exams(images, "newcomer", patients=2)
    assert stored(house.send(write_exam(first, tmp_path / "first").values()))
    seen = house.keys().pseudonymous_uid(study_of(first))
    eventually(lambda: house.predictions_of(seen), "prediction")
    for title, panels in DASHBOARDS.values():
        eventually(lambda q=panels[0].queries[0].expression: ask(house, q), f"data in {title}")

    assert house.prodrome("pause", "score").returncode == 0
    stuck = 'ALERTS{alertname="StagePaused",stage="score"}'
    eventually(lambda: ask(house, stuck), "alert")
    assert stored(house.send(write_exam(second, tmp_path / "second").values()))
    waiting = house.keys().pseudonymous_uid(study_of(second))
    eventually(lambda: house.revisions_of("default", waiting) == [1], "revision")
    assert house.predictions_of(waiting) == []

    said = [house.prodrome(*command.split()) for command in commands_of("StagePaused", "Confirm")]
    assert [done.returncode for done in said] == [0] * len(said)
    assert "score" in said[0].stdout
    (mend,) = commands_of("StagePaused", "Mend")
    assert house.prodrome(*mend.replace("catalog", "score").split()).returncode == 0
    eventually(lambda: house.predictions_of(waiting), "prediction after the mending")
    eventually(lambda: not ask(house, stuck), "end of the alert")
