"""What a one-machine stack is made of: folders, addresses, programs, and the errors of starting them.

Values only. Where things lie is decided here and nowhere else; who runs them is `supervise`'s business.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from schemas.errors import ProdromeError

LOOPBACK: Final = "127.0.0.1"
PARTS: Final = ("kafka", "cassandra")
#: A node of a cluster listens on an address of its own, at the same ports as the others.
HOSTS: Final = (LOOPBACK, "127.0.0.2", "127.0.0.3")
#: Characters that end a value in supervisord's configuration, a JVM class path or a YAML string.
_UNUSABLE: Final = frozenset("%;#:\"'\\\n\r\t")


class StackError(ProdromeError):
    """A part of the stack did not do what was expected; `exit_code` is for the command line."""

    exit_code = 1


class MissingPrerequisite(StackError):
    """A program that prodrome does not bring itself is missing; the message says what to install."""

    exit_code = 2


@dataclass(frozen=True)
class Layout:
    """Where a stack keeps its state and where the jars lie.

    Parameters
    ----------
    home : Path
        Everything the stack writes: data, configuration, logs, sockets. Mode 700.
    lib : Path
        The fetched jars; several stacks may share one folder.
    tls : bool
        Whether Kafka and Cassandra speak TLS, with certificates that the stack makes.
    nodes : int
        Nodes of Kafka and of Cassandra, 1 or 3; a home keeps the number that it was made with.
    s3 : bool
        Whether there is an S3 gateway, which speaks to Kafka on a listener of its own.
    """

    home: Path
    lib: Path
    tls: bool = False
    nodes: int = 1
    s3: bool = False

    def __post_init__(self) -> None:
        if self.nodes not in (1, len(HOSTS)):
            raise StackError(f"PRODROME_STACK_NODES: expected 1 or {len(HOSTS)}, came {self.nodes}")
        for name in ("home", "lib"):
            path = Path(os.path.abspath(getattr(self, name)))
            if bad := _UNUSABLE.intersection(str(path)):
                raise StackError(f"{path}: expected a path without {' '.join(sorted(map(repr, bad)))}")
            object.__setattr__(self, name, path)

    @property
    def run(self) -> Path:
        """Generated files: configuration, launch files, lock, socket."""
        return self.home / "run"

    @property
    def logs(self) -> Path:
        """One log a program, and the supervisor's own."""
        return self.home / "logs"

    @property
    def secrets(self) -> Path:
        """Passwords and keys, one file each."""
        return self.home / "secrets"

    @property
    def certificates(self) -> Path:
        """The stack's own CA, and what it signed."""
        return self.secrets / "tls"

    @property
    def credentials(self) -> Path:
        """Access key of the S3 gateway: id and secret, a line each."""
        return self.secrets / "s3.credentials"

    @property
    def state(self) -> Path:
        """What was chosen at the first start: ports, socket."""
        return self.home / "stack.json"

    def log(self, name: str) -> Path:
        """The log of one program."""
        return self.logs / f"{name}.log"

    def make(self) -> None:
        """Create the folders, readable by their owner only."""
        for folder in (self.home, self.run, self.logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.home.chmod(0o700)


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where the parts and roles of a stack listen; everything on loopback.

    Parameters
    ----------
    kafka, kafka_controller : int
        Ports of the broker and of its controller.
    cassandra, cassandra_storage : int
        Ports of the native protocol and between nodes.
    dicom : int
        Port of the DICOM receiver.
    kafka_gateway : int
        Port of Kafka for the S3 gateway alone.
    s3 : int
        Port of the S3 gateway.
    metrics : Mapping[str, int]
        Port of each role's `/metrics`, by role name.
    nodes : int
        How many addresses of `HOSTS` have a Kafka and a Cassandra.
    """

    kafka: int
    kafka_controller: int
    cassandra: int
    cassandra_storage: int
    dicom: int
    kafka_gateway: int
    s3: int
    metrics: Mapping[str, int] = field(default_factory=dict)
    nodes: int = 1

    @property
    def hosts(self) -> tuple[str, ...]:
        """The addresses of the nodes."""
        return HOSTS[: self.nodes]

    @property
    def host(self) -> str:
        """The loopback address: nothing of a one-machine stack listens elsewhere."""
        return LOOPBACK

    @property
    def s3_endpoint(self) -> str:
        """URL of the S3 gateway."""
        return f"http://{self.host}:{self.s3}"

    @property
    def ports(self) -> frozenset[int]:
        """All of them."""
        fixed = (
            self.kafka,
            self.kafka_controller,
            self.kafka_gateway,
            self.cassandra,
            self.cassandra_storage,
            self.dicom,
            self.s3,
        )
        return frozenset((*fixed, *self.metrics.values()))

    @property
    def bootstrap(self) -> str:
        """`host:port,host:port` for a Kafka client."""
        return ",".join(f"{host}:{self.kafka}" for host in self.hosts)

    @property
    def contact_points(self) -> str:
        """`host:port,host:port` for a Cassandra client."""
        return ",".join(f"{host}:{self.cassandra}" for host in self.hosts)


def is_part(name: str) -> bool:
    """Whether a program is a node of Kafka or Cassandra, not a role."""
    return name.partition("-")[0] in PARTS


def node_name(part: str, host: str) -> str:
    """Return the name of a part's program and folder: the first node's is the part's own."""
    return part if host == LOOPBACK else f"{part}-{HOSTS.index(host) + 1}"


@dataclass(frozen=True, kw_only=True)
class Role:
    """A role of prodrome as the supervisor runs it.

    Parameters
    ----------
    name : str
        Name of the role, of its log, and of the `role` label it reports itself ready under.
    command : tuple[str, ...]
        Argument vector; the first is an absolute path.
    env : Mapping[str, str]
        Settings, on top of the environment of `up`, whose own `PRODROME_*` variables are left out.
    metrics_port : int
        Where it serves `/metrics`.
    ready_path : str
        Answers 200 when it is ready; empty for a role of prodrome, which says so in its metrics.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    metrics_port: int
    ready_path: str = ""


@dataclass(frozen=True, kw_only=True)
class Program:
    """One row of the table that the supervisor runs."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    part: bool = False

    @property
    def autostart(self) -> bool:
        """Whether it starts with the supervisor; Cassandra's later nodes join one after the other."""
        return self.part and not self.name.startswith("cassandra-")

    def document(self) -> str:
        """The launch file's text: what the program is, to the last byte."""
        return json.dumps({"command": self.command, "env": dict(self.env)}, indent=1, sort_keys=True)

    def digest(self) -> str:
        """Changes when command or environment change, so that the supervisor notices."""
        return hashlib.sha256(self.document().encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class ProgramStatus:
    """What one program does now; resources are summed over its process tree."""

    name: str
    state: str
    pid: int | None
    uptime_seconds: float
    restarts: int
    rss_bytes: int
    cpu_seconds: float
    read_bytes: int
    written_bytes: int
