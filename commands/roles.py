"""The roles: each a process that runs until it is told to stop.

Every role serves its metrics, logs to standard error, and says that it is ready through
`prodrome_role_ready`. All wiring of a role stands in its function.
"""

import logging
import threading
from typing import Any

import click
import setproctitle

from commands.wiring import clean_store, open_spool, settings, stop_event, tables_of, told
from infra import logs, metrics
from infra.clock import SystemClock
from infra.settings import Settings

log = logging.getLogger(__name__)


def _start(role: str) -> Settings:
    found = settings()
    setproctitle.setproctitle(f"prodrome {role}")
    logs.setup(role, found.role.log_level)
    metrics.serve(found.role.metrics_port, found.role.metrics_host)
    metrics.put("prodrome_role_ready", 0, role=role)
    return found


def _ready(role: str) -> None:
    metrics.put("prodrome_role_ready", 1, role=role)


def _run_stage(found: Settings, servers: str, make: Any) -> None:
    from consumers.app import run
    from infra.kafka import Producer, wait_until_ready

    stopping = threading.Event()
    wait_until_ready(servers)
    producer = Producer(servers, stopping)
    stage = make(producer)
    run(stage, servers, producer, stopping, found.role, found.home / "work")


@click.command()
def receive() -> None:
    """Listen for DICOM associations; needs no Kafka and no Cassandra.

    Every instance is in the spool and synced before it is answered with success.
    """
    with told():
        found = _start("receive")

        from infra.settings import sources
        from producers.receiver.server import serve

        spool = open_spool(found)
        try:
            serve(found.receive, sources(found), spool, stop_event(), ready=lambda _: _ready("receive"))
        finally:
            spool.close()


@click.command()
def relay() -> None:
    """Publish what the spool holds, in order, and free what the ledger has settled."""
    with told():
        found = _start("relay")
        from commands.relaying import run_relay

        run_relay(found, stop_event())


@click.command()
@click.option("--lane", type=click.Choice(["live", "bulk"]), default="live", help="Which topic to work on.")
def deidentify(lane: str) -> None:
    """Take instances over the boundary: clean objects, clean events, vault, quarantine."""
    with told():
        found = _start("deidentify" if lane == "live" else "deidentify-bulk")
        from consumers.deidentify import Deidentify

        tables = tables_of(found.trusted)
        _run_stage(
            found,
            found.trusted.kafka,
            lambda producer: Deidentify(found, tables, producer, SystemClock(), lane),
        )


@click.command()
def catalog() -> None:
    """Index clean instances; give quiet studies their revision."""
    with told():
        found = _start("catalog")
        from consumers.catalog import Catalog

        tables, store = tables_of(found.clean), clean_store(found)
        _run_stage(
            found, found.clean.kafka, lambda producer: Catalog(found, tables, store, producer, SystemClock())
        )


@click.command()
def ledger() -> None:
    """Count what became of every intake; say which segments may be freed."""
    with told():
        found = _start("ledger")
        from consumers.ledger import Ledger

        tables = tables_of(found.trusted)
        _run_stage(found, found.trusted.kafka, lambda _: Ledger(found, tables, SystemClock()))


@click.command()
def score() -> None:
    """Keep the models loaded; score what their intake selects."""
    with told():
        found = _start("score")
        from commands.models import load_all
        from consumers.score import Score

        models = load_all(found)
        tables, store = tables_of(found.clean), clean_store(found)
        _run_stage(
            found,
            found.clean.kafka,
            lambda producer: Score(found, tables, store, producer, SystemClock(), models),
        )
