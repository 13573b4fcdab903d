"""The roles: each a process that runs until it is told to stop.

Every role serves its metrics, logs to standard error, and says that it is ready through
`prodrome_role_ready`. All wiring of a role stands in its function.
"""

import logging
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import setproctitle

from commands.wiring import clean_store, results_store, settings, stop_event, tables_of, told
from infra import logs, metrics
from infra.cassandra import Tables
from infra.clock import SystemClock
from infra.confine import enter
from infra.connections import KafkaConnection, kafka_of
from infra.settings import Settings, Zone
from schemas.errors import SettingsError

log = logging.getLogger(__name__)


def _start(role: str, principal: str | None = None, *, confine: bool = True) -> Settings:
    found = settings()
    setproctitle.setproctitle(f"prodrome {role}")
    logs.setup(role, found.role.log_level)
    confined = confine and enter(found, principal or role)  # before anything starts a thread
    metrics.serve(found.role.metrics_port, found.role.metrics_host)
    metrics.put("prodrome_role_confined", confined, role=role)
    metrics.put("prodrome_role_ready", 0, role=role)
    return found


def _ready(role: str) -> None:
    metrics.put("prodrome_role_ready", 1, role=role)


def _run_stage(found: Settings, zone: Zone, make: Any) -> None:
    from consumers.app import run
    from infra.control import Paused
    from infra.kafka import Producer, wait_until_ready

    stopping = threading.Event()
    kafka = kafka_of(zone)
    wait_until_ready(kafka)
    producer = Producer(kafka, stopping)
    stage = make(producer)
    paused = Paused(tables_of(zone), stage.name, SystemClock())
    run(stage, kafka, producer, stopping, found.role, Path(tempfile.gettempdir()), paused)


@click.command()
@click.option("--port", type=int, help="TCP port; PRODROME_RECEIVE_PORT otherwise.")
@click.option(
    "--spool", "folder", type=click.Path(path_type=Path), help="Its folder; PRODROME_SPOOL_PATH otherwise."
)
@click.option("--aet", help="Our AE title; PRODROME_RECEIVE_AE_TITLE otherwise.")
@click.option(
    "--processes",
    type=int,
    help="Listener processes, 0 for one a core; PRODROME_RECEIVE_PROCESSES otherwise.",
)
def receive(port: int | None, folder: Path | None, aet: str | None, processes: int | None) -> None:
    """Listen for DICOM associations; needs no Kafka, no Cassandra and no stack.

    Every instance is in the spool and synced before it is answered with success. What was received alone is relayed
    by `prodrome relay` with the same PRODROME_SPOOL_PATH, now or when the rest is up again; `prodrome spool` reads it.
    """
    given = {
        "RECEIVE_PORT": port,
        "SPOOL_PATH": folder and folder.absolute(),
        "RECEIVE_AE_TITLE": aet,
        "RECEIVE_PROCESSES": processes,
    }
    if folder:
        folder.mkdir(
            mode=0o700, parents=True, exist_ok=True
        )  # the role's own process may not, beyond its home
    os.environ.update({f"PRODROME_{name}": str(value) for name, value in given.items() if value is not None})
    with told():
        found = _start("receive")

        from producers.receiver import serve_all

        serve_all(found, stop_event(), ready=lambda _: _ready("receive"))


@click.command()
def relay() -> None:
    """Publish what the spool holds, in order, and free what the ledger has settled.

    With PRODROME_READER_PORT it also gives raw bytes to deidentify roles that cannot see the spool's folder.
    """
    with told():
        found = _start("relay")
        from infra.control import Paused
        from infra.kafka import Producer
        from infra.spool.server import serving
        from producers.relay import relay as publish

        stop = stop_event()
        folder = Path(found.spool.path)
        freeable = Freeable(tables_of(found.trusted))
        producer = Producer(kafka_of(found.trusted), stop)
        with serving(found.reader, folder):
            _ready("relay")
            publish(
                folder,
                producer,
                stop,
                poll_seconds=found.relay.poll_seconds,
                pace_seconds=found.relay.pace_seconds,
                large_bytes=found.relay.large_bytes,
                freeable=freeable,
                paused=Paused(tables_of(found.trusted), "relay", SystemClock()),
            )


