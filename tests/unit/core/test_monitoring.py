"""Alerts, runbook pages and dashboards: complete, current, and each alert fires when it must and not otherwise."""

import json
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest
from alert_cases import CASES, Series

from infra.metrics import METRICS
from infra.monitoring.alerts import ALERTS, RECORDED, Alert
from infra.monitoring.dashboards import DASHBOARDS, document
from infra.monitoring.generate import DEPLOY, files
from infra.monitoring.scrape import RULES, configuration
from prodrome import COMMANDS

RUNBOOK = Path(__file__).parents[3] / "docs" / "runbook"
NAMES = [alert.name for alert in ALERTS]
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it prefers a form that Grafana 11 cannot read
    from grafana_foundation_sdk.models.dashboard import Dashboard

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: make peers"
)


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    """Who is called finds a page of the alert's name, and no page is left over."""
    assert {page.stem for page in RUNBOOK.glob("*.md")} == set(NAMES)
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_what_to_do(name: str) -> None:
    """A page has its parts, names only commands that exist, and links only to pages that do."""
    text = (RUNBOOK / f"{name}.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Confirm", "Mend", "Whom to tell"]
    assert set(re.findall(r"`prodrome ([a-z]+)", text)) <= set(COMMANDS)
    assert all((RUNBOOK / link).exists() for link in re.findall(r"\]\((\w+\.md)\)", text))


@pytest.mark.parametrize("name", sorted(files()))
def test_generated_files_are_current(name: str) -> None:
    """What ships is what the tables say: `make docs`."""
    assert (DEPLOY / name).read_text() == files()[name]


def test_queries_ask_for_declared_metrics() -> None:
    """A name in any query is declared, with the suffixes of its kind, or recorded by a rule."""
    known = set(RECORDED)
    for metric in METRICS:
        suffixes = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        known |= {metric.name + suffix for suffix in suffixes}
    panels = [q.expression for _, some in DASHBOARDS.values() for panel in some for q in panel.queries]
    for query in [*panels, *RECORDED.values(), *(alert.measure for alert in ALERTS)]:
        assert set(re.findall(r"prodrome[\w:]+", query)) <= known, query


@pytest.mark.parametrize("name", sorted(DASHBOARDS))
def test_a_dashboard_is_one_to_grafana(name: str) -> None:
    """Grafana's own types (its foundation SDK) read the document, and write its panels back."""
    made = document(name)
    read = Dashboard.from_json(json.loads(json.dumps(made))).to_json()
    titles = [panel.to_json()["title"] for panel in read["panels"]]
    assert titles == [panel["title"] for panel in made["panels"]]
    assert read["title"] == made["title"]


@promtool
def test_promtool_takes_rules_and_configuration(tmp_path: Path) -> None:
    """The rules as they ship, and the configuration of a stack."""
    for command, text in (
        ("config", configuration({"receive": 1, "score": 2})),
        ("rules", RULES.read_text()),
    ):
        path = tmp_path / command
        path.write_text(text)
        done = subprocess.run(
            ["promtool", "check", command, path], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_each_alert_fires_when_it_must_and_only_then(tmp_path: Path) -> None:
    """By promtool: under its bad series an alert fires before 75 minutes are over, under its good ones never."""
    assert set(CASES) == set(NAMES)
    tests = [
        _case(alert, series, fires)
        for alert in ALERTS
        for series, fires in ((CASES[alert.name].bad, 1), (CASES[alert.name].good, 0))
    ]
    path = tmp_path / "tests.yml"
    path.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _case(alert: Alert, series: Series, fires: int) -> dict[str, object]:
    query = (
        f'count(count by (alertname) (ALERTS{{alertname="{alert.name}",alertstate="firing"}})) or vector(0)'
    )
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": query, "eval_time": "74m", "exp_samples": [{"labels": "{}", "value": fires}]}
        ],
    }
