"""Stages on a real Cassandra and a real store, with a producer that keeps what it is given."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from deid_door import Door, Inline
from pydicom.dataset import Dataset
from stage_rig import Outbox

from consumers import deidentify
from infra.cassandra import Tables, migrate
from infra.clock import ManualClock
from infra.connections import CassandraConnection
from infra.demo import VIEWS, make_exams
from infra.objects import Store
from infra.settings import Settings, load


@pytest.fixture(scope="session")
def keyspace(cassandra_at: CassandraConnection) -> tuple[CassandraConnection, str]:
    """Where Cassandra is, and a keyspace with the tables of both zones."""
    name = f"core_{uuid.uuid4().hex[:12]}"
    for zone in ("trusted", "clean"):
        migrate(cassandra_at, name, zone, 1)
    return cassandra_at, name


@pytest.fixture(scope="session")
def tables(keyspace: tuple[CassandraConnection, str]) -> Iterator[Tables]:
    """Tables of that keyspace; tests use studies of their own."""
    found = Tables(*keyspace)
    yield found
    found.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A clean store in a folder."""
    return Store(f"file://{tmp_path}/clean", "clean")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The defaults."""
    return load({"PRODROME_HOME": str(tmp_path)})


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still."""
    return ManualClock()


@pytest.fixture
def outbox() -> Outbox:
    """A producer."""
    return Outbox()


@pytest.fixture
def views() -> list[Dataset]:
    """One patient's four views, small."""
    images = {view: np.full((16, 12), i, np.uint8) for i, view in enumerate(VIEWS)}
    return list(make_exams(images, 1, seed=uuid.uuid4().hex)[0].datasets.values())


@pytest.fixture
def door(tmp_path: Path, tables: Tables, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Door:
    """The stage behind a spool of its own."""
    monkeypatch.setattr(deidentify, "Workers", Inline)
    key = tmp_path / "secrets" / "master.key"
    key.parent.mkdir()
    key.write_text("07" * 32)
    key.chmod(0o600)
    return Door(load({"PRODROME_HOME": str(tmp_path)}), tables, clock)
