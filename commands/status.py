"""`prodrome status`: how everything is, as tables or as JSON.

Programs come from the supervisor, lags from Kafka, the balance from the ledger's rows and the spool,
predictions from the runs' rows, refusals from the receiver's own metrics. A part that does
not answer leaves its place empty and is named under `errors`.
"""

import json
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from commands.stack import layout
from commands.wiring import opened, settings
from infra.cassandra import Tables
from infra.connections import kafka_of
from infra.settings import Settings
from infra.spool import readers
from infra.stack.lifecycle import status as programs
from infra.stack.ports import recorded_addresses
from schemas.topics import BY_NAME, TOPICS

#: group -> topics it reads
GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "prodrome-bridge": ("s3.events",),
    "prodrome-deidentify-live": ("instance.received.v1",),
    "prodrome-deidentify-bulk": ("instance.received.bulk.v1",),
    "prodrome-catalog": ("instance.deidentified.v1",),
    "prodrome-ledger": ("instance.settled.v1",),
    "prodrome-score": ("study.revised.v1",),
    "prodrome-score-bulk": ("study.revised.bulk.v1",),
    "prodrome-score-images": ("instance.deidentified.v1",),
}
#: Runs only where it is asked for.
OF_IMAGES: Final = "prodrome-score-images"


def groups_of(found: Settings) -> dict[str, tuple[str, ...]]:
    """Return the groups that a site has: what nobody runs does not lag."""
    return {group: topics for group, topics in GROUPS.items() if group != OF_IMAGES or found.stack.images}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")
def status(as_json: bool) -> None:
    """Show programs, addresses, lags, the balance of every intake, and predictions by model and outcome."""
    found = gather(settings())
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _print(found)


def gather(found: Settings) -> dict[str, Any]:
    """Return the whole status as one JSON-ready value."""
    errors: list[str] = []

    def ask(name: str, question: Callable[[], Any], empty: Any) -> Any:
        try:
            return question()
        except Exception as error:  # whatever is down, the rest is shown
            errors.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
            return empty

    addresses = recorded_addresses(layout(found))
    roles = dict(addresses.metrics) if addresses else {}
    return {
        "home": str(found.home),
        "addresses": {
            "dicom": f"{found.receive.ae_title}@{found.receive.host}:{found.receive.port}",
            "kafka": {"trusted": found.trusted.kafka, "clean": found.clean.kafka},
            "cassandra": {"trusted": found.trusted.cassandra, "clean": found.clean.cassandra},
            "keyspaces": {"trusted": found.trusted.keyspace, "clean": found.clean.keyspace},
            "stores": {"trusted": found.trusted.store, "clean": found.clean.store, "spool": found.spool.path},
            "metrics": {name: f"http://127.0.0.1:{port}/metrics" for name, port in roles.items()},
        },
        "topics": {topic.name: {"zone": topic.zone, "partitions": topic.partitions} for topic in TOPICS},
        "programs": [vars(p) for p in ask("supervisor", lambda: programs(layout(found)), [])],
        "lags": ask("kafka", lambda: lags_by_group(found), {}),
        "balance": ask("ledger", lambda: intakes(found), {}),
        "refused": ask("receive", lambda: _refused(roles["receive"]), {}),
        "predictions": ask("predictions", lambda: predictions(found), {}),
        "deadletters": ask("deadletters", lambda: _deadletters(found), {}),
        "paused": ask("paused", lambda: _paused(found), []),
        "stages": ask("stages", lambda: _stages(roles), {}),
        "errors": errors,
    }


def lags_by_group(found: Settings) -> dict[str, dict[str, int]]:
    """Return the messages that each group has not finished, by topic; raises `SlowDown`."""
    from infra.kafka import lags

    result: dict[str, dict[str, int]] = {}
    for zone in ("trusted", "clean"):
        groups = {
            group: topics for group, topics in groups_of(found).items() if BY_NAME[topics[0]].zone == zone
        }
        for lag in lags(kafka_of(getattr(found, zone)), groups):
            result.setdefault(lag.group, {})[lag.topic] = lag.messages
    return result


