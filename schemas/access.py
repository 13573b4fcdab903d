"""Who may do what: one table of principals, topics, tables and stores, from which all access is made.

1. Topics name their writers and readers in `schemas.topics`, tables and stores here.
2. `kafka_rights`, `cassandra_rights` and `store_rights` turn that into what one principal may do.
3. `prodrome migrate` makes the users and grants of it, `infra.confine` the rules of a role's process,
   docs/security.md its table, and a test tries every combination on the real parts.

What is not said here is not allowed. No passwords, no addresses.
"""

from typing import Final, Literal, NamedTuple

from schemas.topics import TOPICS, Topic, Zone

Right = Literal["read", "write"]

#: May do everything: the brokers' own identity, and who makes topics, tables, users and grants.
ADMIN: Final = "admin"
#: People with commands: they see both zones, and mend.
OPERATOR: Final = "operator"
#: Services that read the results.
SUBSCRIBERS: Final = "subscribers"
#: Looks at everything that has a number, and changes nothing.
EXPORTER: Final = "exporter"
ROLES: Final = ("receive", "relay", "bridge", "lister", "deidentify", "catalog", "ledger", "score", EXPORTER)
PRINCIPALS: Final = (ADMIN, *ROLES, OPERATOR, SUBSCRIBERS)
#: Named by the topics already; nothing of them runs yet, so nobody gets their rights.
PLANNED: Final = ("report",)
#: Speaks to the stack's Kafka without a login, on a listener of its own, and may do nothing else there: the S3
#: gateway of one machine, whose client knows no SASL.
GATEWAY: Final = "gateway"

#: Where commands read without a group of their own; nothing is committed in it.
READ_GROUP: Final = "prodrome-read"


class Table(NamedTuple):
    """One row: a table of Cassandra and the roles that change and read it."""

    name: str
    zone: Zone
    writers: tuple[str, ...]
    readers: tuple[str, ...]


class Store(NamedTuple):
    """One row: a place of bytes and the roles that change and read it; `keys` is the master secret."""

    name: str
    zone: Zone
    writers: tuple[str, ...]
    readers: tuple[str, ...]


#: A condition (IF) reads, so who writes with one stands among the readers.
TABLES: Final[tuple[Table, ...]] = (
    Table("identities", "trusted", ("deidentify",), ("deidentify",)),
    Table("study_intakes", "trusted", ("deidentify",), ()),
    Table("vault_studies", "trusted", ("deidentify",), ()),
    Table("vault_instances", "trusted", ("deidentify",), ()),
    Table("accession_studies", "trusted", ("deidentify",), ()),
    Table("quarantine", "trusted", ("deidentify",), ()),
    Table("quarantine_days", "trusted", ("deidentify",), ()),
    Table("bucket_objects", "trusted", ("bridge", "lister"), ("bridge", "lister")),
    Table("bucket_segments", "trusted", ("bridge", "lister"), ("bridge", "lister")),
    Table("listed_runs", "trusted", ("lister",), ("lister",)),
    Table("lister_boots", "trusted", ("lister",), ("lister",)),
    Table("listings", "trusted", ("lister",), ("lister",)),
    Table("ledger_segments", "trusted", ("ledger",), ("deidentify", "ledger", "relay", "lister", EXPORTER)),
    Table("ledger_spools", "trusted", ("ledger",), ("ledger", EXPORTER)),
    Table("stage_control", "trusted", (), ("relay", "bridge", "lister", "deidentify", "ledger")),
    Table("releases", "trusted", (), ()),
    Table("letters_done", "trusted", (), ()),
    Table("audit_heads", "trusted", (), ()),
    Table("stage_control", "clean", (), ("catalog", "score")),
    Table("study_instances", "clean", ("catalog",), ("catalog",)),
    Table("removed_versions", "clean", (), ()),
    Table("study_head", "clean", ("catalog",), ("catalog",)),
    Table("study_revisions", "clean", ("catalog",), ()),
    Table("open_studies", "clean", ("catalog",), ("catalog",)),
    Table("patient_studies", "clean", ("catalog",), ()),
    Table("instances_by_uid", "clean", ("catalog",), ()),
    Table("predictions", "clean", ("score",), ("score",)),
    Table("predictions_by_id", "clean", ("score",), ()),
    Table("prediction_head", "clean", ("score",), ("score",)),
    Table("model_runs", "clean", ("score",), ("score", EXPORTER)),
    Table("waiting_runs", "clean", ("score",), ("score",)),
    Table("model_packages", "clean", (), ("score",)),
    Table("models_active", "clean", (), ("score",)),
)

