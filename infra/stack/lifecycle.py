"""Bring a stack up, take it down, and say how it is.

`up` in order, each step done only if it is not done already:

1. one `up` or `down` at a time (`run/lock`);
2. end what outlived a supervisor that was killed;
3. jars, Java, ports, passwords, configurations, the format of Kafka's storage, Cassandra's superuser;
4. supervisord, and with it Kafka and Cassandra, until both let the administrator in;
5. `prepare`: topics, migrations and access, the caller's;
6. the roles, until each says that it is ready.

Roles are not known here: the caller says which there are and how each is started.
"""

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

from infra.stack import (
    cassandra_node,
    certificates,
    configuration,
    fetch,
    gateway,
    kafka_node,
    logins,
    ports,
    processes,
    ready,
    supervise,
)
from infra.stack.java import find_java
from infra.stack.layout import Addresses, Layout, Program, ProgramStatus, Role, StackError, is_part, node_name
from infra.stack.ready import Awaited
from infra.stack.supervise import Supervisor

#: The longest `up`: a fetch on a slow line. Past it the holder hangs.
_LOCK_SECONDS: Final = 900.0
#: For what outlived its supervisor, before it is killed; as long as the supervisor itself gives.
_ORPHAN_SECONDS: Final = float(configuration.STOP_SECONDS)


