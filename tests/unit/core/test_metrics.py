"""Metrics come from one list: what is not declared raises, and labels are bounded."""

import re
import urllib.error
import urllib.request

import pytest

from infra import metrics
from infra.metrics import METRICS

NAME = re.compile(r"prodrome_[a-z]+_[a-z_]+")
ALLOWED = {
    "role",
    "source",
    "quantity",
    "reason",
    "stage",
    "outcome",
    "model",
    "status",
    "part",
    "group",
    "topic",
    "spool",
    "program",
    "direction",
    "folder",
    "bin",
    "certificate",
}


def test_an_undeclared_name_raises() -> None:
    """A typo is found by the first test that runs the line."""
    for change in (metrics.inc, metrics.put, metrics.observe):
        with pytest.raises(KeyError):
            change("prodrome_stage_nonsense_total", 1)


def test_an_undeclared_label_raises() -> None:
    """Labels are part of the declaration."""
    with pytest.raises(ValueError, match="label"):
        metrics.inc("prodrome_receive_refused_total", patient="x")
    with pytest.raises(ValueError, match="label"):
        metrics.inc("prodrome_receive_refused_total")


def test_names_and_labels_are_of_the_form_that_is_promised() -> None:
    """`prodrome_<stage>_<what>_<unit>`, counters end in total, and no label could hold a UID."""
    assert len({m.name for m in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert NAME.fullmatch(metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.name.endswith("_seconds") or metric.kind != "histogram"
        assert set(metric.labels) <= ALLOWED


def test_what_is_counted_is_served() -> None:
    """One endpoint a role, in the text format of Prometheus."""
    metrics.inc("prodrome_relay_instances_total", 3)
    server, thread = metrics.serve(0)
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as answer:
        text = answer.read().decode()
    server.shutdown()
    thread.join()
    server.server_close()
    assert "prodrome_relay_instances_total " in text


def test_probes_tell_a_process_from_one_that_works() -> None:
    """Alive from the beginning; ready once every role of the process has said so, and no longer."""
    metrics._BY_NAME["prodrome_role_ready"].clear()  # what other tests have said
    server, thread = metrics.serve(0)
    seen = []
    for roles in ({}, {"probed": 0}, {"probed": 1}, {"probed": 1, "other": 0}):
        for role, value in roles.items():
            metrics.put("prodrome_role_ready", value, role=role)
        seen.append((_status(server.server_port, "live"), _status(server.server_port, "ready")))
    metrics.put("prodrome_role_ready", 1, role="other")
    assert seen == [(200, 503), (200, 503), (200, 200), (200, 503)]
    assert _status(server.server_port, "ready") == 200
    server.shutdown()
    thread.join()
    server.server_close()


def _status(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}") as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