def taking_of(
    found: Settings, role: str, producer: Any, stop: threading.Event
) -> tuple[Any, Any, Tables, Any]:
    """Return the client of the buckets, their sources, the trusted tables, and what takes objects in."""
    from infra.buckets import Buckets
    from infra.connections import buckets_of
    from infra.settings import sources
    from producers.bridge.take import Taking

    read = tuple(source for source in sources(found) if source.bucket)
    if not read:
        raise SettingsError("PRODROME_RECEIVE_SOURCES: expected a [[source]] with a bucket, came none")
    tables, buckets = (
        tables_of(found.trusted),
        Buckets(buckets_of(found.buckets), etag_md5=found.buckets.etag_md5),
    )
    taking = Taking(
        role,
        buckets,
        tables,
        producer,
        read,
        SystemClock(),
        stop,
        large_bytes=found.relay.large_bytes,
        limit_bytes=found.bridge.max_object_bytes,
        requests=found.bridge.requests,
    )
    return buckets, read, tables, taking


@click.command()
def bridge() -> None:
    """Take in what lands in buckets, as their events say it: PRODROME_BRIDGE_EVENTS.

    The store is asked for every object before anything is done; only buckets and prefixes of [[source]] tables are
    asked for, at the endpoint of the settings. What events have lost, `prodrome lister` finds.
    """
    with told():
        found = _start("bridge")
        from infra.control import Paused
        from infra.kafka import Producer, wait_until_ready
        from producers.bridge.bridge import Bridge, run_all
        from producers.bridge.sources import event_source

        if not found.bridge.events:
            raise SettingsError("PRODROME_BRIDGE_EVENTS: expected kafka:<topic> or sqs:<URL>, came none")
        stop, kafka = stop_event(), kafka_of(found.trusted)
        wait_until_ready(kafka)
        producer = Producer(kafka, stop)
        bridges = []
        for text in found.bridge.events:
            _, _, tables, taking = taking_of(found, "bridge", producer, stop)
            paused = Paused(tables, "bridge", SystemClock())
            bridges.append(Bridge(event_source(text, found), taking, producer, paused))
        _ready("bridge")
        run_all(bridges, stop)


@click.command()
def lister() -> None:
    """Look at buckets again and again, and take in what their events have lost.

    A look costs a request a thousand objects, every PRODROME_LISTER_INTERVAL_SECONDS.
    """
    with told():
        found = _start("lister")
        from infra.control import Paused
        from infra.kafka import Producer, wait_until_ready
        from producers.lister import Lister, run

        stop, kafka, clock = stop_event(), kafka_of(found.trusted), SystemClock()
        wait_until_ready(kafka)
        buckets, read, tables, taking = taking_of(found, "lister", Producer(kafka, stop), stop)
        looking = Lister(buckets, tables, taking, clock, found.lister.young_seconds, stop)
        _ready("lister")
        paused = Paused(tables, "lister", clock)
        run(looking, read, stop, clock, found.lister.interval_seconds, paused)
        taking.close()


@click.command()
def gateway() -> None:
    """Run the S3 gateway of this home over a folder, for `prodrome up --s3`; loopback."""
    from commands.stack import layout
    from infra.stack.gateway import become
    from infra.stack.ports import recorded_addresses

    with told():
        found = settings()
        addresses = recorded_addresses(layout(found))
        if addresses is None:
            raise SettingsError("the stack has no addresses yet: `prodrome up --s3`")
        become(layout(found), addresses)


