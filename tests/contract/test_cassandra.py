"""What infra.cassandra promises, on a real node."""

import uuid
from collections.abc import Iterator

import pytest
from cassandra import InvalidRequest

from infra.cassandra import BATCH_ROWS, MIGRATIONS, Tables, migrate, wait_ready
from infra.connections import CassandraConnection
from schemas.errors import SlowDown

pytestmark = pytest.mark.stack

NOWHERE = CassandraConnection(servers="127.0.0.1:1")
INSERT = "INSERT INTO patient_studies (project, patient, study) VALUES (?, ?, ?)"
SELECT = "SELECT study FROM patient_studies WHERE project = ? AND patient = ?"
SOME = "SELECT study FROM patient_studies WHERE project = ? AND patient = ? AND study IN ?"


@pytest.fixture(scope="module")
def keyspace(cassandra_at: CassandraConnection) -> str:
    name = f"contract_{uuid.uuid4().hex[:12]}"
    assert migrate(cassandra_at, name, "clean", 1) == [
        p.name for p in sorted((MIGRATIONS / "clean").glob("*.cql"))
    ]
    return name


@pytest.fixture(scope="module")
def tables(cassandra_at: CassandraConnection, keyspace: str) -> Iterator[Tables]:
    found = Tables(cassandra_at, keyspace)
    yield found
    found.close()


def studies(count: int, patient: str) -> list[tuple[str, tuple[str, str, str]]]:
    return [(INSERT, ("default", patient, f"1.{i:04}")) for i in range(count)]


def test_a_keyspace_is_migrated_once(cassandra_at: CassandraConnection, keyspace: str) -> None:
    """A second `prodrome migrate` has nothing to do."""
    assert migrate(cassandra_at, keyspace, "clean", 1) == []


def test_a_migration_that_was_cut_is_applied_again(
    cassandra_at: CassandraConnection, keyspace: str, tables: Tables
) -> None:
    """Its tables are there but it was not recorded: the same statements, no error, rows kept."""
    tables.run(INSERT, ("default", "kept", "1.1"))
    first = sorted((MIGRATIONS / "clean").glob("*.cql"))[0].name
    tables.run("DELETE FROM schema_migrations WHERE name = ?", (first,))
    assert migrate(cassandra_at, keyspace, "clean", 1) == [first]
    assert len(tables.run(SELECT, ("default", "kept"))) == 1


def test_a_keyspace_of_another_name_is_refused(cassandra_at: CassandraConnection) -> None:
    """The name is text of a statement, so it may hold nothing but letters."""
    with pytest.raises(ValueError, match="expected a keyspace"):
        migrate(cassandra_at, "x; DROP KEYSPACE system", "clean", 1)


@pytest.mark.parametrize("count", [1, BATCH_ROWS, 3 * BATCH_ROWS + 1])
def test_rows_of_a_partition_are_written_in_batches(tables: Tables, count: int) -> None:
    """All of them, however many batches they need; a repeat changes nothing."""
    for _ in range(2):
        tables.write([studies(count, f"batch {count}")])
    assert len(tables.run(SELECT, ("default", f"batch {count}"))) == count


def test_nothing_to_write_is_no_error(tables: Tables) -> None:
    """A batch of duplicates alone writes no rows."""
    tables.write([])
    assert tables.run_all([]) == []


@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_a_list_of_any_length_is_bound(tables: Tables, count: int) -> None:
    """One text serves every length of an IN list."""
    tables.write([studies(120, "list")])
    wanted = [f"1.{i:04}" for i in range(count)]
    assert [r.study for r in tables.run(SOME, ("default", "list", wanted))] == wanted


def test_results_of_many_statements_come_in_their_order(tables: Tables) -> None:
    """Rows of different partitions, at once."""
    tables.run_all((INSERT, ("default", f"many {i}", f"1.{i}")) for i in range(50))
    found = tables.run_all((SELECT, ("default", f"many {i}")) for i in range(50))
    assert [[row.study for row in rows] for rows in found] == [[f"1.{i}"] for i in range(50)]


def test_a_lightweight_transaction_is_applied_once(tables: Tables) -> None:
    """Who comes second is told, and what stands there."""
    first = (
        "INSERT INTO study_head (project, study, revision, published) VALUES (?, ?, ?, false) IF NOT EXISTS"
    )
    key = ("default", uuid.uuid4().hex)
    assert tables.run_once(first, (*key, 1))[0]
    applied, row = tables.run_once(first, (*key, 2))
    assert (applied, row.revision) == (False, 1)


def test_a_node_that_is_down_is_slow_down(cassandra_at: CassandraConnection) -> None:
    """Nothing listens there: wait, and lose nothing."""
    away = Tables(NOWHERE, "any")
    for call in (lambda: away.run(SELECT, ("a", "b")), lambda: away.write([studies(1, "p")])):
        with pytest.raises(SlowDown, match="Cassandra: NoHostAvailable"):
            call()
    with pytest.raises(SlowDown):
        wait_ready(NOWHERE, 0)
    wait_ready(cassandra_at, 10)


def test_a_keyspace_that_is_not_there_yet_is_slow_down(cassandra_at: CassandraConnection) -> None:
    """A role that starts before `prodrome migrate` waits for it."""
    early = Tables(cassandra_at, "never_made")
    with pytest.raises(SlowDown):
        early.run(SELECT, ("a", "b"))


def test_a_wrong_statement_is_a_defect_and_is_not_waited_for(tables: Tables) -> None:
    """It would be wrong for ever: it raises as itself, and the message ends as a dead letter."""
    for call in (
        lambda: tables.run("SELECT nothing FROM study_head"),
        lambda: tables.run_all([("SELECT nothing FROM study_head", ())]),
        lambda: tables.write([[("INSERT INTO nowhere (a) VALUES (?)", (1,))]]),
    ):
        with pytest.raises(InvalidRequest):
            call()


@pytest.mark.parametrize("name", ["open_studies", "waiting_runs"])
def test_what_was_removed_is_soon_no_more_read_over(
    cassandra_at: CassandraConnection, keyspace: str, tables: Tables, name: str
) -> None:
    """Rows that come and go all day do not add up to a read that Cassandra refuses: 100,000 removed ones."""
    query = "SELECT gc_grace_seconds FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?"
    [table] = tables.run(query, (keyspace, name))
    # 694 studies/s of one image over 12 partitions; and long enough for hints of a node that restarts
    assert 694 * table.gc_grace_seconds / 12 < 100_000 / 2
    assert table.gc_grace_seconds >= 300
