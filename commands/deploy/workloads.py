"""What each role needs on many machines, beside what other tables say of it already. Tables, no I/O.

`schemas.access` says who logs in where, `commands.stack` with which arguments a role runs, `commands.status` its
consumer group, `schemas.topics` the partitions. Compose and the manifests are both held against this.
"""

from typing import Final, NamedTuple, get_args

from commands.stack import ROLES
from schemas import access
from schemas.topics import Zone

HOME: Final = "/var/lib/prodrome"
SECRETS: Final = "/run/secrets/prodrome"
CERTIFICATES: Final = "/etc/prodrome/tls"
SOURCES: Final = "/etc/prodrome/sources"
USER: Final = 10001
METRICS_PORT: Final = 9464
DICOM_PORT: Final = 11112
READER_PORT: Final = 9465
#: Ports of the parts as Kafka and Cassandra have them by default.
KAFKA_PORT, CASSANDRA_PORT = 9092, 9042
#: Longer than the 30 s in which a role that is told to stop finishes its batch.
GRACE_SECONDS: Final = 60
#: Doors: a spool each, so that receiving goes on while a node is drained.
DOORS: Final = 2


class Workload(NamedTuple):
    """One row: a role, its zone, and how much it may take.

    `image` is a target of the container file. `group` is the consumer group whose lag decides on members; a
    role without one has `members` of them.
    """

    role: str
    image: str
    zone: Zone
    cpu: str
    memory: str
    members: int = 2
    group: str = ""


WORKLOADS: Final = (
    Workload("receive", "receive", "trusted", "2", "1Gi", DOORS),
    Workload("relay", "relay", "trusted", "1", "512Mi", DOORS),
    Workload("exporter", "exporter", "trusted", "500m", "512Mi", DOORS),
    Workload("deidentify", "deidentify", "trusted", "2", "3Gi", 2, "prodrome-deidentify-live"),
    Workload("deidentify-bulk", "deidentify", "trusted", "2", "3Gi", 1, "prodrome-deidentify-bulk"),
    Workload("ledger", "ledger", "trusted", "1", "512Mi", 1, "prodrome-ledger"),
    Workload("catalog", "catalog", "clean", "1", "1Gi", 2, "prodrome-catalog"),
    Workload("score", "score", "clean", "2", "4Gi", 2, "prodrome-score"),
    Workload("score-bulk", "score", "clean", "2", "4Gi", 1, "prodrome-score-bulk"),
    Workload("bridge", "bridge", "trusted", "1", "1Gi", 2),
    Workload("lister", "lister", "trusted", "1", "512Mi", 1),
)
BY_ROLE: Final = {workload.role: workload for workload in WORKLOADS}
#: Share a spool, so they share a pod; the exporter says how full it is, and how old what waits in it.
DOOR: Final = ("receive", "relay", "exporter")
STAGES: Final = tuple(w for w in WORKLOADS if w.group)
#: Run where buckets are read, and so are no part of what every site has.
OF_BUCKETS: Final = tuple(w for w in WORKLOADS if w.role not in DOOR and not w.group)
#: role -> how it is called
ARGUMENTS: Final = ROLES | {workload.role: (workload.role,) for workload in OF_BUCKETS}


#: Object stores of `schemas.access` -> their folder under the home; the others are files of their own.
FOLDERS: Final = {"quarantine": "trusted", "clean": "clean", "results": "results"}


def principal_of(role: str) -> str:
    """Return as whom a role acts: both lanes are one."""
    return role.removesuffix("-bulk")


def zones_of(role: str) -> list[Zone]:
    """Return the zones that a role's parts and stores are in."""
    me = principal_of(role)
    used = (access.uses_kafka, access.uses_cassandra, access.uses_store)
    return [zone for zone in get_args(Zone) if any(uses(me, zone) for uses in used)]


def ports_of(role: str, zone: Zone) -> list[int]:
    """Return the ports of a zone's parts that a role reaches."""
    me = principal_of(role)
    used = {KAFKA_PORT: access.uses_kafka(me, zone), CASSANDRA_PORT: access.uses_cassandra(me, zone)}
    return [port for port, uses in used.items() if uses]


