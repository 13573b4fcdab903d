"""Settings: read from the environment in this one place, frozen, documented by their own fields.

1. Each component has a frozen class; each field states its unit and its reason.
2. `load` reads ``PRODROME_<COMPONENT>_<FIELD>``; what is not set there comes from ``<home>/prodrome.env``,
   which `prodrome up` writes for the one-machine stack, and then from the default.
3. `rows` lists every setting; docs/configuration.md is generated from it.

Secrets are never values here: a setting names the file that holds one.
"""

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, get_type_hints

import msgspec

from infra.secret_files import MASTER, parse_secrets, read_secret
from schemas.errors import SettingsError
from schemas.sources import Source

PREFIX: Final = "PRODROME_"
ENV_FILE: Final = PREFIX + "ENV_FILE"
#: Made with the gateway of one machine.
GATEWAY_BUCKET: Final = "dicom"
T = TypeVar("T")


def _setting(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, kw_only=True)
class Zone:
    """How one zone's Kafka, Cassandra and store are reached; both zones may point at one cluster."""

    kafka: str = _setting("127.0.0.1:19092", "Kafka bootstrap servers, host:port,host:port")
    kafka_username: str = _setting("", "User of Kafka (SASL); empty logs in as nobody")
    kafka_password_file: str = _setting("", "File (mode 600) with that user's password")
    kafka_mechanism: str = _setting("SCRAM-SHA-512", "SASL mechanism: SCRAM-SHA-512, SCRAM-SHA-256 or PLAIN")
    kafka_tls: bool = _setting(False, "Speak TLS with Kafka")
    cassandra: str = _setting("127.0.0.1:19042", "Cassandra contact points, host:port,host:port")
    cassandra_username: str = _setting("", "Role of Cassandra to log in as; empty logs in as nobody")
    cassandra_password_file: str = _setting("", "File (mode 600) with that role's password")
    cassandra_tls: bool = _setting(False, "Speak TLS with Cassandra")
    tls_ca: str = _setting("", "PEM file of the CAs that signed the servers; empty takes the system's list")
    tls_cert: str = _setting("", "PEM file of our own certificate, where the servers ask for one")
    tls_key: str = _setting("", "PEM file (mode 600) of its key")
    keyspace: str = _setting("", "Keyspace; empty takes prodrome_trusted or prodrome_clean")
    replication: int = _setting(1, "Replicas of each row, used when migrations create the keyspace")
    topic_replication: int = _setting(1, "Replicas of each partition, used when topics are created")
    store: str = _setting(
        "", "Object store as URL, file:///folder or s3://bucket/prefix; empty takes file://<home>/<zone>"
    )
    store_endpoint: str = _setting(
        "", "URL of the S3 service of that store; empty takes AWS_ENDPOINT_URL, or Amazon's own"
    )
    store_region: str = _setting("", "Region of that store; empty takes AWS_REGION")
    store_credentials_file: str = _setting(
        "",
        "File (mode 600) with the access key's id and its secret, a line each; empty takes AWS_* or the machine's role",
    )
    store_allow_plaintext: bool = _setting(False, "Speak plain http with that store beyond loopback")


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The one-machine stack."""

    s3: bool = _setting(
        False, "With an S3 gateway, its bucket `dicom`, and the roles that read it: `prodrome up --s3`"
    )

    images: bool = _setting(
        False, "With the role that answers single images as they come, for models that look at one at a time"
    )
    lib: str = _setting("", "Folder of the fetched Kafka and Cassandra; empty takes <home>/lib")
    tls: bool = _setting(False, "Kafka and Cassandra of the stack speak TLS, with certificates made for it")
    nodes: int = _setting(
        1, "Kafka and Cassandra nodes, 1 or 3: a cluster on one machine, to try its settings"
    )


@dataclass(frozen=True, kw_only=True)
class Receive:
    """The DICOM door."""

    host: str = _setting("127.0.0.1", "Address to listen on; others than loopback need a certificate")
    port: int = _setting(11112, "TCP port of the DICOM listener")
    ae_title: str = _setting("PRODROME", "Our AE title; another called title is refused")
    allow_plaintext: bool = _setting(False, "Listen beyond loopback without TLS: say so explicitly")
    tls_cert: str = _setting("", "PEM file of our certificate and chain; empty speaks plain text")
    tls_key: str = _setting("", "PEM file (mode 600) of its key; empty where the certificate's file holds it")
    tls_ca: str = _setting("", "PEM file of the CAs of senders' certificates; empty asks for none")
    sources: str = _setting("", "TOML file with a [[source]] table a sender; empty admits loopback alone")
    max_associations: int = _setting(64, "Associations at once; sources may have caps and slots of their own")
    max_object_bytes: int = _setting(8 << 30, "Largest instance, bytes; larger ones are refused")
    idle_seconds: float = _setting(600.0, "An association silent for this long is ended; PACS hold some open")
    deny_sop_classes: tuple[str, ...] = _setting((), "SOP class UIDs that are refused with 0122")
    processes: int = _setting(1, "Listener processes; 0 takes one a core")
    take_over: bool = _setting(True, "Read C-STORE here and not in pynetdicom; false is slower, and the same")


@dataclass(frozen=True, kw_only=True)
class Spool:
    """The append-only store of what was received."""

    path: str = _setting("", "Folder; empty takes <home>/spool")
    segment_bytes: int = _setting(256 << 20, "A segment is sealed at this size; the unit that is freed")
    limit_bytes: int = _setting(32 << 30, "Size at which the spool counts as full; associations stop at 85 %")
    others: tuple[str, ...] = _setting(
        (), "Folders of other receivers' spools on this machine (shared mounts)"
    )
    readers: tuple[str, ...] = _setting(
        (), "URLs of relays' readers, https://host:port, for spools that this machine has no folder of"
    )
    token_file: str = _setting("", "File (mode 600) with the token for the readers, its first line")
    tls_ca: str = _setting("", "PEM file of the CAs that signed the readers; empty takes the system's list")
    allow_plaintext: bool = _setting(False, "Send the token to http:// readers beyond loopback")


@dataclass(frozen=True, kw_only=True)
class Relay:
    """The outbox between the spool and Kafka."""

    poll_seconds: float = _setting(0.01, "Pause between looks at the spool; part of the latency of an image")
    pace_seconds: float = _setting(
        0.1, "Least time between publications: what comes meanwhile shares messages; the first never waits"
    )
    large_bytes: int = _setting(64 << 20, "Instances over this size take the bulk lane")


@dataclass(frozen=True, kw_only=True)
class Reader:
    """The relay's ranged reader: raw bytes for roles on other machines."""

    host: str = _setting("127.0.0.1", "Address to listen on; others than loopback need a certificate")
    port: int = _setting(-1, "TCP port of the reader; 0 takes a free one, -1 serves nobody")
    tokens_file: str = _setting("", "File (mode 600) with the tokens that are admitted, one a line")
    tls_cert: str = _setting("", "PEM file of the server's certificate and chain; empty speaks plain text")
    tls_key: str = _setting("", "PEM file (mode 600) of its key; empty where the certificate's file holds it")
    allow_plaintext: bool = _setting(False, "Listen beyond loopback without TLS: say so explicitly")
    connections: int = _setting(64, "Connections at once; one a worker process of every deidentify")


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """The buckets of others that are read; which ones, the sources file says."""

    endpoint: str = _setting(
        "", "URL of their S3 service; empty takes Amazon's own. No event ever names another"
    )
    region: str = _setting("us-east-1", "Region of the buckets")
    credentials_file: str = _setting(
        "",
        "File (mode 600) with the access key's id and its secret, a line each; empty takes AWS_* or the machine's role",
    )
    tls_ca: str = _setting("", "PEM file of the CAs that signed the service; empty takes the system's list")
    allow_plaintext: bool = _setting(False, "Speak plain http with it beyond loopback")
    etag_md5: bool = _setting(
        True, "Hold objects that were put whole against their eTag; false where it is no MD5 (SSE-KMS, SSE-C)"
    )


