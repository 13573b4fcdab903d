"""The real parts that tests share: one Kafka and one Cassandra a session, on ports and in a home of their own.

The jars are those of the checkout (`.prodrome/lib`), fetched if they are not there yet. Nothing is skipped
when a part is missing: the parts are required, so that is an error.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.connections import CassandraConnection, KafkaConnection
from infra.stack.layout import Addresses, Layout
from infra.stack.lifecycle import down, up
from infra.stack.logins import cassandra_as, kafka_as
from tests.gateway import Gateway, running_gateway

_PREFIX = "prodrome-test-"
_LIB = Path(__file__).parent.parent / ".prodrome" / "lib"
#: Every JVM that tests start: half an hour is too short for the second compiler to pay, and there are many.
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")


@pytest.fixture(scope="session")
def make_layout() -> Iterator[Callable[[str], Layout]]:
    """A maker of stack layouts in fresh homes; whatever runs in them is down at the end of the session."""
    _end_forgotten()
    root = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    made: list[Layout] = []

    def make(name: str) -> Layout:
        made.append(Layout(root / name, _LIB))
        return made[-1]

    yield make
    for layout in made:
        down(layout)
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def shared_layout(make_layout: Callable[[str], Layout]) -> Layout:
    """Where the shared stack lives."""
    return make_layout("shared")


@pytest.fixture(scope="session")
def stack(shared_layout: Layout) -> Addresses:
    """Where a real Kafka and a real Cassandra listen; shared, so leave no topic or keyspace of a plain name."""
    return up(shared_layout, say=print)


@pytest.fixture(scope="session")
def kafka_at(shared_layout: Layout, stack: Addresses) -> KafkaConnection:
    """The stack's Kafka, as one who may do everything."""
    return kafka_as(shared_layout, stack)


@pytest.fixture(scope="session")
def cassandra_at(shared_layout: Layout, stack: Addresses) -> CassandraConnection:
    """The stack's Cassandra, as one who may do everything."""
    return cassandra_as(shared_layout, stack)


@pytest.fixture(scope="session")
def s3_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A real S3 gateway; shared, so make a bucket of your own."""
    with running_gateway(tmp_path_factory.mktemp("gateway"), _LIB) as running:
        yield running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give a test that may be the first to start the stack the time that a fetch on a busy machine takes."""
    for item in items:
        if item.get_closest_marker("stack") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))


def _end_forgotten() -> None:
    """End the stacks of test runs that were killed before they could."""
    for root in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = root.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists() and root.owner() == _me():
            for home in root.iterdir():
                down(Layout(home, _LIB))
            shutil.rmtree(root, ignore_errors=True)


def _me() -> str:
    return Path("/proc/self").owner()