STORES: Final[tuple[Store, ...]] = (
    Store("spool", "trusted", ("receive", "relay"), ("receive", "relay", "deidentify", EXPORTER)),
    Store("quarantine", "trusted", ("deidentify",), ("deidentify",)),
    Store("keys", "trusted", (), ("deidentify",)),
    Store("buckets", "trusted", (), ("bridge", "lister", "deidentify")),
    Store("clean", "clean", ("deidentify", "catalog"), ("deidentify", "catalog", "score")),
    Store("results", "clean", ("score",), ("score",)),
)


def user(principal: str) -> str:
    """Return the name of a principal as Kafka and Cassandra know it."""
    return f"prodrome_{principal}"


def topic_rights(principal: str, topic: Topic) -> frozenset[Right]:
    """Return what a principal may do with a topic.

    Operators read all of them, and write where a role reads: that is where dead letters are replayed to. The
    exporter reads what roles read, for the age of what waits there.
    """
    if principal == ADMIN:
        return frozenset(("read", "write"))
    if principal == SUBSCRIBERS and topic.zone != "clean":
        return frozenset()  # who takes reports, with identifiers, gets a login of its own when there are any
    operator, worked_on = principal == OPERATOR, bool({*topic.readers} & {*ROLES})
    return _rights(
        reads=principal in topic.readers or operator or (principal == EXPORTER and worked_on),
        writes=principal in topic.writers or (operator and worked_on),
    )


def table_rights(principal: str, table: Table) -> frozenset[Right]:
    """Return what a principal may do with a table; operators may read and mend every one."""
    every = principal in (ADMIN, OPERATOR)
    return _rights(reads=principal in table.readers or every, writes=principal in table.writers or every)


def store_rights(principal: str, store: Store) -> frozenset[Right]:
    """Return what a principal's process may do with a store; people act as themselves, with every store."""
    every = principal in (ADMIN, OPERATOR)
    return _rights(reads=principal in store.readers or every, writes=principal in store.writers or every)


def group_prefixes(principal: str) -> tuple[str, ...]:
    """Return how the names of the consumer groups begin that a principal may be a member of."""
    return {
        ADMIN: ("prodrome-",),
        OPERATOR: (READ_GROUP,),
        SUBSCRIBERS: ("subscriber-",),
    }.get(principal, (f"prodrome-{principal}",) if reads_topics(principal) else ())


def seen_group_prefixes(principal: str) -> tuple[str, ...]:
    """Return how the names of the groups begin whose offsets a principal may look at."""
    return ("prodrome-",) if principal in (OPERATOR, EXPORTER) else ()


def reads_topics(principal: str) -> bool:
    """Return whether a principal consumes any topic."""
    return any("read" in topic_rights(principal, topic) for topic in TOPICS)


def uses_kafka(principal: str, zone: Zone) -> bool:
    """Return whether a principal needs a login at the Kafka of a zone."""
    return principal == ADMIN or any(topic_rights(principal, t) for t in TOPICS if t.zone == zone)


def uses_cassandra(principal: str, zone: Zone) -> bool:
    """Return whether a principal needs a login at the Cassandra of a zone."""
    return principal == ADMIN or any(table_rights(principal, t) for t in TABLES if t.zone == zone)


def uses_store(principal: str, zone: Zone) -> bool:
    """Return whether a principal reads or writes a store of a zone."""
    return any(store_rights(principal, store) for store in STORES if store.zone == zone)


def uses(principal: str, zone: Zone) -> bool:
    """Return whether a principal has anything to do in a zone."""
    return any(has(principal, zone) for has in (uses_kafka, uses_cassandra, uses_store))


def _rights(*, reads: bool, writes: bool) -> frozenset[Right]:
    found: set[Right] = set()
    if reads:
        found.add("read")
    if writes:
        found.add("write")
    return frozenset(found)
