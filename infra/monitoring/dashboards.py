"""The dashboards, as tables of panels; `document` makes the JSON that Grafana's provisioning reads.

Panels ask only for declared metrics, and every query is seen to answer in a test. They were checked against
Grafana's schema and a real Prometheus, not drawn in a Grafana.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

#: Grafana's grid has 24 columns; two panels a row.
_WIDTH: Final = 12
_HEIGHT: Final = 8
#: The schema of Grafana 10 and later; they read it and migrate it upwards.
SCHEMA_VERSION: Final = 39
_SOURCE: Final = {"type": "prometheus", "uid": "prodrome"}


class Query(NamedTuple):
    """One line of a panel: PromQL, and how it is called."""

    expression: str
    legend: str = ""


class Panel(NamedTuple):
    """One picture: `unit` is a unit id of Grafana."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    description: str = ""


def _p(title: str, unit: str, *queries: tuple[str, str], about: str = "") -> Panel:
    return Panel(title, unit, tuple(Query(*query) for query in queries), about)


def _quantiles(name: str, by: str = "", legend: str = "") -> tuple[tuple[str, str], ...]:
    labels = f"le, {by}" if by else "le"
    return tuple(
        (
            f"histogram_quantile({q}, sum by ({labels}) (rate({name}_bucket[5m])))",
            f"p{q * 100:.0f} {legend}".strip(),
        )
        for q in (0.5, 0.99)
    )


INGEST: Final = (
    _p("Instances acknowledged, by source", "reqps",
       ("sum by (source) (rate(prodrome_receive_instances_total[5m]))", "{{source}}")),
    _p("Bytes acknowledged, by source", "Bps", ("sum by (source) (rate(prodrome_receive_bytes_total[5m]))", "{{source}}")),
    _p("Time to acknowledge", "s", *_quantiles("prodrome_receive_ack_seconds"),
       about="From the last fragment read to the answer: the instance is synced before."),
    _p("Refused at the door, by reason", "short", ("sum by (reason) (increase(prodrome_receive_refused_total[5m]))", "{{reason}}")),
    _p("Refused at the door, by source", "short",
       ("sum by (source) (increase(prodrome_receive_refused_total[5m]))", "{{source}}"), about="No name: strangers."),
    _p("Associations open, by source", "short", ("sum by (source) (prodrome_receive_associations)", "{{source}}"),
       ("sum(prodrome_receive_slots)", "slots"), ("sum(prodrome_receive_strangers)", "strangers"),
       ("max(prodrome_receive_draining)", "draining")),
    _p("Spool", "percentunit", ("max(prodrome_spool_used_ratio)", "used"),
       about="From 85 % new associations are told to come again, from 95 % instances are."),
    _p("Spool: age of what it keeps", "s", ("max(prodrome_spool_oldest_seconds)", "oldest segment")),
    _p("Spool: hours to full", "h", ("prodrome:spool_hours_to_full", "at the present rate")),
    _p("Not relayed yet", "short", ("max(prodrome_relay_unrelayed_instances)", "instances")),
    _p("Objects of buckets, by what became of them", "reqps",
       ("sum by (outcome) (rate(prodrome_bucket_objects_total[5m])) or vector(0)", "{{outcome}}")),
    _p("Buckets: since they were last listed", "s",
       ("(time() - max by (source) (prodrome_lister_last_seconds)) or vector(0)", "{{source}}")),
    _p("Relayed, and segments freed", "short", ("sum(increase(prodrome_relay_instances_total[5m]))", "instances"),
       ("sum(increase(prodrome_relay_segments_freed_total[5m]))", "segments")),
)  # fmt: skip

DEIDENTIFICATION: Final = (
    _p("Outcomes of intakes", "reqps",
       ('sum by (outcome) (rate(prodrome_stage_instances_total{stage="deidentify"}[5m]))', "{{outcome}}")),
    _p("Quarantined, by reason", "short", ("sum by (reason) (increase(prodrome_deidentify_quarantined_total[15m]))", "{{reason}}")),
    _p("Time of a batch", "s", *_quantiles("prodrome_stage_seconds", "stage", "{{stage}}")),
    _p("Dead letters, by stage and reason", "short",
       ("sum by (stage, reason) (increase(prodrome_stage_deadletters_total[1h]))", "{{stage}} {{reason}}")),
    _p("Balance of intakes (ledger)", "short", ("max by (outcome) (prodrome_balance_intakes)", "{{outcome}}"),
       about="Exact, from the ledger's rows: acknowledged is the sum of all others."),
    _p("Oldest intake without an outcome", "s", ("max(prodrome_oldest_unsettled_seconds)", "oldest")),
)  # fmt: skip

