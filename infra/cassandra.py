"""Cassandra: the only door to cassandra-driver.

1. `Tables` runs prepared statements of one keyspace: one, many at once, or batches of one partition each.
2. A node that is down, late or overloaded is `SlowDown`; anything else is a defect and raises as itself.
3. `migrate` applies the numbered CQL files of ``infra/migrations`` that a keyspace has not seen.

Every statement is idempotent unless it is a lightweight transaction. A session is never shared across fork.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

from cassandra import (
    AuthenticationFailed,
    ConsistencyLevel,
    DriverException,
    OperationTimedOut,
    RequestValidationException,
    Unauthorized,
)
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable, Session
from cassandra.policies import ConstantReconnectionPolicy, DCAwareRoundRobinPolicy, TokenAwarePolicy
from cassandra.query import BatchStatement, BatchType, PreparedStatement

from infra.connections import CassandraConnection
from schemas.errors import SlowDown

log = logging.getLogger(__name__)

MIGRATIONS: Final = Path(__file__).parent / "migrations"
#: Above the server's own write time-out (2 s) and two reconnections; then the stage waits and tries again.
REQUEST_SECONDS: Final = 10.0
#: A change of the schema or of roles on a busy machine: a person waits for it, no stage does.
CHANGE_SECONDS: Final = 60.0
#: Statements of one partition a batch: 8,700 rows/s of 2 kB at 20 against 1,800 single ones.
BATCH_ROWS: Final = 20
#: Small rows of different partitions a request; a node warns of more than ten partitions in one.
SMALL_ROWS: Final = 10
#: Requests on their way at once: fewer than the node's threads.
AT_ONCE: Final = 32
_DOWN: Final = (NoHostAvailable, OperationTimedOut, DriverException, OSError)
#: The statement is wrong, today and tomorrow; waiting for it would be for ever.
_DEFECT: Final = RequestValidationException

Statement = tuple[str, Sequence[Any]]


class Tables:
    """Prepared statements of one keyspace.

    Parameters
    ----------
    connection : CassandraConnection
        Where the cluster is and who we are to it.
    keyspace : str or None
        None for migrations, which create it.
    seconds : float
        How long an answer is waited for.
    """

    def __init__(
        self, connection: CassandraConnection, keyspace: str | None, seconds: float = REQUEST_SECONDS
    ) -> None:
        self._connection = connection
        self._seconds = seconds
        self._keyspace = keyspace
        self._cluster: Cluster | None = None
        self._session: Session | None = None
        self._prepared: dict[str, PreparedStatement] = {}

    def run(self, cql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Run one statement and return its rows (named tuples).

        Raises
        ------
        SlowDown
            Cassandra is down, late or overloaded.
        """
        session = self._connected()
        with _steered():
            return list(session.execute(self._statement(cql), values))

    def define(self, cql: str) -> None:
        """Run one statement about roles or grants: never prepared, since the node writes down what it prepares.

        Raises
        ------
        SlowDown
            Cassandra is down or late.
        """
        session = self._connected()
        with _steered():
            session.execute(cql)

    def stream(self, cql: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """Yield the rows of one statement, a page in memory at a time: for lists that may be long.

        Raises
        ------
        SlowDown
            As `run`; also in the middle.
        """
        session = self._connected()
        with _steered():
            yield from session.execute(self._statement(cql), values)

    def run_once(self, cql: str, values: Sequence[Any]) -> tuple[bool, Any]:
        """Run one lightweight transaction; return whether it was applied and the row as it stands."""
        row = self.run(cql, values)[0]
        return row[0], row

    def run_all(self, statements: Iterable[Statement]) -> list[list[Any]]:
        """Run statements of different partitions at once and return the rows of each, in order."""
        session = self._connected()
        return self._gather(session.execute_async(self._statement(cql), values) for cql, values in statements)

    def write(self, partitions: Iterable[Sequence[Statement]]) -> None:
        """Write rows, a sequence of statements a partition, and return when all are durable.

        Partitions go beside each other, in no order. Rows of one partition that stand in several tables of
        the keyspace become one mutation; a partition of many rows goes in batches of `BATCH_ROWS`.
        """
        session = self._connected()
        self._gather(session.execute_async(some) for rows in partitions for some in self._batches(rows))

    def write_small(self, rows: Sequence[Statement]) -> None:
        """Write rows of many partitions, a few bytes each, `SMALL_ROWS` a request."""
        self.write(rows[i : i + SMALL_ROWS] for i in range(0, len(rows), SMALL_ROWS))

    def _batches(self, rows: Sequence[Statement]) -> Iterator[BatchStatement]:
        for start in range(0, len(rows), BATCH_ROWS):
            batch = BatchStatement(BatchType.UNLOGGED)
            for cql, values in rows[start : start + BATCH_ROWS]:
                batch.add(self._statement(cql), values)
            batch.is_idempotent = True
            yield batch

    def _gather(self, requests: Iterator[Any]) -> list[list[Any]]:
        # The iterator sends; a bounded number is on its way, so that a long list does not overload the node.
        found: list[list[Any]] = []
        with _steered():
            while some := list(islice(requests, AT_ONCE)):
                found += [list(future.result()) for future in some]
        return found

    def close(self) -> None:
        """End the connections."""
        if self._cluster is not None:
            self._cluster.shutdown()
            self._cluster = self._session = None

    def _statement(self, cql: str) -> PreparedStatement:
        # A select with IN over a list binds the list, so one text serves every length.
        if cql not in self._prepared:
            prepared = self._connected().prepare(cql)
            prepared.is_idempotent = " IF " not in cql
            self._prepared[cql] = prepared
        return self._prepared[cql]

    def _connected(self) -> Session:
        if self._session is None:
            connection = self._connection
            hosts = [
                (host, int(port))
                for host, _, port in (item.rpartition(":") for item in connection.servers.split(","))
            ]
            profile = ExecutionProfile(
                # of the data center of the contact points: a quorum of another one is not ours
                load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy()),
                consistency_level=ConsistencyLevel.LOCAL_QUORUM,
                serial_consistency_level=ConsistencyLevel.LOCAL_SERIAL,
                request_timeout=self._seconds,
            )
            cluster = Cluster(
                hosts,
                port=hosts[0][1],  # of nodes that do not say theirs
                execution_profiles={EXEC_PROFILE_DEFAULT: profile},
                reconnection_policy=ConstantReconnectionPolicy(1.0, max_attempts=None),
                protocol_version=5,
                connect_timeout=REQUEST_SECONDS,
                auth_provider=_login(connection),
                ssl_context=connection.tls.context() if connection.tls else None,
            )
            try:
                self._session = cluster.connect(self._keyspace)
            except _DOWN as error:
                cluster.shutdown()
                raise _slow(error) from None
            self._cluster = cluster
        return self._session


