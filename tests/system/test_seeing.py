"""What an operator sees: a real Prometheus over the running system answers every query of rules and panels."""

import copy
import json
import math
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from house import House, eventually, exams, stored, study_of, write, write_exam

from infra.connections import kafka_of
from infra.demo import Exam, Pixels
from infra.kafka import Producer
from infra.monitoring.alerts import ALERTS, RECORDED
from infra.monitoring.dashboards import DASHBOARDS
from infra.monitoring.scrape import RULES
from schemas.codec import Message
from schemas.topics import BY_NAME

pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed: make peers"),
]

QUERIES = sorted(
    {alert.measure for alert in ALERTS}
    | set(RECORDED.values())
    | {query.expression for _, panels in DASHBOARDS.values() for panel in panels for query in panel.queries}
)
#: A label that nobody bounded would sooner or later hold one of these.
UID = re.compile(r"\d+(\.\d+){5,}")


def trouble(house: House, exam: Exam, folder: Path) -> None:
    """Make an instance that is quarantined, one that is refused, and a message that is a dead letter."""
    dataset = copy.deepcopy(exam.datasets["L-CC"])
    dataset.SOPInstanceUID = f"{dataset.SOPInstanceUID}.7"
    dataset.BurnedInAnnotation = "YES"
    assert stored(house.send([write(dataset, folder / "burned.dcm")]))
    assert not stored(house.send([folder / "burned.dcm"], calling="STRANGER"))
    kind = [("ce_type", BY_NAME["instance.settled.v1"].types[0].encode())]
    Producer(kafka_of(house.settings.trusted)).send([Message("instance.settled.v1", b"a key", b"{", kind)])


@pytest.fixture(scope="module")
def ask(
    house: House, images: Mapping[str, Pixels], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], list[Any]]]:
    """Ask the stack's Prometheus, after an exam was scored and one of each kind of trouble was made."""
    (exam,) = exams(images, "seeing")
    folder = tmp_path_factory.mktemp("seeing")
    write_exam(exam, folder)
    assert house.prodrome("send", folder).returncode == 0
    trouble(house, exam, tmp_path_factory.mktemp("trouble"))
    study = house.keys().pseudonymous_uid(study_of(exam))
    eventually(lambda: house.predictions_of(study), "prediction")
    address = house.json("status", "--json")["addresses"]["metrics"]["prometheus"].removesuffix("/metrics")

    def query(expression: str) -> list[Any]:
        where = f"{address}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(where, timeout=20) as answer:
            found: list[Any] = json.loads(answer.read())["data"]["result"]
            return found

    eventually(lambda: query("prodrome:cpu_seconds_per_instance:rate5m"), "second scrape of everything")
    return query


@pytest.mark.parametrize("expression", QUERIES)
def test_every_query_answers(ask: Callable[[str], list[Any]], expression: str) -> None:
    """Each query of each panel, rule and recording answers with at least one series."""
    assert eventually(lambda: ask(expression), f"answer to {expression}", seconds=40)


def test_every_role_is_scraped_and_ready(ask: Callable[[str], list[Any]], house: House) -> None:
    """Prometheus reaches every endpoint that `status` names, and each role says that it is ready."""
    roles = set(house.json("status", "--json")["addresses"]["metrics"]) - {"prometheus"}
    up = {series["metric"]["job"]: float(series["value"][1]) for series in ask("up")}
    assert up == dict.fromkeys(roles, 1.0)
    ready = ask("prodrome_role_ready == 1")
    assert {series["metric"]["role"] for series in ready} >= roles


def test_what_is_seen_agrees_with_the_ledger(ask: Callable[[str], list[Any]], house: House) -> None:
    """The balance that Prometheus holds is the ledger's own."""
    balance = house.balance()
    want = {name: float(count) for name, count in balance.items()}

    def seen() -> bool:
        found = ask("max by (outcome) (prodrome_balance_intakes)")
        return {s["metric"]["outcome"]: float(s["value"][1]) for s in found} == want

    eventually(seen, "equal balance")


def test_costs_are_plausible(ask: Callable[[str], list[Any]]) -> None:
    """CPU and bytes an instance are measured for every program, Kafka and Cassandra among them."""
    cpu = {s["metric"]["program"]: float(s["value"][1]) for s in ask(next(iter(
        name for name in RECORDED if "cpu" in name)))}  # fmt: skip
    assert {"kafka", "cassandra", "deidentify", "receive"} <= set(cpu)
    assert all(math.isfinite(value) and value >= 0 for value in cpu.values())


def test_rules_are_loaded(ask: Callable[[str], list[Any]], house: House) -> None:
    """The running Prometheus has every alert, and none of them has an error."""
    address = house.json("status", "--json")["addresses"]["metrics"]["prometheus"].removesuffix("/metrics")
    with urllib.request.urlopen(f"{address}/api/v1/rules?type=alert", timeout=10) as answer:
        groups = json.loads(answer.read())["data"]["groups"]
    rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert set(rules) == {alert.name for alert in ALERTS}
    assert [name for name, rule in rules.items() if rule.get("lastError")] == []


def test_metrics_are_well_formed_and_bounded(house: House) -> None:
    """promtool finds nothing to say about any role's page, and no label holds a UID."""
    for role, text in house.metrics().items():
        if role == "prometheus":
            continue
        ours = "".join(line for line in text.splitlines(keepends=True) if "prodrome" in line)
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=ours, capture_output=True, text=True, check=False
        )
        assert done.stdout + done.stderr == "", role
        assert not UID.search(re.sub(r"[} ][0-9.e+-]+$", "", text, flags=re.MULTILINE)), role


def test_the_rules_file_is_checked_by_promtool(tmp_path: Path) -> None:
    """promtool takes the rules as they ship."""
    done = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