def stores_of(role: str) -> list[str]:
    """Return the object stores that a role reads or writes, by the folder that each is under the home."""
    me = principal_of(role)
    used = {
        FOLDERS[store.name]
        for store in access.STORES
        if store.name in FOLDERS and access.store_rights(me, store)
    }
    return [folder for folder in FOLDERS.values() if folder in used]


def logins_of(principal: str) -> dict[str, str]:
    """Return the settings by which a principal logs in, with a file for each password."""
    found = {}
    for zone in get_args(Zone):
        for part, uses in (("kafka", access.uses_kafka), ("cassandra", access.uses_cassandra)):
            if uses(principal, zone):
                name = f"PRODROME_{zone.upper()}_{part.upper()}"
                found[f"{name}_USERNAME"] = access.user(principal)
                found[f"{name}_PASSWORD_FILE"] = f"{SECRETS}/{part}"
    return found


def settings_of(role: str) -> dict[str, str]:
    """Return the settings of a role's container, without those that every member of its zones has."""
    return logins_of(principal_of(role)) | OWN.get(principal_of(role), {})


def reads_sources(role: str) -> bool:
    """Return whether a role has to know whose images it takes in."""
    return "PRODROME_RECEIVE_SOURCES" in settings_of(role)


def reads_buckets(role: str) -> bool:
    """Return whether a role asks the buckets of others, at a site that has some."""
    me = principal_of(role)
    return any(access.store_rights(me, store) for store in access.STORES if store.name == "buckets")


def secrets_of(settings: dict[str, str]) -> list[str]:
    """Return the files that a secret has to hold: those that the settings name."""
    named = (value for value in settings.values() if value.startswith(f"{SECRETS}/"))
    return sorted({value.removeprefix(f"{SECRETS}/") for value in named})


def metrics_port(role: str) -> int:
    """Return where a role's probes and metrics are served."""
    return int(settings_of(role).get("PRODROME_ROLE_METRICS_PORT", METRICS_PORT))


#: What whoever reads buckets is told; where they are, a site says.
BUCKETS: Final = {
    "PRODROME_BUCKETS_ENDPOINT": "",
    "PRODROME_BUCKETS_REGION": "us-east-1",
    "PRODROME_BUCKETS_CREDENTIALS_FILE": f"{SECRETS}/buckets",
    "PRODROME_BRIDGE_EVENTS": "kafka:s3.events",
}
_SOURCES: Final = {"PRODROME_RECEIVE_SOURCES": f"{SOURCES}/sources.toml"}
#: role -> what it alone is told
OWN: Final[dict[str, dict[str, str]]] = {
    "receive": {
        "PRODROME_RECEIVE_HOST": "0.0.0.0",  # noqa: S104
        "PRODROME_RECEIVE_PORT": str(DICOM_PORT),
        "PRODROME_RECEIVE_ALLOW_PLAINTEXT": "true",
        **_SOURCES,
    },
    "bridge": _SOURCES,
    "lister": _SOURCES,
    "relay": {
        "PRODROME_READER_HOST": "0.0.0.0",  # noqa: S104
        "PRODROME_READER_PORT": str(READER_PORT),
        "PRODROME_READER_TOKENS_FILE": f"{SECRETS}/reader-tokens",
        "PRODROME_READER_TLS_CERT": f"{CERTIFICATES}/tls.crt",
        "PRODROME_READER_TLS_KEY": f"{CERTIFICATES}/tls.key",
        # the same pod, the same address: the receiver's endpoint has the usual port
        "PRODROME_ROLE_METRICS_PORT": str(METRICS_PORT + 2),
    },
    "exporter": {"PRODROME_ROLE_METRICS_PORT": str(METRICS_PORT + 3)},
    "deidentify": {
        **_SOURCES,  # issuers and quiet times
        "PRODROME_DEIDENTIFY_MASTER_KEY_FILE": f"{SECRETS}/master.key",
        "PRODROME_SPOOL_TOKEN_FILE": f"{SECRETS}/reader-token",
        "PRODROME_SPOOL_TLS_CA": f"{CERTIFICATES}/ca.crt",
        "PRODROME_SPOOL_READERS": ",".join(
            f"https://door-{i}.door.prodrome-trusted.svc:{READER_PORT}" for i in range(DOORS)
        ),
    },
}