STUDIES: Final = (
    _p("Revisions published", "short", ("sum(increase(prodrome_catalog_revisions_total[15m]))", "in 15 min")),
    _p("Studies that wait to become quiet", "short", ("max(prodrome_catalog_open_studies)", "open")),
    _p("Predictions, by model and outcome", "short",
       ("sum by (model, outcome) (increase(prodrome_score_predictions_total[15m]))", "{{model}} {{outcome}}")),
    _p("Runs of each model (rows)", "short", ("max by (model, outcome) (prodrome_prediction_runs)", "{{model}} {{outcome}}")),
    _p("Revision taken to prediction", "s", *_quantiles("prodrome_score_quiet_to_prediction_seconds", "model", "{{model}}")),
    _p("Preparing a batch", "s", *_quantiles("prodrome_score_prepare_seconds", "stage", "{{stage}}")),
    _p("Forward passes of an exam", "s", *_quantiles("prodrome_score_forward_seconds", "model", "{{model}}")),
    _p("Out of domain within six hours", "percentunit",
       ('sum by (model) (increase(prodrome_score_predictions_total{outcome="out_of_domain"}[6h]))'
        " / clamp_min(sum by (model) (increase(prodrome_score_predictions_total[6h])), 1)", "{{model}}")),
    _p("Distance from the reference population", "short",
       ("max by (model, quantity) (prodrome_score_stability_index)", "{{model}} {{quantity}}"),
       about="Population stability index of the newest 1,000 exams: below 0.1 nothing has moved, above 0.25 much has."),
    _p("Exams by bin of the reference population", "short",
       ("sum by (model, quantity, bin) (increase(prodrome_score_met_total[1d]))", "{{model}} {{quantity}} {{bin}}")),
    _p("Promoted versions that could not be loaded", "short", ("max by (model) (prodrome_score_model_refused)", "{{model}}")),
    _p("Conflicts within an hour", "short",
       ('sum(increase(prodrome_stage_instances_total{stage="deidentify",outcome="conflict"}[1h])) or vector(0)', "UID"),
       ("sum(increase(prodrome_catalog_identity_conflicts_total[1h])) or vector(0)", "identity")),
)  # fmt: skip

SYSTEM: Final = (
    _p("Roles ready", "short", ("min by (role) (prodrome_role_ready)", "{{role}}")),
    _p("Parts reachable", "short", ("min by (part) (prodrome_exporter_reachable)", "{{part}}")),
    _p("Messages that wait", "short", ("max by (group, topic) (prodrome_lag_messages)", "{{group}} {{topic}}")),
    _p("Age of the oldest message that waits", "s", ("max by (group, topic) (prodrome_lag_age_seconds)", "{{group}} {{topic}}")),
    _p("CPU an instance", "s", ("prodrome:cpu_seconds_per_instance:rate5m", "{{program}}"),
       about="CPU seconds of each program and its workers over instances de-identified."),
    _p("Bytes an instance", "bytes", ("prodrome:io_bytes_per_instance:rate5m", "{{program}} {{direction}}"),
       about="Bytes that each program read and wrote (files and sockets) over instances de-identified."),
    _p("CPU", "percentunit", ("sum by (program) (rate(prodrome_program_cpu_seconds[5m]))", "{{program}}")),
    _p("Memory", "bytes", ("max by (program) (prodrome_program_rss_bytes)", "{{program}}")),
    _p("Deaths since the start", "short", ("max by (program) (prodrome_program_deaths)", "{{program}}")),
    _p("Times a stage waited for a dependency", "short",
       ("sum by (stage) (increase(prodrome_stage_slowdowns_total[5m])) or vector(0)", "{{stage}}")),
    _p("Paused stages", "short", ("max by (stage) (prodrome_stage_paused)", "{{stage}}")),
    _p("Disk free", "percentunit", ("min by (folder) (prodrome_disk_free_ratio)", "{{folder}}")),
    _p("Clock against others", "s", ("max by (part) (prodrome_clock_skew_seconds)", "{{part}}")),
    _p("Certificates end in", "s", ("min by (certificate) (prodrome_certificate_expiry_seconds) or vector(1e9)", "{{certificate}}")),
    _p("Alerts that fire", "short", ('count(ALERTS{alertstate="firing"}) or vector(0)', "firing")),
)  # fmt: skip

#: file name -> (title, panels)
DASHBOARDS: Final[dict[str, tuple[str, Sequence[Panel]]]] = {
    "ingest": ("prodrome: ingest", INGEST),
    "deidentification": ("prodrome: de-identification and quarantine", DEIDENTIFICATION),
    "studies": ("prodrome: studies and predictions", STUDIES),
    "system": ("prodrome: system", SYSTEM),
}


def document(name: str) -> dict[str, Any]:
    """Return one dashboard as Grafana's provisioning reads it."""
    title, panels = DASHBOARDS[name]
    return {
        "uid": f"prodrome-{name}",
        "title": title,
        "tags": ["prodrome"],
        "schemaVersion": SCHEMA_VERSION,
        "timezone": "browser",
        "refresh": "10s",
        "editable": True,
        "time": {"from": "now-1h", "to": "now"},
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": number % 2 * _WIDTH, "y": number // 2 * _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "expr": query.expression, "legendFormat": query.legend, "datasource": _SOURCE}
            for at, query in enumerate(panel.queries)
        ],
    }  # fmt: skip