@dataclass(frozen=True, kw_only=True)
class Bridge:
    """What becomes of events about objects, and of what the lister finds."""

    events: tuple[str, ...] = _setting(
        (), "Where events come from: kafka:<topic of the trusted Kafka>, or sqs:<URL of the queue>"
    )
    requests: int = _setting(16, "Requests to the store at once")
    max_object_bytes: int = _setting(8 << 30, "Largest object or member of an archive, bytes")


@dataclass(frozen=True, kw_only=True)
class Lister:
    """Finds what events have lost."""

    interval_seconds: float = _setting(
        300.0, "From the beginning of one look at all sources to the next; a request a thousand objects each"
    )
    young_seconds: float = _setting(
        60.0, "Younger objects are left to their events; 0 where a store sends none"
    )


@dataclass(frozen=True, kw_only=True)
class Deidentify:
    """The boundary between the zones."""

    profile: str = _setting(
        "basic", "basic, safe-harbor, research, or the path of a TOML file on top of one: docs/profiles.md"
    )
    master_key_file: str = _setting("", "File with the master secret; empty takes <home>/secrets/master.key")
    key_id: str = _setting("k1", "Names the master secret in stored rows; never the secret")
    workers: int = _setting(2, "Worker processes; about one a core")
    batch: int = _setting(64, "Messages a batch, of up to 64 instances each")


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """What became of every intake."""

    grace_seconds: float = _setting(
        600.0, "A settled segment is kept this long: after a power loss it is republished"
    )
    raw_retention: str = _setting(
        "none", "none, forever, or days as a number: how long settled raw bytes are kept"
    )


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Index and assembly."""

    closed_quiet_seconds: float = _setting(
        2.0, "Quiet time once every association of a study has closed and settled"
    )
    metadata_inline_bytes: int = _setting(3072, "Clean metadata up to this size travels in the event")


@dataclass(frozen=True, kw_only=True)
class Score:
    """Resident models."""

    models: str = _setting("", "Folders of model packages, separated by ':'; empty takes the ones that ship")
    pinned: tuple[str, ...] = _setting((), "id=sha256 of packages; one that is pinned and differs is refused")
    deadline_seconds: float = _setting(
        900.0, "After this long without its inputs a model is said to be incomplete"
    )
    providers: tuple[str, ...] = _setting(
        ("CPUExecutionProvider",), "ONNX Runtime providers, first that works"
    )
    threads: int = _setting(1, "Threads of one forward pass")
    forward_seconds: float = _setting(
        100.0, "A forward pass is ended after this long, and its exam has failed"
    )
    store: str = _setting(
        "",
        "Where prepared inputs, maps and added packages are kept, as URL; a bucket is reached as the clean store is; empty takes file://<home>/results",
    )
    keep_prepared: bool = _setting(
        True,
        "Keep what was prepared of each exam, so that another model after the same preparation needs no image",
    )
    preparers: int = _setting(2, "Processes that read, decode and prepare beside the forward passes")
    prepare_seconds: float = _setting(
        180.0, "Time for the preparation of one exam, over its bytes at 20 MB/s; then its process is ended"
    )
    prepare_bytes: int = _setting(4 << 30, "Memory of one preparing process; what needs more has failed")
    look_seconds: float = _setting(5.0, "How often the models that were promoted are looked up")


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Who did what."""

    path: str = _setting("", "Folder of the audit trail; empty takes <home>/audit")
    actor: str = _setting("", "Whom a command acts for, besides the account that runs it")


