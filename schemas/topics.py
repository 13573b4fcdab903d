"""The topics: one table of names, zones, partitions, retention, writers and readers.

`infra.kafka.create_topics` makes them, docs/topics.md and the access rules are generated from them. The
number of partitions is fixed for a version: the key decides the partition, and a study stays in one.
"""

from typing import Final, Literal, NamedTuple

Zone = Literal["trusted", "clean"]
DAY_MS: Final = 24 * 3600 * 1000


class Topic(NamedTuple):
    """One row: what a topic is, who writes and who reads it, which CloudEvents types it carries."""

    name: str
    zone: Zone
    partitions: int
    retention_ms: int
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    types: tuple[str, ...]


def _t(*names: str) -> tuple[str, ...]:
    return tuple(f"org.prodrome.{name}.v1" for name in names)


TOPICS: Final[tuple[Topic, ...]] = (
    Topic("instance.received.v1", "trusted", 12, 7 * DAY_MS, ("relay", "bridge"), ("deidentify",),
          _t("instance.received", "association.closed", "object.deleted")),
    Topic("instance.received.bulk.v1", "trusted", 12, 7 * DAY_MS, ("relay", "bridge", "lister"), ("deidentify",),
          _t("instance.received", "association.closed")),
    Topic("instance.settled.v1", "trusted", 12, 7 * DAY_MS, ("deidentify", "relay", "bridge", "lister"), ("ledger",),
          _t("instance.settled", "segment.relayed")),
    Topic("deadletter.trusted.v1", "trusted", 3, 30 * DAY_MS, ("deidentify", "ledger", "bridge", "lister"),
          ("operator",),
          _t("deadletter")),
    Topic("report.v1", "trusted", 12, 30 * DAY_MS, ("report",), ("subscribers",), ()),
    # what a store says of its objects, in the store's own words; of no version of ours, and never believed
    Topic("s3.events", "trusted", 3, 7 * DAY_MS, ("gateway",), ("bridge",), ()),
    Topic("instance.deidentified.v1", "clean", 12, 7 * DAY_MS, ("deidentify",), ("catalog", "score"),
          _t("instance.deidentified", "instance.excluded", "association.closed")),
    Topic("study.revised.v1", "clean", 12, 30 * DAY_MS, ("catalog",), ("score", "subscribers"), _t("study.revised")),
    Topic("study.revised.bulk.v1", "clean", 12, 30 * DAY_MS, ("catalog",), ("score",), _t("study.revised")),
    Topic("prediction.v1", "clean", 12, 90 * DAY_MS, ("score",), ("subscribers", "report"),
          _t("imaging.prediction.created")),
    # longer than predictions, so that a retraction outlives what it withdraws
    Topic("lifecycle.v1", "clean", 12, 120 * DAY_MS, ("deidentify", "catalog", "score", "operator"),
          ("subscribers",), _t("lifecycle")),
    Topic("deadletter.v1", "clean", 3, 30 * DAY_MS, ("catalog", "score"), ("operator",), _t("deadletter")),
)  # fmt: skip

_STUDY_KEY: Final = "`<project>/<pseudonymous Study Instance UID>`"
_SENT_KEY: Final = "`<project>/<Study Instance UID as sent>`"
#: topic -> what its key is made of; the key decides the partition, so a study stays in order
KEYS: Final = {
    "instance.received.v1": _SENT_KEY,
    "instance.received.bulk.v1": _SENT_KEY,
    "instance.settled.v1": "`<spool>/<segment>`",
    "deadletter.trusted.v1": "`<topic>/<partition>` of the message, or `<spool>/<segment>/<record>` of its one instance",
    "report.v1": "nothing is written yet",
    "s3.events": "whatever the store takes",
    "instance.deidentified.v1": _STUDY_KEY,
    "study.revised.v1": _STUDY_KEY,
    "study.revised.bulk.v1": _STUDY_KEY,
    "prediction.v1": _STUDY_KEY,
    "lifecycle.v1": _STUDY_KEY,
    "deadletter.v1": "`<topic>/<partition>` of the letter",
}

BY_NAME: Final = {topic.name: topic for topic in TOPICS}
#: lane -> the topic of what was received
REVISED: Final = {"live": "study.revised.v1", "bulk": "study.revised.bulk.v1"}
RECEIVED: Final = {"live": "instance.received.v1", "bulk": "instance.received.bulk.v1"}
DEAD_LETTER_TOPIC: Final[dict[Zone, str]] = {"trusted": "deadletter.trusted.v1", "clean": "deadletter.v1"}
