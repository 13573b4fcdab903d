"""Metrics from one declared list; the only door to prometheus_client.

1. `METRICS` declares every metric: name, kind, help, labels. docs/metrics.md is generated from it.
2. `inc`, `put` and `observe` change one; an undeclared name or label raises, so that a test finds it.
3. `serve` answers `/metrics`, `/live` and `/ready` on loopback (or where the settings say), one endpoint a role.

Labels are bounded: stages, reason words, model names, sources from the settings. Never a UID, an AE title
as received, or anything else out of a dataset or a socket. Further processes of one role are told apart by
the label ``process``, which the first one has not.
"""

import functools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from threading import Thread
from typing import Any, Final, Literal, NamedTuple
from wsgiref.simple_server import WSGIServer

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.samples import Sample

SECONDS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
)


class Metric(NamedTuple):
    """One row of the declared list."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: Sequence[float] = SECONDS


METRICS: Final[tuple[Metric, ...]] = (
    Metric("prodrome_role_ready", "gauge", "1 once the role does its work", ("role",)),
    Metric("prodrome_role_confined", "gauge", "1 if the kernel (Landlock) holds the role to its own folders", ("role",)),
    # receive
    Metric("prodrome_receive_instances_total", "counter", "Instances answered with a success or warning status", ("source",)),
    Metric("prodrome_receive_bytes_total", "counter", "Dataset bytes acknowledged", ("source",)),
    Metric("prodrome_receive_refused_total", "counter", "Instances and associations refused, by reason word; no source: a stranger", ("reason", "source")),
    Metric("prodrome_receive_ack_seconds", "histogram", "Last fragment read to response handed over", ("source",)),
    Metric("prodrome_receive_draining", "gauge", "1 while the door turns new associations away: `prodrome drain`"),
    Metric("prodrome_receive_associations", "gauge", "Associations open now", ("source",)),
    Metric("prodrome_receive_slots", "gauge", "Associations that the door takes at once, of all sources"),
    Metric("prodrome_receive_strangers", "gauge", "Connections that have not said yet who they are"),
    Metric("prodrome_spool_used_ratio", "gauge", "Bytes in the spool over its limit"),
    # relay
    Metric("prodrome_relay_instances_total", "counter", "Instances published to instance.received"),
    Metric("prodrome_relay_segments_freed_total", "counter", "Spool segments whose space was given back"),
    Metric("prodrome_relay_unrelayed_instances", "gauge", "Durable records that the broker has not confirmed yet"),
    Metric("prodrome_relay_reader_requests_total", "counter", "Requests for raw bytes, by HTTP status", ("status",)),
    Metric("prodrome_relay_reader_bytes_total", "counter", "Raw bytes given to readers of other machines"),
    Metric("prodrome_relay_reader_connections", "gauge", "Connections of readers open now"),
    # bridge, lister
    Metric("prodrome_bridge_events_total", "counter", "Events of stores that are done with"),
    Metric("prodrome_bucket_objects_total", "counter", "Objects of buckets by what became of them: taken, known, removed, or a reason word", ("role", "outcome")),
    Metric("prodrome_bridge_members_refused_total", "counter", "Members of archives that are no instances, by reason word", ("reason",)),
    Metric("prodrome_lister_objects", "gauge", "Objects of a source at the last look", ("source",)),
    Metric("prodrome_lister_look_seconds", "gauge", "How long the last look at a source took", ("source",)),
    Metric("prodrome_lister_last_seconds", "gauge", "When the last look at a source ended, seconds since the epoch", ("source",)),
    # every consumer
    Metric("prodrome_stage_instances_total", "counter", "Instances or messages done, by stage and outcome", ("stage", "outcome")),
    Metric("prodrome_stage_seconds", "histogram", "One batch of a stage, taken to durable", ("stage",)),
    Metric("prodrome_stage_slowdowns_total", "counter", "Times a stage waited for a dependency", ("stage",)),
    Metric("prodrome_stage_deadletters_total", "counter", "Dead letters written, by reason word", ("stage", "reason")),
    Metric("prodrome_stage_paused", "gauge", "1 while an operator has paused the stage", ("stage",)),
    Metric("prodrome_deidentify_quarantined_total", "counter", "Instances quarantined, by reason word", ("reason",)),
    Metric("prodrome_catalog_open_studies", "gauge", "Studies that wait to become quiet"),
    Metric("prodrome_catalog_revisions_total", "counter", "Study revisions published"),
    Metric("prodrome_catalog_identity_conflicts_total", "counter", "Revisions of studies that hold two patients"),
    Metric("prodrome_ledger_segments_total", "counter", "Segments marked as free to reuse"),
    Metric("prodrome_score_predictions_total", "counter", "Predictions published, by model and outcome", ("model", "outcome")),
    Metric("prodrome_score_provisional_total", "counter", "Provisional predictions of single images, by model and outcome", ("model", "outcome")),
    Metric("prodrome_score_prepare_seconds", "histogram", "Reading, decoding and preparing the exams of one batch", ("stage",)),
    Metric("prodrome_score_forward_seconds", "histogram", "Forward passes of an exam, the mean over its batch", ("model",)),
    Metric("prodrome_score_met_total", "counter", "Exams by bin of the model's reference population", ("model", "quantity", "bin")),
    Metric("prodrome_score_stability_index", "gauge", "How far the newest 1,000 exams are from the model's reference population: 0.25 is much", ("model", "quantity")),
    Metric("prodrome_score_model_refused", "gauge", "1 where the promoted version of a model could not be loaded and the one before serves on", ("model",)),
    Metric("prodrome_score_quiet_to_prediction_seconds", "histogram", "Revision taken to prediction confirmed", ("model",)),
    # exporter: what no single role can say, least of all while it is down
    Metric("prodrome_exporter_reachable", "gauge", "1 if the part answered at the last look", ("part",)),
    Metric("prodrome_lag_messages", "gauge", "Messages that a group has not finished", ("group", "topic")),
    Metric("prodrome_lag_age_seconds", "gauge", "Age of the oldest message that a group has not finished", ("group", "topic")),
    Metric("prodrome_topic_retention_seconds", "gauge", "How long a topic keeps its messages", ("topic",)),
    Metric("prodrome_balance_intakes", "gauge", "The ledger: acknowledged, each outcome, in_flight", ("outcome",)),
    Metric("prodrome_oldest_unsettled_seconds", "gauge", "Age of the oldest acknowledged intake without an outcome", ("spool",)),
    Metric("prodrome_spool_used_bytes", "gauge", "Bytes that the spool holds", ("spool",)),
    Metric("prodrome_spool_limit_bytes", "gauge", "Bytes at which the spool counts as full", ("spool",)),
    Metric("prodrome_spool_oldest_seconds", "gauge", "Age of the oldest segment that the spool keeps", ("spool",)),
    Metric("prodrome_prediction_runs", "gauge", "Closed revisions by model and how its run ended", ("model", "outcome")),
    Metric("prodrome_program_up", "gauge", "1 if the supervisor says that it runs", ("program",)),
    Metric("prodrome_program_deaths", "gauge", "How often it ended without being told to, since the stack is up", ("program",)),
    Metric("prodrome_program_cpu_seconds", "gauge", "CPU of the program and its workers since they started", ("program",)),
    Metric("prodrome_program_rss_bytes", "gauge", "Memory of the program and its workers", ("program",)),
    Metric("prodrome_program_io_bytes", "gauge", "Bytes read and written, files and sockets, since they started", ("program", "direction")),
    Metric("prodrome_disk_free_ratio", "gauge", "Free share of the disk that a folder is on", ("folder",)),
    Metric("prodrome_clock_skew_seconds", "gauge", "The other's clock minus this machine's", ("part",)),
    Metric("prodrome_certificate_expiry_seconds", "gauge", "Until a certificate in use ends", ("certificate",)),
)  # fmt: skip

registry: Final = CollectorRegistry()


def _make(metric: Metric) -> Any:
    kinds: dict[str, Any] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}
    options = {"buckets": metric.buckets} if metric.kind == "histogram" else {}
    return kinds[metric.kind](metric.name, metric.help, metric.labels, registry=registry, **options)


_BY_NAME: Final[dict[str, Any]] = {metric.name: _make(metric) for metric in METRICS}


@functools.cache  # one entry a series, as the registry has; its own look-up costs ten times as much
def _series(name: str, *labels: tuple[str, str]) -> Any:
    metric = _BY_NAME[name]
    return metric.labels(**dict(labels)) if labels else metric


def inc(name: str, amount: float = 1, **labels: str) -> None:
    """Add to a counter; KeyError if undeclared."""
    _series(name, *labels.items()).inc(amount)


def put(name: str, value: float, **labels: str) -> None:
    """Set a gauge; KeyError if undeclared."""
    _series(name, *labels.items()).set(value)


def observe(name: str, value: float, **labels: str) -> None:
    """Record one value in a histogram, seconds; KeyError if undeclared."""
    _series(name, *labels.items()).observe(value)


class _Samples(msgspec.Struct, array_like=True):
    """What one metric of another process says."""

    family: str
    samples: list[tuple[str, dict[str, str], float]]


_beside: dict[str, list[_Samples]] = {}


def snapshot() -> bytes:
    """Return what this process has measured, for `put_beside` of another one."""
    return msgspec.json.encode(
        [
            _Samples(f.name, [(s.name, s.labels, s.value) for s in f.samples])
            for f in registry.collect()
            if f.samples
        ]
    )


def put_beside(process: str, said: bytes) -> None:
    """Serve what another process of this role has measured, with the label ``process``, until it says more."""
    _beside[process] = msgspec.json.decode(said, type=list[_Samples])


class _Together:
    """This process' metrics and those beside it, a family each."""

    def collect(self) -> Iterator[Any]:
        others: dict[str, list[Sample]] = defaultdict(list)
        for process, families in list(_beside.items()):
            for one in families:
                others[one.family] += (
                    Sample(name, {**labels, "process": process}, value) for name, labels, value in one.samples
                )
        for family in registry.collect():
            family.samples += others[family.name]
            yield family


def serve(port: int, host: str = "127.0.0.1") -> tuple[WSGIServer, Thread]:
    """Serve this process' metrics on `host`:`port` from a thread; port 0 takes a free one.

    ``/live`` answers as long as the process does, ``/ready`` with 503 until the role does its work: for whoever
    starts and stops processes. Every other path gives the metrics.
    """
    server, thread = start_http_server(port, addr=host, registry=_Together())
    server.set_app(_with_probes(server.get_app()))
    return server, thread


def ready() -> bool:
    """Whether every role of this process does its work; False before the first has said so."""
    said = [sample.value for metric in _BY_NAME["prodrome_role_ready"].collect() for sample in metric.samples]
    return bool(said) and all(said)


def _with_probes(metrics: Any) -> Any:
    probes = {"/live": lambda: True, "/ready": ready}

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        probe = probes.get(environ["PATH_INFO"])
        if probe is None:
            return metrics(environ, start_response)
        good = probe()
        start_response("200 OK" if good else "503 Service Unavailable", [("Content-Type", "text/plain")])
        return [b"yes\n" if good else b"no\n"]

    return answer
