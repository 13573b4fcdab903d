"""The alerts: what is measured, from when on it is wrong, and for how long before somebody is called.

`measure` is a query that always answers while the system runs, so that a test can see each one answer; the
rule compares it with `limit`. Each alert has a page docs/runbook/<name>.md, linked from the rule.
"""

from typing import Final, Literal, NamedTuple


class Alert(NamedTuple):
    """One rule.

    `hold` is how long it must hold, as Prometheus writes durations. `summary` may use ``{{ $labels.x }}`` and
    ``{{ $value }}``.
    """

    name: str
    measure: str
    compare: Literal[">", "<", "=="]
    limit: str
    hold: str
    severity: Literal["page", "ticket"]
    summary: str

    @property
    def expression(self) -> str:
        """The rule's expression."""
        return f"({self.measure}) {self.compare} {self.limit}"


_DONE: Final = 'sum(increase(prodrome_stage_instances_total{stage="deidentify"}[1h]))'
_QUARANTINED: Final = (
    'sum(increase(prodrome_stage_instances_total{stage="deidentify",outcome="quarantined"}[1h]))'
)
_CONFLICTS: Final = 'sum(increase(prodrome_stage_instances_total{stage="deidentify",outcome="conflict"}[1h]))'

ALERTS: Final = (
    # the door and the spool
    Alert("SpoolFilling", "prodrome:spool_hours_to_full", "<", "4", "10m", "page",
          "The spool is full in {{ $value | humanize }} h at the present rate; from 85 % on senders are turned away"),
    Alert("SpoolHigh", "max(prodrome_spool_used_ratio)", ">", "0.7", "5m", "page",
          "The spool is {{ $value | humanizePercentage }} full; from 85 % on senders are turned away"),
    Alert("DoorRefuses", 'sum(increase(prodrome_receive_refused_total{reason!="draining"}[15m])) or vector(0)', ">", "5", "0m",
          "ticket", "{{ $value | humanize }} instances or associations were refused at the door in 15 min"),
    Alert("SlotsShort", "sum(prodrome_receive_associations) / sum(prodrome_receive_slots)", ">", "0.9", "5m", "ticket",
          "{{ $value | humanizePercentage }} of the door's associations are in use; above it senders are told to come again"),
    Alert("AcknowledgementSlow", "histogram_quantile(0.99, sum by (le) (rate(prodrome_receive_ack_seconds_bucket[10m])))"
          " or vector(0)", ">", "2.5", "10m", "ticket",
          "One in a hundred instances waits {{ $value | humanize }} s for its acknowledgement: the disk is slow"),
    Alert("DoorDraining", "max(prodrome_receive_draining)", "==", "1", "1h", "ticket",
          "The door has turned new associations away for an hour: was a drain forgotten?"),
    # on its way
    Alert("IntakeUnsettled", "max(prodrome_oldest_unsettled_seconds)", ">", "900", "5m", "page",
          "An acknowledged instance has waited {{ $value | humanizeDuration }} without an outcome"),
    Alert("LagAgainstRetention", "max by (group, topic) (prodrome_lag_age_seconds)"
          " / on (topic) group_left max by (topic) (prodrome_topic_retention_seconds)", ">", "0.25", "5m", "page",
          "{{ $labels.group }} is {{ $value | humanizePercentage }} of {{ $labels.topic }}'s retention behind:"
          " at 100 % messages are lost"),
    Alert("StageBehind", "max by (group, topic) (prodrome_lag_age_seconds)", ">", "300", "10m", "ticket",
          "{{ $labels.group }} is {{ $value | humanizeDuration }} behind on {{ $labels.topic }}"),
    Alert("StageWaits", "sum by (stage) (increase(prodrome_stage_slowdowns_total[10m])) or vector(0)", ">", "20", "10m", "ticket",
          "Stage {{ $labels.stage }} waits for a dependency again and again"),
    Alert("StagePaused", "max by (stage) (prodrome_stage_paused)", "==", "1", "1h", "ticket",
          "Stage {{ $labels.stage }} has been paused by an operator for an hour: was it forgotten?"),
    Alert("ListerLate", "(time() - max by (source) (prodrome_lister_last_seconds)) or vector(0)", ">", "3600", "10m", "ticket",
          "The objects of {{ $labels.source }} were last listed {{ $value | humanizeDuration }} ago: what events lost is not found"),
    # what ended badly
    Alert("DeadLetters", "sum by (stage) (increase(prodrome_stage_deadletters_total[1h])) or vector(0)", ">", "0", "0m", "ticket",
          "Stage {{ $labels.stage }} wrote {{ $value | humanize }} dead letters within an hour"),
    Alert("QuarantineRate", f"({_QUARANTINED} or vector(0)) / clamp_min({_DONE}, 1)",
          ">", "0.3", "30m", "ticket", "{{ $value | humanizePercentage }} of what came within an hour went into quarantine"),
    Alert("UidConflict", f"{_CONFLICTS} or vector(0)", ">", "0", "0m", "ticket",
          "{{ $value | humanize }} instances came with a known SOP Instance UID and other pixels"),
    Alert("IdentityConflict", "sum(increase(prodrome_catalog_identity_conflicts_total[1h])) or vector(0)", ">", "0", "0m", "ticket",
          "A study holds instances of two patients: it is indexed and not scored"),
    Alert("LedgerUnbalanced", 'abs(sum(prodrome_balance_intakes{outcome="acknowledged"})'
          ' - sum(prodrome_balance_intakes{outcome!="acknowledged"}))', ">", "0", "10m", "page",
          "The ledger does not add up by {{ $value }} intakes"),
    # models
    Alert("PredictionsFail", "sum by (model) (prodrome_prediction_runs{outcome=\"failed\"})"
          " / clamp_min(sum by (model) (prodrome_prediction_runs), 1) or vector(0)", ">", "0.05", "30m", "ticket",
          "{{ $value | humanizePercentage }} of the runs of {{ $labels.model }} failed"),
    Alert("ModelSlow", "histogram_quantile(0.99, sum by (le, model) (rate(prodrome_score_forward_seconds_bucket[10m])))"
          " or vector(0)", ">", "30", "10m", "ticket",
          "The forward passes of one in a hundred exams of {{ $labels.model }} take {{ $value | humanizeDuration }}"),
    Alert("ModelRefused", "max by (model) (prodrome_score_model_refused) or vector(0)", ">", "0", "0m", "ticket",
          "The promoted version of {{ $labels.model }} could not be loaded; the one before serves on"),
    Alert("ModelRefuses", 'sum by (model) (increase(prodrome_score_predictions_total{outcome="out_of_domain"}[6h]))'
          " / clamp_min(sum by (model) (increase(prodrome_score_predictions_total[6h])), 10) or vector(0)", ">", "0.5", "30m",
          "ticket", "{{ $value | humanizePercentage }} of the exams of {{ $labels.model }} within six hours were out of domain"),
    Alert("ModelDrifts", "max by (model, quantity) (prodrome_score_stability_index) or vector(0)", ">", "0.25", "1h", "ticket",
          "{{ $labels.model }} meets others than it was made for: stability index of {{ $labels.quantity }} {{ $value | humanize }}"),
    # the machine and the parts
    Alert("RoleDown", "min by (role) (prodrome_role_ready) or min by (job) (up)", "<", "1", "2m", "page",
          "{{ $labels.role }}{{ $labels.job }} is not ready or does not answer"),
    Alert("CrashLoop", "max by (program) (max_over_time(prodrome_program_deaths[15m]) - min_over_time(prodrome_program_deaths[15m]))",
          ">", "2", "0m", "page", "{{ $labels.program }} died {{ $value }} times in 15 min"),
    Alert("PartUnreachable", "min by (part) (prodrome_exporter_reachable)", "<", "1", "3m", "page",
          "{{ $labels.part }} does not answer"),
    Alert("DiskFree", "min by (folder) (prodrome_disk_free_ratio)", "<", "0.1", "10m", "page",
          "{{ $value | humanizePercentage }} of the disk of {{ $labels.folder }} are free"),
    Alert("ClockSkew", "max by (part) (abs(prodrome_clock_skew_seconds))", ">", "2", "5m", "ticket",
          "This machine's clock and that of {{ $labels.part }} differ by {{ $value | humanizeDuration }}"),
    Alert("CertificateExpires", "min by (certificate) (prodrome_certificate_expiry_seconds) or vector(1e9)", "<", "1209600", "1h",
          "ticket", "The certificate {{ $labels.certificate }} ends in {{ $value | humanizeDuration }}"),
)  # fmt: skip

#: What is computed once and used by rules and panels: name -> query.
RECORDED: Final = {
    # of the spool that is full first; from the bytes that it has grown by in the last half hour; one that does not grow is never full
    "prodrome:spool_hours_to_full": (
        "min((max by (spool) (prodrome_spool_limit_bytes) - max by (spool) (prodrome_spool_used_bytes)) / 3600"
        " / clamp_min(deriv(max by (spool) (prodrome_spool_used_bytes)[30m:30s]), 1))"
    ),
    "prodrome:instances:rate5m": 'sum(rate(prodrome_stage_instances_total{stage="deidentify"}[5m]))',
    # every instance costs each program so many CPU seconds
    "prodrome:cpu_seconds_per_instance:rate5m": (
        "sum by (program) (rate(prodrome_program_cpu_seconds[5m]))"
        " / on () group_left clamp_min(prodrome:instances:rate5m, 0.001)"
    ),
    "prodrome:io_bytes_per_instance:rate5m": (
        "sum by (program, direction) (rate(prodrome_program_io_bytes[5m]))"
        " / on () group_left clamp_min(prodrome:instances:rate5m, 0.001)"
    ),
}
