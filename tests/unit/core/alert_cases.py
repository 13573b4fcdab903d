"""For each alert: series over 75 minutes, a sample a minute, under which it must fire, and must not.

In promtool's notation: `axN` is a, N+1 times; `a+bxN` grows by b each time.
"""

from typing import Final, NamedTuple

Series = dict[str, str]


class Case(NamedTuple):
    """What makes one alert fire, and what does not."""

    bad: Series
    good: Series


def _level(name: str, bad: float, good: float) -> Case:
    return Case({name: f"{bad}x75"}, {name: f"{good}x75"})


def _growth(name: str) -> Case:
    return Case({name: "0+5x75"}, {name: "7x75"})


def _latency(name: str, limit: str, above: str, labels: str = "") -> Case:
    def buckets(within: str) -> Series:
        series = {limit: within, above: "0+5x75", "+Inf": "0+5x75"}
        return {f'{name}_bucket{{{labels}le="{le}"}}': values for le, values in series.items()}

    return Case(buckets("0x75"), buckets("0+5x75"))


def _done(outcome: str) -> str:
    return f'prodrome_stage_instances_total{{stage="deidentify",outcome="{outcome}"}}'


def _in(outcome: str) -> str:
    return f'prodrome_balance_intakes{{outcome="{outcome}"}}'


def _run(outcome: str) -> str:
    return f'prodrome_prediction_runs{{model="m",outcome="{outcome}"}}'


_SPOOL: Final = {'prodrome_spool_limit_bytes{spool="s"}': "1000000000x75"}
_LAG: Final = 'prodrome_lag_age_seconds{group="g",topic="t"}'
_KEPT: Final = {'prodrome_topic_retention_seconds{topic="t"}': "604800x75"}

CASES: Final[dict[str, Case]] = {
    "SpoolFilling": Case(
        {**_SPOOL, 'prodrome_spool_used_bytes{spool="s"}': "0+8000000x75"},
        {**_SPOOL, 'prodrome_spool_used_bytes{spool="s"}': "900000000x75"},
    ),
    "SpoolHigh": _level("prodrome_spool_used_ratio", 0.8, 0.5),
    "DoorRefuses": Case(
        {'prodrome_receive_refused_total{reason="no_space"}': "0+5x75"},
        {'prodrome_receive_refused_total{reason="draining"}': "0+5x75"},
    ),
    "ListerLate": _level('prodrome_lister_last_seconds{source="s"}', -4000, 4000),
    "SlotsShort": Case(
        {'prodrome_receive_associations{source="a"}': "60x75", "prodrome_receive_slots": "64x75"},
        {'prodrome_receive_associations{source="a"}': "30x75", "prodrome_receive_slots": "64x75"},
    ),
    "AcknowledgementSlow": _latency("prodrome_receive_ack_seconds", "2.5", "5"),
    "DoorDraining": _level("prodrome_receive_draining", 1, 0),
    "IntakeUnsettled": _level('prodrome_oldest_unsettled_seconds{spool="s"}', 1000, 10),
    "LagAgainstRetention": Case({_LAG: "300000x75", **_KEPT}, {_LAG: "100000x75", **_KEPT}),
    "StageBehind": _level(_LAG, 400, 100),
    "StageWaits": _growth('prodrome_stage_slowdowns_total{stage="x"}'),
    "StagePaused": _level('prodrome_stage_paused{stage="x"}', 1, 0),
    "DeadLetters": _growth('prodrome_stage_deadletters_total{stage="x",reason="y"}'),
    "QuarantineRate": Case(
        {_done("quarantined"): "0+5x75", _done("clean"): "0+5x75"},
        {_done("quarantined"): "0+5x75", _done("clean"): "0+45x75"},
    ),
    "UidConflict": _growth(_done("conflict")),
    "IdentityConflict": _growth("prodrome_catalog_identity_conflicts_total"),
    "LedgerUnbalanced": Case({_in("acknowledged"): "10x75", _in("clean"): "9x75"},
                             {_in("acknowledged"): "10x75", _in("clean"): "10x75"}),
    "PredictionsFail": Case({_run("failed"): "1x75", _run("predicted"): "9x75"},
                            {_run("failed"): "1x75", _run("predicted"): "99x75"}),
    "ModelSlow": _latency("prodrome_score_forward_seconds", "30", "60", 'model="m",'),
    "ModelRefused": _level('prodrome_score_model_refused{model="m"}', 1, 0),
    "ModelRefuses": Case(
        {
            'prodrome_score_predictions_total{model="m",outcome="out_of_domain"}': "0+2x75",
            'prodrome_score_predictions_total{model="m",outcome="predicted"}': "0+1x75",
        },
        {
            'prodrome_score_predictions_total{model="m",outcome="out_of_domain"}': "0+1x75",
            'prodrome_score_predictions_total{model="m",outcome="predicted"}': "0+3x75",
        },
    ),
    "ModelDrifts": _level('prodrome_score_stability_index{model="m",quantity="q"}', 0.5, 0.05),
    "RoleDown": Case(
        {'prodrome_role_ready{role="x"}': "1x75", 'prodrome_role_ready{role="y"}': "0x75"},
        {'prodrome_role_ready{role="x"}': "1x75", 'up{job="x"}': "1x75"},
    ),
    "CrashLoop": Case({'prodrome_program_deaths{program="x"}': "0+1x75"}, {'prodrome_program_deaths{program="x"}': "9x75"}),
    "PartUnreachable": _level('prodrome_exporter_reachable{part="x"}', 0, 1),
    "DiskFree": _level('prodrome_disk_free_ratio{folder="x"}', 0.05, 0.5),
    "ClockSkew": _level('prodrome_clock_skew_seconds{part="x"}', -5, 0.1),
    "CertificateExpires": _level('prodrome_certificate_expiry_seconds{certificate="x"}', 3600, 1e8),
}  # fmt: skip
