"""The whole system of this checkout in a home of its own, seen as an operator sees it.

1. `House` runs the command line, sends over real associations, and reads topics, tables and metrics.
2. `ROOMS` are its senders: each called AE title leads to a project of its own, so that tests do not meet.
3. Exams and their files come from `infra.demo`.

Nothing here reaches into a role: what a test learns, an operator could have learned.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from commands.stack import layout
from commands.wiring import tables_of
from consumers.deid.keys import ProjectKeys
from consumers.ledger import balance
from infra.cassandra import Tables
from infra.connections import kafka_of
from infra.demo import Exam, make_exams, to_bytes
from infra.kafka import Received, read
from infra.settings import PREFIX, Settings, load, master_key
from infra.spool import SpoolReader
from infra.stack import logins
from infra.stack.layout import Layout
from infra.stack.ports import recorded_addresses
from producers.send import Destination, Result, send
from schemas import access
from schemas.topics import Zone
from tests.gateway import Gateway

CHECKOUT: Final = Path(__file__).parents[2]
PACKAGE: Final = CHECKOUT / "scoring" / "models" / "density"
#: For something that takes seconds; a machine that others use too takes many.
PATIENCE: Final = 120.0
#: Short enough for a test, and several times what an instance needs from the door to the catalog.
QUIET_SECONDS: Final = 6.0
CLOSED_QUIET_SECONDS: Final = 3.0
#: Longer than any study here waits for its views, but for the one that never gets them.
DEADLINE_SECONDS: Final = 25.0
CALLING: Final = "TESTS"

#: called AE title -> what its source says besides
ROOMS: Final[dict[str, str]] = {
    "PRODROME": 'project = "default"',
    "ASSOC": 'project = "associations"',
    "PATIENT": 'project = "patient"\nquiet_seconds = 15.0',
    "DEFECTS": 'project = "defects"',
    "FILES": 'project = "files"',
    "ADMIT": 'project = "admit"\nadmit_burned_in = true',
    "SYNTAX": 'project = "syntax"\nadmit_burned_in = true',
    "PLANTED": 'project = "planted"',
    "MENDING": 'project = "mending"',
    "CHAOS": 'project = "chaos"',
    "BUCKETS": 'project = "buckets"',
}
#: how keys of the gateway's bucket begin -> project
PREFIXES: Final = {
    "events/": "buckets",
    "listed/": "buckets-listed",
    "both/": "buckets-both",
    "other/": "buckets-other",
    "killed/": "buckets-killed",
}
_BUCKET: Final = """
[[source]]
name = "bucket-{project}"
project = "{project}"
bucket = "dicom"
prefix = "{prefix}"
quiet_seconds = {quiet}
"""
_SOURCE: Final = """
[[source]]
name = "{name}"
called_ae_title = "{called}"
calling_ae_titles = ["TESTS", "DEMO", "PRODROME_SEND"]
addresses = ["127.0.0.1/32"]
{settings}
"""
#: Admitted from an address that no test has.
_ELSEWHERE: Final = """
[[source]]
name = "elsewhere"
calling_ae_titles = ["ELSEWHERE"]
addresses = ["192.0.2.7/32"]
"""

T = TypeVar("T")


def write_sources(path: Path) -> None:
    """Write the table of senders."""
    text = _ELSEWHERE
    for called, settings in ROOMS.items():
        quiet = "" if "quiet_seconds" in settings else f"quiet_seconds = {QUIET_SECONDS}"
        text += _SOURCE.format(name=called.lower(), called=called, settings=f"{settings}\n{quiet}")
    path.write_text(text + bucket_sources())


def bucket_sources() -> str:
    """The sources of the gateway's bucket."""
    return "".join(
        _BUCKET.format(prefix=prefix, project=project, quiet=QUIET_SECONDS)
        for prefix, project in PREFIXES.items()
    )


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def eventually(found: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """Return what `found` returns once it is true; fail with `what` after a while."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, f"no {what} within {seconds:.0f} s"
        time.sleep(0.2)
    return result


class House:
    """A running system; `given` are the settings that `up` was called with.

    Its objects lie in `stored_under`, in the folders clean, trusted and results.
    """

    def __init__(self, home: Path, given: Mapping[str, str]) -> None:
        self.home = self.stored_under = home
        outside = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}
        self.environment = {**outside, **given, "PRODROME_HOME": str(home), "COLUMNS": "250"}
        self._stopping = threading.Event()
        self.predictions: list[dict[str, Any]] = []
        self.lifecycle: list[dict[str, Any]] = []

    @classmethod
    def of(cls, layout: Layout, folder: Path, given: Mapping[str, str]) -> "House":
        """One in this home with the senders of `ROOMS`, whose table is written to `folder`, and shorter times."""
        sources = folder / "sources.toml"
        write_sources(sources)
        times = {
            "PRODROME_CATALOG_CLOSED_QUIET_SECONDS": str(CLOSED_QUIET_SECONDS),
            "PRODROME_SCORE_DEADLINE_SECONDS": str(DEADLINE_SECONDS),
        }
        places = {"PRODROME_STACK_LIB": str(layout.lib), "PRODROME_RECEIVE_SOURCES": str(sources)}
        return cls(layout.home, {**places, **times, **given})

    def keep_in(self, gateway: Gateway, bucket: str) -> None:
        """Keep every object in a bucket of this gateway from the first `up` on."""
        self.stored_under = gateway.folder / "data" / gateway.bucket(bucket)
        for zone in ("clean", "trusted"):
            name = f"PRODROME_{zone.upper()}_STORE"
            self.environment[f"{name}_ENDPOINT"] = gateway.connection.endpoint
            self.environment[f"{name}_REGION"] = gateway.connection.region
            self.environment[f"{name}_CREDENTIALS_FILE"] = str(gateway.connection.credentials_file)
        for name, store in (("CLEAN", "clean"), ("TRUSTED", "trusted"), ("SCORE", "results")):
            self.environment[f"PRODROME_{name}_STORE"] = f"s3://{bucket}/{store}"

    # the command line

    def prodrome(self, *arguments: object, seconds: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Run a command and return how it ended."""
        return subprocess.run(
            [sys.executable, "-m", "prodrome", *map(str, arguments)],
            cwd=CHECKOUT, env=self.environment, capture_output=True, text=True, timeout=seconds,
        )  # fmt: skip

    def json(self, *arguments: object) -> Any:
        """Run a command that answers with JSON and return the answer."""
        done = self.prodrome(*arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def up(self) -> None:
        """Start everything, and listen to what is said of studies from then on."""
        done = self.prodrome("up", seconds=800)
        assert done.returncode == 0, done.stdout + done.stderr
        self.settings: Settings = load(self.environment)
        self.trusted: Tables = tables_of(self.settings.trusted)
        self.clean: Tables = tables_of(self.settings.clean)
        self._master = master_key(self.settings)
        for topic, heard in (("prediction.v1", self.predictions), ("lifecycle.v1", self.lifecycle)):
            threading.Thread(target=self._listen, args=(topic, heard), daemon=True).start()

    def close(self) -> None:
        """End what `up` opened here; the programs are somebody else's to stop."""
        self._stopping.set()
        self.trusted.close()
        self.clean.close()

    def _listen(self, topic: str, heard: list[dict[str, Any]]) -> None:
        kafka = kafka_of(self.settings.clean)
        for message in read(kafka, topic, from_start=True, follow=True, stopping=self._stopping):
            heard.append(json.loads(message.value))

    @contextmanager
    def everything(self, zone: Zone) -> Iterator[Tables]:
        """A zone's tables as their administrator reads them: operators see no table of migrations."""
        addresses = recorded_addresses(layout(self.settings))
        assert addresses
        admin = logins.as_settings(layout(self.settings), addresses, access.ADMIN)
        tables = tables_of(getattr(load({**self.environment, **admin}), zone))
        try:
            yield tables
        finally:
            tables.close()

    # sending

    def destination(self, called: str = "PRODROME", calling: str = CALLING) -> Destination:
        """The door, by one of its names."""
        here = self.settings.receive
        return Destination(host=here.host, port=here.port, called=called, calling=calling)

    def send(
        self,
        paths: Iterable[Path],
        called: str = "PRODROME",
        associations: int = 1,
        calling: str = CALLING,
    ) -> list[Result]:
        """Send files byte for byte; returns every file's result."""
        return list(send(list(paths), self.destination(called, calling), associations=associations))

    # what came of it

    def keys(self, project: str = "default") -> ProjectKeys:
        """The keys of a project."""
        return ProjectKeys.derive(self._master, project, self.settings.deidentify.key_id)

    def balance(self) -> dict[str, int]:
        """The balance of intakes."""
        return balance(self.trusted, SpoolReader(Path(self.settings.spool.path)).instances())

    def gained(self, before: Mapping[str, int]) -> dict[str, int]:
        """What the balance has gained once nothing is in flight; without the zeros."""
        eventually(lambda: self.balance()["in_flight"] == 0, "balance without anything in flight")
        return {name: n - before[name] for name, n in self.balance().items() if n != before[name]}

    def predictions_of(self, study: str) -> list[dict[str, Any]]:
        """What the topic has said of a pseudonymous study so far, oldest first."""
        return [p for p in list(self.predictions) if p["study_instance_uid"] == study]

    def revisions_of(self, project: str, study: str) -> list[int]:
        """The revisions that a pseudonymous study has, newest first."""
        rows = self.clean.run(
            "SELECT revision FROM study_revisions WHERE project = ? AND study = ?", (project, study)
        )
        return [row.revision for row in rows]

    def run_of(self, project: str, study: str, revision: int) -> str | None:
        """How the model ended for a revision."""
        rows = self.clean.run("SELECT project, study, revision, outcome FROM model_runs")
        found = [r.outcome for r in rows if (r.project, r.study, r.revision) == (project, study, revision)]
        return found[0] if found else None

    def topic(self, name: str) -> list[Received]:
        """All messages of a topic."""
        return list(read(kafka_of(self.settings.clean), name, from_start=True, follow=False))

    def metrics(self) -> dict[str, str]:
        """What every role's endpoint says, by role."""
        found = {}
        for role, address in self.json("status", "--json")["addresses"]["metrics"].items():
            with urllib.request.urlopen(address, timeout=10) as answer:
                found[role] = answer.read().decode()
        return found


def exams(images: Mapping[str, Any], seed: str, patients: int = 1) -> list[Exam]:
    """Make exams of patients of their own."""
    return make_exams(images, patients=patients, seed=seed)


def write_exam(exam: Exam, folder: Path) -> dict[str, Path]:
    """Write an exam's files and return them by view."""
    return {view: write(dataset, folder / f"{view}.dcm") for view, dataset in exam.datasets.items()}


def write(dataset: Any, path: Path) -> Path:
    """Write one dataset as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_bytes(dataset))
    return path


def study_of(exam: Exam) -> str:
    """The Study Instance UID as sent."""
    return str(next(iter(exam.datasets.values())).StudyInstanceUID)


def stored(results: Sequence[Result]) -> bool:
    """Whether every file was taken."""
    return bool(results) and all(result.stored for result in results)
