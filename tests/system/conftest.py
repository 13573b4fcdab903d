"""One whole system a session: Kafka, Cassandra and all roles of this checkout, in a home of its own.

It is brought up by `prodrome up`, with shorter times than those of the guide, and stopped at the end by the
suite's `make_layout`. RUN_SLOW=1 runs the tests that need the guide's own times too.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from house import CHECKOUT, PACKAGE, House, free_port

from infra.demo import Pixels, read_images
from infra.secret_files import write_secret
from infra.stack.layout import Layout
from infra.stack.lifecycle import down

_SHARED = Path(os.environ.get("PRODROME_SHARED", CHECKOUT.parent / "shared")) / "data"


@pytest.fixture(scope="session")
def house(
    make_layout: Callable[[str], Layout],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[House]:
    """The running system; shared, so a test uses a patient or a project of its own.

    Its objects lie in folders, and in a bucket with RUN_IN_BUCKET=1.
    """
    folder = tmp_path_factory.mktemp("sources")
    tokens = folder / "tokens"
    write_secret(tokens, secrets.token_hex(32))
    running = House.of(make_layout("house"), folder, {
        "PRODROME_READER_PORT": str(free_port()),
        "PRODROME_READER_TOKENS_FILE": str(tokens),
        "PRODROME_STACK_S3": "true",
        "PRODROME_STACK_IMAGES": "true",
        "PRODROME_LISTER_INTERVAL_SECONDS": "3",
        "PRODROME_LISTER_YOUNG_SECONDS": "5",
    })  # fmt: skip
    if "RUN_IN_BUCKET" in os.environ:
        running.keep_in(request.getfixturevalue("s3_gateway"), "stores")
    running.up()
    # half a minute of CPU a head, and heads are among the shared files: the test of the demo lets it run
    assert running.prodrome("models", "retire", "dementia-t1").returncode == 0
    yield running
    running.close()


@pytest.fixture(scope="module")
def cluster(
    make_layout: Callable[[str], Layout], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    """The same on three Kafka and three Cassandra nodes; its memory is given back with the module."""
    layout = make_layout("cluster")
    running = House.of(layout, tmp_path_factory.mktemp("sources"), {"PRODROME_STACK_NODES": "3"})
    running.up()
    yield running
    running.close()
    down(layout)


@pytest.fixture(scope="session")
def images() -> dict[str, Pixels]:
    """The published exam's four images."""
    return read_images(PACKAGE / "example")


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """A path below shared/data; skips with the reason where it is absent."""

    def find(name: str) -> Path:
        if not (_SHARED / name).exists():
            pytest.skip(f"test data absent: {_SHARED / name}")
        return _SHARED / name

    return find


@pytest.fixture(scope="session")
def peer() -> Callable[[str], str]:
    """The path of a DICOM peer's program; skips with its name where it is not installed."""

    def find(name: str) -> str:
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed: make peers")
        return found

    return find


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the house; the search for planted identifiers comes last, when there is most to search."""
    for item in items:
        if Path(__file__).parent in item.path.parents and "house" in getattr(item, "fixturenames", ()):
            item.add_marker("house")
    mine = [item for item in items if item.path.parent == Path(__file__).parent]
    ordered = iter(sorted(mine, key=lambda item: item.path.name == "test_planted_identifiers.py"))
    items[:] = [next(ordered) if item in mine else item for item in items]
