"""Metrics come from one list: what is not declared raises, and labels are bounded."""

import re
import urllib.request

import pytest

from infra import metrics
from infra.metrics import METRICS

NAME = re.compile(r"prodrome_[a-z]+_[a-z_]+")
ALLOWED = {"role", "source", "reason", "stage", "outcome", "model"}


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
        assert metric.name.endswith("_seconds") == (metric.kind == "histogram")
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
