"""What the chaos tests share: their scale and seed, and rigs on the session's real parts."""

import os
import random
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disks import MEGABYTE, SmallParts, small_disk
from house import House
from line import Inline, Line
from scale import SCALE
from sender import Ledger
from trial import Trial

from consumers import deidentify
from infra.cassandra import Tables, migrate
from infra.connections import CassandraConnection
from infra.stack.layout import Layout
from infra.stack.lifecycle import down, up

#: Of one test at full count.
LONG_SECONDS = 6 * 3600
SEED = os.environ.get("PRODROME_CHAOS_SEED", "") or uuid.uuid4().hex[:8]


def pytest_report_header() -> str:
    """Say what would repeat this run."""
    return f"chaos: PRODROME_CHAOS_SCALE={SCALE:g} PRODROME_CHAOS_SEED={SEED}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All that lies here is `chaos`, and may take its time where it is more than the short form."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("chaos")
            if SCALE:
                item.add_marker(pytest.mark.timeout(LONG_SECONDS), append=False)


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Chance with the session's seed, of each test's own."""
    return random.Random(f"{SEED} {request.node.nodeid}")


@pytest.fixture(scope="session")
def scaled() -> Callable[[int, int], int]:
    """The count of a fault: the short one, or the share of the full one."""
    return lambda short, full: max(short, round(SCALE * full))


@pytest.fixture(scope="session")
def sender_ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """What was sent to the running system, of all trials together."""
    return Ledger(tmp_path_factory.mktemp("sender") / "sent.jsonl")


@pytest.fixture
def trial(house: House, sender_ledger: Ledger, tmp_path: Path, chance: random.Random) -> Iterator[Trial]:
    """A load on the running system; ended with the test."""
    made = Trial(house, sender_ledger, tmp_path / "load", f"{chance.getrandbits(32):08x}")
    yield made
    made.sender.end()


@pytest.fixture(scope="session")
def line_tables(cassandra_at: CassandraConnection) -> Iterator[Tables]:
    """Tables of both zones in a keyspace of their own."""
    name = f"chaos_{uuid.uuid4().hex[:12]}"
    for zone in ("trusted", "clean"):
        migrate(cassandra_at, name, zone, 1)
    tables = Tables(cassandra_at, name)
    yield tables
    tables.close()


@pytest.fixture(scope="session")
def small_parts(make_layout: Callable[[str], Layout]) -> Iterator[SmallParts]:
    """A Kafka and a Cassandra of the chaos tests' own, each on a small disk; they may be killed and filled."""
    layout = make_layout("small")
    with (
        small_disk(layout.home / "kafka", 256 * MEGABYTE) as kafka,
        small_disk(layout.home / "cassandra", 512 * MEGABYTE) as cassandra,
    ):
        yield SmallParts(layout, up(layout, say=print), kafka, cassandra)
        down(layout)


@pytest.fixture
def make_line(
    line_tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Line]]:
    """A maker of lines, each with a spool and a project of its own, or over a home that a receiver has left."""
    monkeypatch.setattr(deidentify, "Workers", Inline)
    made: list[Line] = []

    def make(home: Path | None = None, project: str = "") -> Line:
        name = project or f"line-{uuid.uuid4().hex[:8]}"
        made.append(Line(home or tmp_path / f"line{len(made)}", line_tables, name))
        return made[-1]

    yield make
    for line in made:
        line.close()
