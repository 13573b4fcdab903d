"""A Cassandra node on loopback, tuned for a small machine, that lets in whom it knows.

1. `configure` writes `<home>/cassandra/cassandra.yaml` for the addresses of this start.
2. `close` exchanges the superuser that Cassandra makes at its first start, once.
3. `program` is the command that the supervisor runs.

A fresh Cassandra knows one superuser, whose name and password are public. Nobody may use it, not for a second:
`close` runs the node by itself first, behind TLS with a certificate of one use that clients must show; makes
the administrator, drops the public one, and ends the node. What the supervisor starts then never knew it.

The configuration is JSON, which every YAML reader takes. Cassandra refuses keys that it does not know.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from infra.cassandra import CHANGE_SECONDS, Tables
from infra.connections import CassandraConnection, Tls
from infra.secret_files import write_secret
from infra.stack import certificates, processes, ready
from infra.stack.fetch import jar_folder
from infra.stack.layout import HOSTS, Addresses, Layout, Program, StackError, node_name
from infra.stack.logins import cassandra_as

#: Tokens of the ring; each node begins an equal part of it.
_RING: Final = 2**64
_MEMORY: Final = (
    "-Xms512m",
    "-Xmx512m",
    "-XX:MaxDirectMemorySize=256m",
    "-Xss256k",
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:+PerfDisableSharedMem",
)
_ALONE: Final = (
    # A single node has nobody to gossip with: without these it waits a minute for others.
    "-Dcassandra.skip_wait_for_gossip_to_settle=0",
    "-Dcassandra.ring_delay_ms=0",
)
#: On one machine the others are told of at once; the default is for a network.
_TOGETHER: Final = ("-Dcassandra.ring_delay_ms=5000",)
_FAST_START: Final = (
    "-Dcassandra.superuser_setup_delay_ms=0",
    # Passwords are 256 random bits: the slowness that protects guessable ones would be paid at each connection.
    "-Dcassandra.auth_bcrypt_gensalt_log2_rounds=4",
)
#: Cassandra reaches into these packages of JDK 17, by module.
_EXPORTS: Final = {
    "java.base": ("jdk.internal.misc", "java.lang.ref"),
    "java.management.rmi": ("com.sun.jmx.remote.internal.rmi",),
    "java.management": ("com.sun.jmx.remote.security",),
    "java.rmi": ("sun.rmi.registry", "sun.rmi.server"),
    "java.sql": ("java.sql",),
    "jdk.unsupported": ("sun.misc",),
    "jdk.compiler": ("com.sun.tools.javac.file",),
    "jdk.attach": ("sun.tools.attach",),
}
_OPENS: Final = {
    "java.base": (
        *("java.io", "java.lang", "java.lang.module", "java.nio", "sun.nio.ch"),
        *("java.util", "java.util.concurrent", "java.util.concurrent.atomic"),
        *("jdk.internal.loader", "jdk.internal.math", "jdk.internal.module", "jdk.internal.ref"),
        *("jdk.internal.reflect", "jdk.internal.util.jar"),
    ),
    "jdk.compiler": ("com.sun.tools.javac",),
    "jdk.management": ("com.sun.management.internal",),
}
_MODULES: Final = (
    *(f"--add-exports={module}/{name}=ALL-UNNAMED" for module, names in _EXPORTS.items() for name in names),
    *(f"--add-opens={module}/{name}=ALL-UNNAMED" for module, names in _OPENS.items() for name in names),
    "-Djdk.attach.allowAttachSelf=true",
    "-Dio.netty.tryReflectionSetAccessible=true",
)

_START: Final = Path(__file__).parent / "cassandra_start.py"

#: What does not depend on a place or an address.
_FIXED: Final[dict[str, Any]] = {
    "cluster_name": "prodrome",
    "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
    "endpoint_snitch": "SimpleSnitch",
    "num_tokens": 1,
    "authenticator": "PasswordAuthenticator",
    "authorizer": "CassandraAuthorizer",
    "role_manager": "CassandraRoleManager",
    # A grant that is taken back ends within seconds of use; one that stays is not looked up at each statement.
    **{f"{cache}_validity": "60s" for cache in ("roles", "permissions", "credentials")},
    **{f"{cache}_update_interval": "2s" for cache in ("roles", "permissions", "credentials")},
    # A row is acknowledged when its commit log is synced, up to 5 ms later. The default, periodic, writes what
    # a replay needs only now and then: a kill of the process alone loses rows that it had acknowledged.
    "commitlog_sync": "group",
    "commitlog_sync_group_window": "5ms",
    "commitlog_segment_size": "16MiB",
    "commitlog_total_space": "256MiB",
    # The defaults stop serving and stay: nobody would restart it. One that ends is started again by the
    # supervisor, until there is space.
    "disk_failure_policy": "die",
    "commit_failure_policy": "die",
    "auto_snapshot": False,
    "concurrent_reads": 8,
    # these wait for the sync, so there are more of them than cores
    "concurrent_writes": 32,
    "native_transport_max_threads": 64,
    "concurrent_compactors": 1,
    "memtable_heap_space": "64MiB",
    "memtable_offheap_space": "64MiB",
    "file_cache_size": "32MiB",
    "key_cache_size": "8MiB",
}


def configure(layout: Layout, addresses: Addresses, host: str) -> None:
    """Write a node's configuration."""
    encryption = _encryption(layout.certificates) if layout.tls else {}
    _configure(layout, addresses, host, _yaml(layout, host), encryption)