def _paused(found: Settings) -> list[str]:
    from commands.control import paused

    return paused(found)


def intakes(found: Settings, tables: Tables | None = None) -> dict[str, int]:
    """Return the balance of intakes, with what this machine's spool holds and has not relayed yet."""
    from consumers.ledger import balance

    kept: dict[tuple[str, int], int] = {}
    for reader in readers(Path(found.spool.path)).values():
        kept |= reader.instances()
    with opened(found.trusted) as own:
        return balance(tables or own, kept)


def predictions(found: Settings, tables: Tables | None = None) -> dict[str, dict[str, int]]:
    """Return how many closed revisions ended how, by model."""
    from consumers.predictions import balance

    with opened(found.clean) as own:
        tables = tables or own
        names = sorted({row.model for row in tables.run("SELECT DISTINCT bucket, model FROM model_runs")})
        return balance(tables, names)


def _deadletters(found: Settings) -> dict[str, dict[str, int]]:
    from commands.deadletters import Wanted, letters

    counted: dict[str, Counter[str]] = {}
    with opened(found.trusted) as tables:
        for letter in letters(found, tables, Wanted(state="open")):
            counted.setdefault(letter.event.stage, Counter())[letter.event.reason] += 1
    return {stage: dict(reasons) for stage, reasons in counted.items()}


def _refused(port: int) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for labels, value in metric_samples(port, "prodrome_receive_refused_total"):
        counted[labels["reason"]] += int(value)
    return {reason: count for reason, count in counted.items() if count}


def _stages(roles: dict[str, int]) -> dict[str, dict[str, float]]:
    """Batches and mean seconds a batch, by stage."""
    found: dict[str, dict[str, float]] = {}
    for port in roles.values():
        counts = {
            labels["stage"]: value for labels, value in metric_samples(port, "prodrome_stage_seconds_count")
        }
        sums = {
            labels["stage"]: value for labels, value in metric_samples(port, "prodrome_stage_seconds_sum")
        }
        for stage, count in counts.items():
            found[stage] = {"batches": count, "mean_seconds": round(sums[stage] / count, 4) if count else 0.0}
    return found


def metric_samples(port: int, name: str) -> list[tuple[dict[str, str], float]]:
    """Return the samples of one metric of the role that serves its metrics on a port: labels and value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer:
        text = answer.read().decode()
    return [
        (dict(sample.labels), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    ]


def _print(found: dict[str, Any]) -> None:
    console = Console()
    table = Table("program", "state", "pid", "up", "restarts", "memory", "CPU", title="Programs")
    for p in found["programs"]:
        table.add_row(
            p["name"], p["state"], str(p["pid"] or ""), f"{p['uptime_seconds']:.0f} s", str(p["restarts"]),
            f"{p['rss_bytes'] / 1e6:.0f} MB", f"{p['cpu_seconds']:.1f} s",
        )  # fmt: skip
    console.print(table)
    for title, values in (
        ("Addresses", _flat(found["addresses"])),
        ("Messages that wait", _flat(found["lags"])),
        ("Balance of intakes", found["balance"]),
        ("Refused at the edge", found["refused"]),
        ("Predictions: revisions by outcome", _flat(found["predictions"])),
        ("Dead letters, open", _flat(found["deadletters"])),
        ("Paused by an operator", dict.fromkeys(found["paused"], "`prodrome resume` lets it go on")),
        ("Stages", _flat(found["stages"])),
    ):
        table = Table(show_header=False, title=title, title_justify="left")
        for name, value in values.items():
            table.add_row(name, str(value))
        if values:
            console.print(table)
    for line in found["errors"]:
        console.print(f"[red]{line}")


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, dict):
            flat |= _flat(inner, f"{prefix}{name} ")
        else:
            flat[prefix + name] = inner
    return flat
