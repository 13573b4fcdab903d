"""`prodrome exporter`: the role that says what no single role can, least of all while it is down.

Every few seconds it looks at Kafka's lags, the ledger, the spool, the supervisor's programs, clocks and
certificates, and puts what it saw into metrics. What does not answer is `prodrome_exporter_reachable 0`; its
last values stand, and everything else is looked at as before. A look that costs more is taken less often. It
changes nothing anywhere.

One a cluster is enough; beside a receiver it sees that spool too.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from commands.stack import layout
from commands.status import GROUPS, intakes, lags_by_group, predictions
from commands.wiring import tables_of
from consumers.ledger import unsettled
from infra import metrics
from infra.cassandra import Tables
from infra.connections import kafka_of
from infra.settings import Settings, Zone
from infra.spool import readers
from infra.spool.files import used_bytes
from infra.spool.recycling import kept_bytes
from schemas.topics import BY_NAME, TOPICS

log = logging.getLogger(__name__)

#: Between two looks at least; Prometheus asks as often.
LOOK_SECONDS: Final = 5.0
#: And this many times what the last one took: looking never costs more than a twentieth of a core, a part.
COST: Final = 20.0


class Exporter:
    """What is looked at, each under the name of the part that must answer."""

    def __init__(self, found: Settings) -> None:
        self._found = found
        self._spool = Path(found.spool.path)
        self._trusted, self._clean = tables_of(found.trusted), tables_of(found.clean)
        self._next: dict[str, float] = {}
        self._looks: dict[str, Callable[[], None]] = {
            "kafka": self._look_at_lags,
            "cassandra_trusted": self._look_at_balance,
            "cassandra_clean": self._look_at_predictions,
            "disk": self._look_at_disks,
            "certificates": self._look_at_certificates,
        }
        if self._spool.is_dir():
            self._looks["spool"] = self._look_at_spool
        if layout(found).state.exists():
            self._looks["supervisor"] = self._look_at_programs

    def look(self) -> None:
        """Look at everything whose time has come."""
        for part, look in self._looks.items():
            began = time.monotonic()
            if began < self._next.get(part, began):
                continue
            try:
                look()
            except Exception as error:  # whatever is down, the rest is looked at
                log.warning("%s: %s", part, type(error).__name__)
                metrics.put("prodrome_exporter_reachable", 0, part=part)
            else:
                metrics.put("prodrome_exporter_reachable", 1, part=part)
            ended = time.monotonic()
            self._next[part] = ended + max(LOOK_SECONDS, COST * (ended - began))

    def run(self, stop: threading.Event) -> None:
        """Look until told to end."""
        while not stop.is_set():
            self.look()
            stop.wait(1.0)

    def _look_at_lags(self) -> None:
        from infra.kafka import oldest_waiting

        for group, lags in lags_by_group(self._found).items():
            for topic, messages in lags.items():
                metrics.put("prodrome_lag_messages", messages, group=group, topic=topic)
            zone: Zone = getattr(self._found, BY_NAME[GROUPS[group][0]].zone)
            oldest = oldest_waiting(kafka_of(zone), group, tuple(lags)) if any(lags.values()) else {}
            for topic in lags:
                age = max(0.0, time.time() - oldest[topic]) if topic in oldest else 0.0
                metrics.put("prodrome_lag_age_seconds", age, group=group, topic=topic)
        for kept in TOPICS:
            metrics.put("prodrome_topic_retention_seconds", kept.retention_ms / 1000, topic=kept.name)

    def _look_at_balance(self) -> None:
        for outcome, count in intakes(self._found, self._trusted).items():
            metrics.put("prodrome_balance_intakes", count, outcome=outcome)
        _compare_clock(self._trusted, "cassandra_trusted")

    def _look_at_predictions(self) -> None:
        for model, outcomes in predictions(self._found, self._clean).items():
            for outcome, count in outcomes.items():
                metrics.put("prodrome_prediction_runs", count, model=model, outcome=outcome)
        _compare_clock(self._clean, "cassandra_clean")

    def _look_at_spool(self) -> None:
        found = readers(self._spool)
        for name, reader in found.items():
            used = used_bytes(reader.folder) - kept_bytes(reader.folder)
            metrics.put("prodrome_spool_used_bytes", used, spool=name)
            metrics.put("prodrome_spool_limit_bytes", self._found.spool.limit_bytes // len(found), spool=name)
            metrics.put("prodrome_spool_oldest_seconds", reader.oldest_seconds(time.time()), spool=name)
            waiting = next(unsettled(self._trusted, reader), None)
            age = max(0.0, time.time() - waiting[1].received_at) if waiting else 0.0
            metrics.put("prodrome_oldest_unsettled_seconds", age, spool=name)

    def _look_at_programs(self) -> None:
        from infra.stack.lifecycle import status

        for program in status(layout(self._found)):
            name = program.name
            metrics.put("prodrome_program_up", int(program.state == "running"), program=name)
            metrics.put("prodrome_program_deaths", program.restarts, program=name)
            metrics.put("prodrome_program_cpu_seconds", program.cpu_seconds, program=name)
            metrics.put("prodrome_program_rss_bytes", program.rss_bytes, program=name)
            metrics.put("prodrome_program_io_bytes", program.read_bytes, program=name, direction="read")
            metrics.put("prodrome_program_io_bytes", program.written_bytes, program=name, direction="written")

    def _look_at_disks(self) -> None:
        folders = {"home": self._found.home, "spool": self._spool}
        for name, folder in folders.items():
            if folder.is_dir():
                usage = shutil.disk_usage(folder)
                metrics.put("prodrome_disk_free_ratio", usage.free / usage.total, folder=name)

    def _look_at_certificates(self) -> None:
        from infra.tls import expiry

        for zone in ("trusted", "clean"):
            for field in ("tls_ca", "tls_cert"):
                if path := getattr(getattr(self._found, zone), field):
                    left = expiry(Path(path)).timestamp() - time.time()
                    metrics.put("prodrome_certificate_expiry_seconds", left, certificate=f"{zone}_{field}")


def _compare_clock(tables: Tables, part: str) -> None:
    asked = time.time()
    row = tables.run("SELECT toUnixTimestamp(now()) AS at FROM system.local")[0]
    # In the middle of the question, as in NTP; the answer counts in milliseconds.
    metrics.put("prodrome_clock_skew_seconds", row.at / 1000 - (asked + time.time()) / 2, part=part)