class Freeable:
    """What the ledger allows the relay to free: the segments of a spool that are marked so in its epoch."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def __call__(self, spool: str, epoch: str | None, first: int) -> list[int]:
        """Return segment numbers from `first` on; raises `SlowDown` while Cassandra is down, which frees nothing."""
        query = "SELECT segment, freeable, epoch FROM ledger_segments WHERE spool = ? AND segment >= ?"
        rows = self._tables.stream(query, (spool, first))
        return [row.segment for row in rows if row.freeable and row.epoch == epoch]


def _zones(found: Settings, trusted: Any) -> Any:
    from infra.kafka import Producer, Zones

    clean = kafka_of(found.clean)
    one = clean == kafka_of(found.trusted)
    return Zones(trusted, trusted if one else Producer(clean, trusted.stopping))


class LiveLag:
    """Whether the live lane has had messages waiting for over a second: then the bulk lane stands aside."""

    def __init__(self, kafka: KafkaConnection, group: str) -> None:
        self._kafka, self._group = kafka, group
        self._since: float | None = None

    def __call__(self) -> bool:
        """Ask Kafka; raises `SlowDown` while it does not answer."""
        from commands.status import GROUPS
        from infra.kafka import lags

        waiting = lags(self._kafka, {self._group: GROUPS[self._group]})[0].messages
        now = SystemClock().monotonic()
        self._since = None if waiting == 0 else self._since or now
        return self._since is not None and now - self._since > 1.0


def _yielding(zone: Zone, live_group: str, lane: str) -> Callable[[], bool]:
    return LiveLag(kafka_of(zone), live_group) if lane == "bulk" else lambda: False


_lane = click.option(
    "--lane", type=click.Choice(["live", "bulk"]), default="live", help="Which topic to work on."
)


@click.command()
@_lane
def deidentify(lane: str) -> None:
    """Take instances over the boundary: clean objects, clean events, vault, quarantine."""
    with told():
        found = _start("deidentify" if lane == "live" else "deidentify-bulk", "deidentify")
        from consumers.deidentify import Deidentify

        tables = tables_of(found.trusted)
        must_yield = _yielding(found.trusted, "prodrome-deidentify-live", lane)
        _run_stage(
            found,
            found.trusted,
            lambda producer: Deidentify(
                found, tables, _zones(found, producer), SystemClock(), lane, must_yield
            ),
        )


@click.command()
def catalog() -> None:
    """Index clean instances; give quiet studies their revision."""
    with told():
        found = _start("catalog")
        from consumers.catalog import Catalog

        tables, store = tables_of(found.clean), clean_store(found)
        _run_stage(
            found,
            found.clean,
            lambda producer: Catalog(found, tables, store, producer, SystemClock()),
        )


@click.command()
def ledger() -> None:
    """Count what became of every intake; say which segments may be freed."""
    with told():
        found = _start("ledger")
        from consumers.ledger import Ledger

        tables = tables_of(found.trusted)
        _run_stage(found, found.trusted, lambda _: Ledger(found, tables, SystemClock()))


@click.command()
def exporter() -> None:
    """Export what no single role can say: lags and their age, the balance, programs, disks, clocks."""
    with told():
        found = _start("exporter", confine=False)  # it looks at the other processes
        from commands.exporter import Exporter

        watching = Exporter(found)
        watching.look()
        _ready("exporter")
        watching.run(stop_event())


@click.command()
def prometheus() -> None:
    """Run the installed Prometheus over this home's roles, with the alert rules; loopback, a week of history."""
    with told():
        from commands.prometheus import run

        run(settings())


@click.command()
@click.option("--lane", type=click.Choice(["live", "bulk", "images"]), default="live",
              help="live and bulk: studies; images: single images as they come.")  # fmt: skip
def score(lane: str) -> None:
    """Keep the models loaded; score what their intake selects.

    The lane `images` is for models that look at one image at a time: it answers before a study is complete.
    """
    with told():
        found = _start("score" if lane == "live" else f"score-{lane}", "score")
        from consumers.preparing import Preparing
        from consumers.score import Score
        from consumers.screen import Screen
        from consumers.serving import Resident

        tables, store, clock = tables_of(found.clean), clean_store(found), SystemClock()
        results = results_store(found)
        serving = Resident(found, tables, results, clock)
        preparing = Preparing(found, lane)
        if lane == "images":
            return _run_stage(
                found,
                found.clean,
                lambda producer: Screen(found, tables, producer, clock, serving, preparing),
            )
        must_yield = _yielding(found.clean, "prodrome-score", lane)
        return _run_stage(
            found,
            found.clean,
            lambda producer: Score(
                found, tables, store, producer, clock, serving, preparing, lane, must_yield, results
            ),
        )