def up(
    layout: Layout,
    roles: Sequence[str] = (),
    make_role: Callable[[str, Addresses], Role] | None = None,
    prepare: Callable[[Addresses], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Addresses:
    """Start what is not running; return when all of it is ready.

    Parameters
    ----------
    layout : Layout
        Where the stack lives.
    roles : Sequence[str]
        Names of the roles to run; a running role that is not among them is stopped.
    make_role : Callable[[str, Addresses], Role], optional
        How a role is started, once the addresses are known. Needed if there are roles.
    prepare : Callable[[Addresses], None]
        Called when the parts answer, before any role starts; must bear being called again.
    say : Callable[[str], None]
        Told each step that takes time, one line each.

    Returns
    -------
    Addresses
        Where everything listens.

    Raises
    ------
    MissingPrerequisite
        If Java or Maven is missing.
    StackError
        If a part or role does not become ready. What runs is left running, for a look; `down` ends it.
    """
    layout.make()
    with _alone(layout, say):
        supervisor = _connect_or_sweep(layout, say)
        if supervisor is None:
            say("preparing Kafka and Cassandra")
            fetch.fetch(layout, say)
            if layout.s3:
                gateway.build(layout, say)
                gateway.prepare(layout)
        else:
            _refuse_other_access(layout)
        _refuse_other_nodes(layout)
        logins.make_passwords(layout)
        with ports.Reservation(supervisor.held() if supervisor else ()) as reservation:
            addresses = ports.choose(layout, roles, reservation, supervisor.running() if supervisor else ())
            table = [make_role(name, addresses) for name in roles] if make_role else []
            supervisor = _start_or_update(layout, supervisor, addresses, table, say)
        supervisor.hold(addresses.ports)
        _await_parts(layout, supervisor, addresses)
        prepare(addresses)
        _start_roles(layout, supervisor, table, say)
        return addresses


def down(layout: Layout, say: Callable[[str], None] = lambda _: None) -> None:
    """Stop everything, roles first, and return when no process of the stack is left.

    Parameters
    ----------
    layout : Layout
        Where the stack lives; one that does not run, or never did, is no error.
    say : Callable[[str], None]
        Told each step that takes time.
    """
    if not layout.home.is_dir():
        return
    layout.make()
    with _alone(layout, say):
        supervisor = _connect_or_sweep(layout, say)
        if supervisor is None:
            return
        names = [row["name"] for row in supervisor.programs()]
        roles = [name for name in names if not is_part(name)]
        parts = [name for name in names if is_part(name)]
        say(f"stopping {', '.join([*roles, *parts])}")
        supervisor.stop(roles)
        supervisor.stop(parts)
        supervisor.shut_down()
        processes.end(lambda: processes.of_stack(layout.home), _ORPHAN_SECONDS)
        configuration.drop_socket_folder(layout)


def status(layout: Layout) -> list[ProgramStatus]:
    """Say what each program does; empty if the stack is not up."""
    supervisor = supervise.connect(layout)
    if supervisor is None:
        return []
    deaths, table = supervisor.deaths(), processes.table()
    return [_status(row, deaths.get(row["name"], 0), table) for row in supervisor.programs()]


def _start_or_update(
    layout: Layout,
    supervisor: Supervisor | None,
    addresses: Addresses,
    table: Sequence[Role],
    say: Callable[[str], None],
) -> Supervisor:
    # Parts that run keep the command they were started with, even if a new one would differ.
    parts = _parts(layout, addresses) if supervisor is None else configuration.written_parts(layout)
    configuration.write(layout, [*parts, *(_program(role) for role in table)])
    if supervisor is not None:
        supervisor.update()
        return supervisor
    say(f"starting Kafka on {addresses.bootstrap} and Cassandra on port {addresses.cassandra}")
    return supervise.start(layout)


def _parts(layout: Layout, addresses: Addresses) -> list[Program]:
    java = find_java()
    if layout.tls:
        certificates.make(layout.certificates)
    cluster = ports.read_state(layout).get("cluster", kafka_node.new_cluster())
    ports.write_state(layout, cluster=cluster)
    for host in addresses.hosts:
        kafka_node.configure(layout, addresses, host)
        cassandra_node.configure(layout, addresses, host)
        kafka_node.format_storage(layout, java, host, cluster)
    cassandra_node.close(layout, addresses, java)
    ports.write_state(layout, **_access(layout))
    nodes = (kafka_node, cassandra_node)
    return [node.program(layout, java, host) for node in nodes for host in addresses.hosts]


def _access(layout: Layout) -> dict[str, bool]:
    """How the parts are closed, as it is written down when they start."""
    return {"logins": True, "tls": layout.tls, "s3": layout.s3}


def _refuse_other_access(layout: Layout) -> None:
    """Parts that run keep their configuration: what closes them otherwise takes a stop and a start."""
    state = ports.read_state(layout)
    wanted = _access(layout)
    if {name: state.get(name, False) for name in wanted} != wanted:
        raise StackError(
            "Kafka and Cassandra run with other access rules than these settings say (an earlier release had no"
            " logins; or PRODROME_STACK_TLS or _S3 was changed): `prodrome down`, then `prodrome up`"
        )


def _refuse_other_nodes(layout: Layout) -> None:
    made = (layout.home / "kafka" / "data").exists()
    if made and ports.read_state(layout).get("nodes", 1) != layout.nodes:
        raise StackError(
            f"PRODROME_STACK_NODES: {layout.home} was made with another number of nodes; take another home"
        )


def _program(role: Role) -> Program:
    if is_part(role.name):
        raise StackError(f"{role.name} is the name of a part, not of a role")
    return Program(name=role.name, command=role.command, env=role.env)


def _await_parts(layout: Layout, supervisor: Supervisor, addresses: Addresses) -> None:
    # One that somebody stopped by hand starts again; one that runs is left alone.
    kafka = logins.kafka_as(layout, addresses)
    cassandra = logins.cassandra_as(layout, addresses)
    supervisor.start(node_name("kafka", host) for host in addresses.hosts)
    for host in addresses.hosts:  # one after the other: Cassandra's nodes do not join at once
        name = node_name("cassandra", host)
        supervisor.start([name])
        listens = partial(ready.listens, host, addresses.cassandra)
        ready.wait(layout, supervisor, Awaited(name, listens, ready.CASSANDRA_SECONDS))
    for part in (
        Awaited("kafka", lambda: ready.kafka_answers(kafka, layout.nodes), ready.KAFKA_SECONDS),
        Awaited("cassandra", lambda: ready.cassandra_answers(cassandra), ready.CASSANDRA_SECONDS),
    ):
        ready.wait(layout, supervisor, part)


def _start_roles(
    layout: Layout, supervisor: Supervisor, table: Sequence[Role], say: Callable[[str], None]
) -> None:
    if table:
        say(f"starting {', '.join(role.name for role in table)}")
    supervisor.start(role.name for role in table)
    for role in table:
        answers = _asks(role)
        ready.wait(layout, supervisor, Awaited(role.name, answers, ready.ROLE_SECONDS))


def _asks(role: Role) -> Callable[[], bool]:
    if role.ready_path:
        return lambda: ready.answers_ok(role.metrics_port, role.ready_path)
    return lambda: ready.role_answers(role.name, role.metrics_port)


def _connect_or_sweep(layout: Layout, say: Callable[[str], None]) -> Supervisor | None:
    supervisor = supervise.connect(layout)
    if supervisor is None and (left := processes.of_stack(layout.home)):
        say(f"ending {len(left)} processes that outlived their supervisor")
        processes.end(lambda: processes.of_stack(layout.home), _ORPHAN_SECONDS)
    return supervisor


def _status(row: dict[str, object], deaths: int, table: dict[int, processes.Process]) -> ProgramStatus:
    pid = int(str(row["pid"]))
    members = processes.tree(pid, table) if pid else []
    return ProgramStatus(
        name=str(row["name"]),
        state=str(row["statename"]).lower(),
        pid=pid or None,
        uptime_seconds=float(int(str(row["now"])) - int(str(row["start"]))) if pid else 0.0,
        restarts=deaths,
        rss_bytes=sum(member.rss_bytes for member in members),
        cpu_seconds=sum(member.cpu_seconds for member in members),
        read_bytes=sum(member.read_bytes for member in members),
        written_bytes=sum(member.written_bytes for member in members),
    )


@contextmanager
def _alone(layout: Layout, say: Callable[[str], None]) -> Iterator[None]:
    deadline = time.monotonic() + _LOCK_SECONDS
    with (layout.run / "lock").open("w") as lock:
        told = False
        while not _locked(lock.fileno()):
            if not told:
                say("another `up` or `down` of this stack is at work; waiting for it")
                told = True
            if time.monotonic() > deadline:
                raise StackError(f"{layout.run / 'lock'}: still held after {_LOCK_SECONDS:.0f} s")
            time.sleep(0.1)
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