@contextmanager
def _steered() -> Iterator[None]:
    """Turn what the driver raises into what steers a stage; a statement that is wrong raises as itself."""
    try:
        yield
    except Unauthorized as error:
        raise _slow(error) from None
    except _DEFECT:
        raise
    except _DOWN as error:
        raise _slow(error) from None


def _slow(error: Exception) -> SlowDown:
    """A login or a grant that is missing is waited for like a node that is down: somebody has to make it."""
    causes = getattr(error, "errors", None)
    found = (
        next((e for e in causes.values() if isinstance(e, AuthenticationFailed)), error)
        if isinstance(causes, dict)
        else error
    )
    # The server's text names the role, the table and the permission: nothing out of a row.
    detail = f": {str(error)[:200]}" if isinstance(error, Unauthorized) else ""
    return SlowDown(f"Cassandra: {type(found).__name__}{detail}")


def _login(connection: CassandraConnection) -> PlainTextAuthProvider | None:
    return PlainTextAuthProvider(connection.username, connection.password()) if connection.username else None


def wait_ready(connection: CassandraConnection, seconds: float) -> None:
    """Return when Cassandra answers a query; raise `SlowDown` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        tables = Tables(connection, None)
        try:
            tables.run("SELECT release_version FROM system.local")
            return
        except SlowDown:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        finally:
            tables.close()


def migrate(connection: CassandraConnection, keyspace: str, zone: str, replication: int) -> list[str]:
    """Apply the migrations of a zone that the keyspace has not seen; return their names.

    Each file is applied statement by statement and then recorded; one that was cut in the middle is applied
    again, so statements are written to be repeatable (CREATE ... is made IF NOT EXISTS here).
    """
    if not keyspace.isidentifier():
        raise ValueError(f"expected a keyspace of letters, digits and _, came {keyspace!r}")
    root = Tables(connection, None, CHANGE_SECONDS)
    try:
        root.run(
            f"CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = "
            f"{{'class': 'NetworkTopologyStrategy', 'replication_factor': {int(replication)}}}"
        )
        root.run(
            f"CREATE TABLE IF NOT EXISTS {keyspace}.schema_migrations"
            " (name text PRIMARY KEY, applied_at timestamp)"
        )
        seen = {row.name for row in root.run(f"SELECT name FROM {keyspace}.schema_migrations")}  # noqa: S608
    finally:
        root.close()
    wanted = [path for path in sorted((MIGRATIONS / zone).glob("*.cql")) if path.name not in seen]
    tables = Tables(connection, keyspace, CHANGE_SECONDS)
    try:
        for path in wanted:
            for statement in _statements(path.read_text()):
                tables.run(statement.replace("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS ", 1))
            tables.run(
                "INSERT INTO schema_migrations (name, applied_at) VALUES (?, toTimestamp(now()))",
                (path.name,),
            )
            log.info("migration %s applied to %s", path.name, keyspace)
    finally:
        tables.close()
    return [path.name for path in wanted]


def _statements(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.strip().startswith("--")]
    return [statement.strip() for statement in "\n".join(lines).split(";") if statement.strip()]