def close(layout: Layout, addresses: Addresses, java: Path) -> None:
    """Make the administrator and drop the public superuser; does nothing once that is done.

    Of a cluster this is the first node, before the others join: they get the roles as they do.

    Raises
    ------
    StackError
        The node does not answer, or the public superuser's password is not the public one.
    """
    done = _folder(layout, addresses.host) / "closed"
    if done.exists():
        return
    first = _folder(layout, addresses.host) / "first"
    shutil.rmtree(first, ignore_errors=True)
    certificates.make(first)
    ours = certificates.sign(first, "client.pem")
    encryption = _encryption(first)
    encryption["client_encryption_options"] |= {
        "require_client_auth": True,
        "truststore": str(first / "ca.pem"),
    }
    _configure(layout, addresses, addresses.host, first / "cassandra.yaml", encryption)
    tls = Tls(ca=first / "ca.pem", cert=ours, key=ours)
    run = program(layout, java, addresses.host, first / "cassandra.yaml")
    with (
        layout.log("cassandra").open("ab") as log,
        subprocess.Popen(
            run.command,
            # marked, so that it is found and ended if this process is killed
            env=os.environ | run.env | {processes.MARK: str(layout.home)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        ) as node,
    ):
        try:
            alone = replace(addresses, nodes=1)
            _exchange_superuser(layout, replace(cassandra_as(layout, alone), tls=tls), first / "public", node)
        finally:
            node.kill()  # what it acknowledged is synced
    shutil.rmtree(first)
    done.touch(mode=0o600)


def _exchange_superuser(
    layout: Layout, admin: CassandraConnection, public: Path, node: "subprocess.Popen[bytes]"
) -> None:
    write_secret(public, "cassandra")
    old = replace(admin, username="cassandra", password_file=public)
    deadline = time.monotonic() + ready.CASSANDRA_SECONDS
    while not (found := next((who for who in (admin, old) if ready.cassandra_answers(who)), None)):
        if node.poll() is not None or time.monotonic() > deadline:
            raise StackError(
                f"Cassandra lets in neither its administrator nor its first superuser; see {layout.log('cassandra')}."
                f" Expected the password that is in {admin.password_file}"
            )
        time.sleep(0.2)
    if found is old:
        with closing(Tables(old, None, CHANGE_SECONDS)) as tables:
            tables.define(
                f"CREATE ROLE IF NOT EXISTS {admin.username} WITH SUPERUSER = true AND LOGIN = true"
                f" AND PASSWORD = '{admin.password()}'"
            )
    with closing(Tables(admin, None, CHANGE_SECONDS)) as tables:
        tables.define("DROP ROLE IF EXISTS cassandra")
        if layout.nodes > 1:  # the last: from here on one node alone has no quorum for a login
            tables.define(
                "ALTER KEYSPACE system_auth WITH replication ="
                f" {{'class': 'NetworkTopologyStrategy', 'replication_factor': {layout.nodes}}}"
            )


def _encryption(folder: Path) -> dict[str, Any]:
    return {
        "client_encryption_options": {
            "enabled": True,
            "optional": False,
            "ssl_context_factory": {"class_name": "org.apache.cassandra.security.PEMBasedSslContextFactory"},
            "keystore": str(folder / "server.pem"),
        }
    }


def _configure(
    layout: Layout, addresses: Addresses, host: str, path: Path, encryption: dict[str, Any]
) -> None:
    folder = _folder(layout, host)
    # What a killed JVM unpacked there stays otherwise.
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    for name in ("tmp", "triggers"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    # The first node alone: a seed has nobody to get its data from.
    seeds = [{"seeds": f"{addresses.host}:{addresses.cassandra_storage}"}]
    ring = {"initial_token": str(_RING // layout.nodes * HOSTS.index(host) - _RING // 2)}
    placed = (ring if layout.nodes > 1 else {}) | {
        # What a node misses while it is down, the others keep for it.
        "hinted_handoff_enabled": layout.nodes > 1,
        "listen_address": host,
        "rpc_address": host,
        "native_transport_port": addresses.cassandra,
        "storage_port": addresses.cassandra_storage,
        "seed_provider": [
            {"class_name": "org.apache.cassandra.locator.SimpleSeedProvider", "parameters": seeds},
        ],
    }
    path.write_text(json.dumps(_FIXED | placed | encryption, indent=1) + "\n")


def program(layout: Layout, java: Path, host: str, configuration: Path | None = None) -> Program:
    """The command of a node, with another configuration than its own if one is given."""
    folder, jars = _folder(layout, host), jar_folder(layout, "cassandra")
    agents = sorted(jars.glob("jamm-*.jar"))
    if not agents:
        raise StackError(f"{jars}: expected jamm-*.jar; remove the folder to fetch it anew")
    places = {
        "cassandra.config": (configuration or _yaml(layout, host)).as_uri(),
        "cassandra.storagedir": folder / "data",
        "cassandra.logdir": layout.logs,
        "cassandra.triggers_dir": folder / "triggers",
        "logback.configurationFile": (Path(__file__).parent / "logback.xml").as_uri(),
        "java.io.tmpdir": folder / "tmp",
        "jna.tmpdir": folder / "tmp",
    }
    command = (
        *(sys.executable, "-I", "-S", str(_START), str(folder / "data" / "commitlog")),
        *(str(java), f"-javaagent:{agents[0]}", *_MEMORY, *_MODULES, *_FAST_START),
        f"-XX:ErrorFile={layout.log(node_name('cassandra', host))}.crash",
        *(_ALONE if layout.nodes == 1 or configuration else _TOGETHER),
        *(("-XX:TieredStopAtLevel=1",) if configuration else ()),  # a run of seconds is not worth optimising
        *(f"-D{key}={value}" for key, value in places.items()),
        *("-cp", f"{jars}/*", "org.apache.cassandra.service.CassandraDaemon"),
    )
    name = node_name("cassandra", host)
    return Program(name=name, command=command, env={"MALLOC_ARENA_MAX": "2"}, part=True)


def _folder(layout: Layout, host: str) -> Path:
    return layout.home / node_name("cassandra", host)


def _yaml(layout: Layout, host: str) -> Path:
    return _folder(layout, host) / "cassandra.yaml"
