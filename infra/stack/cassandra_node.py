"""One Cassandra node on loopback, tuned for a small machine.

1. `configure` writes `<home>/cassandra/cassandra.yaml` for the addresses of this start.
2. `program` is the command that the supervisor runs.

The configuration is JSON, which every YAML reader takes. Cassandra refuses keys that it does not know.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Final

from infra.stack.fetch import jar_folder
from infra.stack.layout import Addresses, Layout, Program, StackError

_MEMORY: Final = (
    "-Xms512m",
    "-Xmx512m",
    "-XX:MaxDirectMemorySize=256m",
    "-Xss256k",
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:+PerfDisableSharedMem",
)
#: A single node has nobody to gossip with: without these it waits a minute for others.
_FAST_START: Final = (
    "-Dcassandra.skip_wait_for_gossip_to_settle=0",
    "-Dcassandra.ring_delay_ms=0",
    "-Dcassandra.superuser_setup_delay_ms=0",
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

#: What does not depend on a place or an address.
_FIXED: Final[dict[str, Any]] = {
    "cluster_name": "prodrome",
    "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
    "endpoint_snitch": "SimpleSnitch",
    "num_tokens": 1,
    # A row is acknowledged when its commit log is synced, up to 5 ms later. The default, periodic, writes what
    # a replay needs only now and then: a kill of the process alone loses rows that it had acknowledged.
    "commitlog_sync": "group",
    "commitlog_sync_group_window": "5ms",
    "commitlog_segment_size": "16MiB",
    "commitlog_total_space": "256MiB",
    "auto_snapshot": False,
    "hinted_handoff_enabled": False,
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


def configure(layout: Layout, addresses: Addresses) -> None:
    """Write the node's configuration."""
    # What a killed JVM unpacked there stays otherwise.
    shutil.rmtree(_folder(layout) / "tmp", ignore_errors=True)
    for name in ("tmp", "triggers"):
        (_folder(layout) / name).mkdir(parents=True, exist_ok=True)
    seeds = [{"seeds": f"{addresses.host}:{addresses.cassandra_storage}"}]
    placed = {
        "listen_address": addresses.host,
        "rpc_address": addresses.host,
        "native_transport_port": addresses.cassandra,
        "storage_port": addresses.cassandra_storage,
        "seed_provider": [
            {"class_name": "org.apache.cassandra.locator.SimpleSeedProvider", "parameters": seeds},
        ],
    }
    _yaml(layout).write_text(json.dumps(_FIXED | placed, indent=1) + "\n")


def program(layout: Layout, java: Path) -> Program:
    """The command of the node."""
    folder, jars = _folder(layout), jar_folder(layout, "cassandra")
    agents = sorted(jars.glob("jamm-*.jar"))
    if not agents:
        raise StackError(f"{jars}: expected jamm-*.jar; remove the folder to fetch it anew")
    places = {
        "cassandra.config": _yaml(layout).as_uri(),
        "cassandra.storagedir": folder / "data",
        "cassandra.logdir": layout.logs,
        "cassandra.triggers_dir": folder / "triggers",
        "logback.configurationFile": (Path(__file__).parent / "logback.xml").as_uri(),
        "java.io.tmpdir": folder / "tmp",
        "jna.tmpdir": folder / "tmp",
    }
    command = (
        *(str(java), f"-javaagent:{agents[0]}", *_MEMORY, *_MODULES, *_FAST_START),
        *(f"-D{key}={value}" for key, value in places.items()),
        *("-cp", f"{jars}/*", "org.apache.cassandra.service.CassandraDaemon"),
    )
    return Program(name="cassandra", command=command, env={"MALLOC_ARENA_MAX": "2"}, part=True)


def _folder(layout: Layout) -> Path:
    return layout.home / "cassandra"


def _yaml(layout: Layout) -> Path:
    return _folder(layout) / "cassandra.yaml"