@dataclass(frozen=True, kw_only=True)
class Role:
    """What every role has."""

    metrics_host: str = _setting("127.0.0.1", "Address of the Prometheus endpoint")
    metrics_port: int = _setting(0, "Port of the Prometheus endpoint; 0 takes a free one")
    log_level: str = _setting("INFO", "Lowest level that is logged")
    deadletter_limit: int = _setting(
        100, "A stage stops when its dead letters outrun a tenth of its good messages by this many"
    )
    confine: str = _setting(
        "auto", "Landlock: auto confines a role to its own folders where the kernel can; off; required"
    )
    stall_seconds: float = _setting(
        60.0, "Without progress while messages wait, the process ends and is restarted"
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All of it."""

    home: Path
    stack: Stack
    trusted: Zone
    clean: Zone
    receive: Receive
    spool: Spool
    relay: Relay
    reader: Reader
    buckets: Buckets
    bridge: Bridge
    lister: Lister
    deidentify: Deidentify
    ledger: Ledger
    catalog: Catalog
    score: Score
    audit: Audit
    role: Role


class Row(NamedTuple):
    """One line of the configuration page."""

    name: str
    default: str
    doc: str


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings.

    Raises
    ------
    SettingsError
        A value is not of its type, or a ``PRODROME_`` name is not known: the message names the setting and
        what was expected.
    """
    given = dict(os.environ if environ is None else environ)
    home = Path(given.get(PREFIX + "HOME", ".prodrome")).absolute()
    file = given.get(ENV_FILE, str(home / "prodrome.env"))
    values = {**(read_env_file(Path(file)) if file else {}), **given}
    _refuse_unknown(values)
    parts = {name: _component(kind, name, values) for name, kind in _components().items()}
    return _with_defaults(home, parts)


def rows() -> Iterator[Row]:
    """Yield every setting with its default and reason, in the order of the classes."""
    yield Row(PREFIX + "HOME", ".prodrome", "Folder of all state")
    yield Row(ENV_FILE, "<home>/prodrome.env", "Settings for what the environment does not say; empty: none")
    for name, kind in _components().items():
        for item in fields(kind):
            default = ",".join(item.default) if isinstance(item.default, tuple) else str(item.default)
            yield Row(f"{PREFIX}{name}_{item.name}".upper(), default, item.metadata["doc"])


def sources(settings: Settings) -> tuple[Source, ...]:
    """Return the sources of the sources file; where none is set, loopback alone, and the bucket of the stack's gateway."""
    if not settings.receive.sources:
        local = Source(name="local", addresses=("127.0.0.0/8", "::1/128"))
        return (local, Source(name="gateway", bucket=GATEWAY_BUCKET)) if settings.stack.s3 else (local,)
    path = Path(settings.receive.sources)
    try:
        table = tomllib.loads(path.read_text())
        found = msgspec.convert(table.get("source", []), tuple[Source, ...])
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise SettingsError(
            f"{PREFIX}RECEIVE_SOURCES: expected a TOML file of [[source]] tables: {error}"
        ) from None
    reserved, most = sum(source.reserved_associations for source in found), settings.receive.max_associations
    if reserved > most:
        raise SettingsError(
            f"{PREFIX}RECEIVE_SOURCES: {reserved} associations are reserved of {PREFIX}RECEIVE_MAX_ASSOCIATIONS={most}"
        )
    return found


def master_key(settings: Settings) -> bytes:
    """Return the master secret (32 bytes), of which pseudonyms are made; raises as `sealing_secrets`."""
    return sealing_secrets(settings)[MASTER]


def sealing_secrets(settings: Settings) -> dict[int, bytes]:
    """Return the secrets (32 bytes each) that seal and open what is trusted, by number: the master is 1.

    They are the lines of the master key's file, in order (`infra.secret_files.parse_secrets`).

    Raises
    ------
    SettingsError
        The file is absent, readable by others, or holds a line that is not 64 hexadecimal digits.
    """
    path = Path(settings.deidentify.master_key_file)
    text = read_secret(path, "`prodrome up` makes a master key, or restore your backup")
    return parse_secrets(text, str(path))


def _components() -> dict[str, Any]:
    return {name: kind for name, kind in get_type_hints(Settings).items() if name != "home"}


def _component(kind: type[T], name: str, values: Mapping[str, str]) -> T:
    hints = get_type_hints(kind)
    found = {}
    for item in fields(kind):  # type: ignore[arg-type]
        text = values.get(f"{PREFIX}{name}_{item.name}".upper())
        if text is not None:
            found[item.name] = _parse(f"{PREFIX}{name}_{item.name}".upper(), text, hints[item.name])
    return kind(**found)


def _parse(name: str, text: str, kind: Any) -> Any:
    if kind is bool:
        if text.lower() not in _BOOLEANS:
            raise SettingsError(f"{name}: expected true or false, came {text!r}")
        return _BOOLEANS[text.lower()]
    if kind is str:
        return text
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise SettingsError(f"{name}: expected a number, came {text!r}") from None
    return tuple(part.strip() for part in text.split(",") if part.strip())


_BOOLEANS: Final = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def _with_defaults(home: Path, parts: dict[str, Any]) -> Settings:
    # Defaults that depend on the home folder are filled in here, so that every reader sees whole settings.
    for zone in ("trusted", "clean"):
        parts[zone] = _filled(parts[zone], keyspace=f"prodrome_{zone}", store=f"file://{home / zone}")
    parts["stack"] = _filled(parts["stack"], lib=str(home / "lib"))
    parts["spool"] = _filled(parts["spool"], path=str(home / "spool"))
    parts["deidentify"] = _filled(parts["deidentify"], master_key_file=str(home / "secrets" / "master.key"))
    parts["audit"] = _filled(parts["audit"], path=str(home / "audit"))
    shipped = Path(__file__).resolve().parent.parent / "scoring" / "models"
    parts["score"] = _filled(parts["score"], models=str(shipped), store=f"file://{home / 'results'}")
    return Settings(home=home, **parts)


def _filled(part: Any, **defaults: str) -> Any:
    values = {
        item.name: getattr(part, item.name) or defaults.get(item.name, getattr(part, item.name))
        for item in fields(part)
    }
    return type(part)(**values)


def _refuse_unknown(values: Mapping[str, str]) -> None:
    known = {row.name for row in rows()}
    unknown = sorted(name for name in values if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise SettingsError(f"unknown setting {', '.join(unknown)}: see docs/configuration.md")


def read_env_file(path: Path) -> dict[str, str]:
    """Return the NAME=value lines of a file; nothing where there is no file."""
    if not path.is_file():
        return {}
    lines = [line.strip() for line in path.read_text().splitlines()]
    wrong = [line for line in lines if line and line[0] != "#" and "=" not in line]
    if wrong:
        raise SettingsError(f"{path}: expected NAME=value lines, came {len(wrong)} others")
    return dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")
