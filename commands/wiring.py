"""Wiring: the real adapters, built from settings in one place."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

from infra.cassandra import Tables
from infra.connections import cassandra_of
from infra.objects import Store, open_results, open_store
from infra.settings import Settings, Zone, load
from schemas.errors import ProdromeError


def tables_of(zone: Zone) -> Tables:
    """Return the tables of a zone's keyspace; connects at the first statement."""
    return Tables(cassandra_of(zone), zone.keyspace)


def clean_store(settings: Settings) -> Store:
    """Return the store of clean objects."""
    return open_store(settings.clean, "clean", "clean")


def results_store(settings: Settings) -> Store:
    """Return the store of what scoring keeps."""
    return open_results(settings)


@contextmanager
def opened(zone: Zone) -> Iterator[Tables]:
    """Yield the tables of a zone and end their connections."""
    tables = tables_of(zone)
    try:
        yield tables
    finally:
        tables.close()


@contextmanager
def told() -> Iterator[None]:
    """Turn prodrome's own errors into one line for a person and exit status 1 (or the error's own)."""
    try:
        yield
    except ProdromeError as error:
        fail(str(error), getattr(error, "exit_code", 1))


def fail(text: str, status: int = 1) -> NoReturn:
    """End the command with one line."""
    click.echo(f"prodrome: {text}", err=True)
    raise SystemExit(status)


def settings() -> Settings:
    """Return the settings, or end with the line that says which one is wrong."""
    with told():
        return load()


def on_signals(stop: Callable[[], None]) -> None:
    """Call `stop` on SIGTERM and SIGINT."""
    import signal

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())


def stop_event() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set."""
    event = threading.Event()
    on_signals(event.set)
    return event
