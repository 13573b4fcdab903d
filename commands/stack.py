"""`up`, `down`, `migrate`: the one-machine stack, with settings that every role and command then finds.

`up` writes ``<home>/prodrome.env`` (mode 600): addresses and what the caller had set. Secrets are made once,
each in a file of mode 600 under ``<home>/secrets``.
"""

import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from commands.auditing import audited
from commands.wiring import settings, told
from infra.connections import kafka_of
from infra.secret_files import write_secret
from infra.settings import ENV_FILE, GATEWAY_BUCKET, PREFIX, Settings, load, read_env_file
from infra.stack import gateway, logins
from infra.stack.layout import Addresses, Layout, Role
from infra.stack.ports import recorded_addresses
from schemas import access
from schemas.errors import SettingsError
from schemas.topics import Zone

if TYPE_CHECKING:
    from infra.kafka import Lag

#: name -> arguments; the order is the order of starting.
ROLES: Final[dict[str, tuple[str, ...]]] = {
    "receive": ("receive",),
    "relay": ("relay",),
    "deidentify": ("deidentify",),
    "deidentify-bulk": ("deidentify", "--lane", "bulk"),
    "catalog": ("catalog",),
    "ledger": ("ledger",),
    "score": ("score",),
    "score-bulk": ("score", "--lane", "bulk"),
    "exporter": ("exporter",),
}
#: The part that runs where it is installed, as a role like the others.
PROMETHEUS: Final = "prometheus"
#: What `up --s3` starts besides.
WITH_S3: Final = (access.GATEWAY, "bridge", "lister")
#: What runs besides with PRODROME_STACK_IMAGES.
WITH_IMAGES: Final[dict[str, tuple[str, ...]]] = {"score-images": ("score", "--lane", "images")}


#: What says that a part is ready; roles of prodrome say it in their metrics.
READY_PATHS: Final = {PROMETHEUS: "/-/ready", access.GATEWAY: "/healthz"}

#: What the stack itself decides, for each zone.
DECIDED: Final = (
    "_KAFKA", "_KAFKA_USERNAME", "_KAFKA_PASSWORD_FILE", "_KAFKA_MECHANISM", "_KAFKA_TLS",
    "_CASSANDRA", "_CASSANDRA_USERNAME", "_CASSANDRA_PASSWORD_FILE", "_CASSANDRA_TLS",
    "_REPLICATION", "_TLS_CA", "_RECEIVE_PORT", "_BUCKETS_ENDPOINT", "_BUCKETS_CREDENTIALS_FILE",
    "_BRIDGE_EVENTS",
)  # fmt: skip


@click.command()
@click.option("--s3", is_flag=True, help="With an S3 gateway and the roles that read its bucket.")
def up(s3: bool) -> None:
    """Start what is not running and return when every role is ready.

    Kafka and Cassandra are fetched at the first call. State lies under .prodrome (PRODROME_HOME). With --s3 (kept from
    then on) a gateway is built with Go at the first call; whatever a client of S3 puts into its bucket `dicom` is
    taken in, as if it had come by C-STORE.
    """
    if s3:
        os.environ[f"{PREFIX}STACK_S3"] = "true"
    with told():
        addresses = bring_up(click.echo)
        with audited(load(), "up"):  # of the addresses that only now are known
            pass
    click.echo(
        f"DICOM: PRODROME@127.0.0.1:{addresses.dicom}   Kafka: {addresses.bootstrap}   `prodrome status`"
    )
    at = layout(load())
    if at.s3:
        click.echo(
            f"S3: {addresses.s3_endpoint}, bucket {GATEWAY_BUCKET}; id and secret are in {at.credentials}"
        )


@click.command()
def down() -> None:
    """Stop all roles, then Kafka and Cassandra, and return when no process is left."""
    from infra.stack.lifecycle import down as stop

    with told():
        found = settings()
        with audited(found, "down", begins=True) if found.home.is_dir() else nullcontext():
            stop(layout(found), click.echo)


@click.command()
@click.argument("role", type=click.Choice(sorted((*ROLES, *WITH_S3, *WITH_IMAGES))))
def restart(role: str) -> None:
    """Stop ROLE and start it again: for one that stopped itself past its limit of dead letters.

    Loses nothing: what it had not finished comes again.
    """
    from infra.stack.supervise import connect

    with told():
        found = settings()
        supervisor = connect(layout(found))
        if supervisor is None:
            raise SettingsError("the stack is not up: `prodrome up`")
        with audited(found, "restart", role=role):
            supervisor.stop([role])
            supervisor.start([role])


@click.command()
@click.option("--print-access", is_flag=True, help="Say which users and grants it takes, and change nothing.")
@click.option(
    "--secrets",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Make users and grants too, with the passwords in this folder (`prodrome secrets`).",
)
def migrate(print_access: bool, folder: Path | None) -> None:
    """Create the topics, keyspaces and tables that do not exist yet; the only command that does.

    The stack of this home gets its users and grants too; clusters that are prodrome's alone get them with
    --secrets, and whatever else is there is taken away. On clusters that others use, an administrator makes
    them: --print-access says which, as lines for kafka-acls.sh and cqlsh.
    """
    with told():
        found = settings()
        if print_access:
            for line in access_commands(found):
                click.echo(line)
            return
        recorded = recorded_addresses(layout(found))
        if folder:
            made = make_site_access(found, folder)
        elif recorded and logins.password_file(layout(found), access.ADMIN, "kafka").exists():
            found = load({**os.environ, **logins.as_settings(layout(found), recorded, access.ADMIN)})
            made = make_access(found, recorded)
        else:
            made = apply_migrations(found)
        for name in made:
            click.echo(name)


def bring_up(say: object) -> Addresses:
    """Start the whole stack; see `up`."""
    from infra.stack.lifecycle import up as start

    found, arguments = _settings_of_home(), ROLES | WITH_IMAGES
    make_secrets(found)
    now = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    given = {**given_before(found.home / "prodrome.env"), **now}

    def prepare(addresses: Addresses) -> None:
        write_environment(
            found.home / "prodrome.env", role_environment(found, addresses, given, access.OPERATOR)
        )
        admin = load(role_environment(found, addresses, given, access.ADMIN))
        make_access(admin, addresses)
        for lag in pull_back_groups(admin):
            what = f"{lag.group} stood {lag.messages} messages past what Kafka has kept of {lag.topic}"
            say(f"{what}: set back")  # type: ignore[operator]

    def role(name: str, addresses: Addresses) -> Role:
        return Role(
            name=name,
            command=(sys.executable, "-m", "prodrome", *arguments.get(name, (name,))),
            env={
                **role_environment(found, addresses, given, arguments.get(name, (name,))[0]),
                ENV_FILE: "",  # that file says how operators log in
                "PRODROME_ROLE_METRICS_PORT": str(_port(name, addresses)),
            },
            metrics_port=_port(name, addresses),
            ready_path=READY_PATHS.get(name, ""),
        )

    return start(layout(found), roles(found), role, prepare, say)  # type: ignore[arg-type]


def roles(found: Settings) -> tuple[str, ...]:
    """Return what runs besides Kafka and Cassandra: the roles, and Prometheus where it is installed."""
    prometheus = (PROMETHEUS,) if shutil.which(PROMETHEUS) else ()
    images = WITH_IMAGES if found.stack.images else ()
    return (*ROLES, *prometheus, *(WITH_S3 if found.stack.s3 else ()), *images)


def _settings_of_home() -> Settings:
    """Return the settings with what an earlier `up` of this home was given."""
    home = load().home
    return load({**given_before(home / "prodrome.env"), **os.environ})


def _port(name: str, addresses: Addresses) -> int:
    return addresses.s3 if name == access.GATEWAY else addresses.metrics[name]


def pull_back_groups(found: Settings) -> "list[Lag]":
    """Set back the groups whose messages a power loss has taken; nothing to do at any other start."""
    from commands.status import groups_of
    from infra.kafka import pull_back
    from schemas.topics import BY_NAME

    pulled = []
    for name, zone in (("trusted", found.trusted), ("clean", found.clean)):
        groups = {
            group: topics for group, topics in groups_of(found).items() if BY_NAME[topics[0]].zone == name
        }
        pulled += pull_back(kafka_of(zone), groups)
    return pulled


def layout(found: Settings) -> Layout:
    """Return where the one-machine stack lives."""
    return Layout(found.home, Path(found.stack.lib), found.stack.tls, found.stack.nodes, found.stack.s3)


def role_environment(
    found: Settings, addresses: Addresses, given: Mapping[str, str], principal: str
) -> dict[str, str]:
    """Return the settings of a principal: how it reaches the stack, then what callers of `up` have set.

    Of a zone where it may do nothing it is not told a thing.
    """
    environment = {
        **logins.as_settings(layout(found), addresses, principal),
        **(gateway.as_settings(layout(found), addresses, principal) if found.stack.s3 else {}),
        "PRODROME_RECEIVE_PORT": str(addresses.dicom),
        **given,
        "PRODROME_HOME": str(found.home),
    }
    strange = tuple(f"{PREFIX}{zone.upper()}_" for zone in logins.ZONES if not access.uses(principal, zone))
    if not gateway.reads_buckets(principal):
        strange = (*strange, f"{PREFIX}BUCKETS_")
    return {name: value for name, value in environment.items() if not name.startswith(strange)}


def write_environment(path: Path, environment: Mapping[str, str]) -> None:
    """Write the settings that commands of this home take when the environment does not say otherwise."""
    lines = [f"{name}={value}" for name, value in sorted(environment.items()) if name != "PRODROME_HOME"]
    write_secret(path, "# written by `prodrome up`; the environment wins over it\n" + "\n".join(lines) + "\n")


def given_before(path: Path) -> dict[str, str]:
    """Return what earlier calls of `up` were given, so that a plain `up` changes nothing; edit the file to unset."""
    return {name: value for name, value in read_env_file(path).items() if not name.endswith(DECIDED)}


def make_secrets(found: Settings) -> None:
    """Make the master key, once: losing it means that later images never match earlier ones."""
    path = Path(found.deidentify.master_key_file)
    if not path.exists():
        if (found.home / "cassandra").exists():
            raise SettingsError(
                f"the master key {path} is gone and there are data: restore your backup. A new key would give"
                " every patient a new pseudonym and leave the vault closed for ever."
            )
        write_secret(path, secrets.token_bytes(32).hex() + "\n")


def make_access(found: Settings, addresses: Addresses) -> list[str]:
    """Make topics, tables, users and grants of this home's stack, as its administrator; return what was made."""
    from infra.access import close_cassandra, close_kafka

    made = apply_migrations(found)
    at = layout(found)  # these two are the stack's own, whatever the settings point at
    close_kafka(logins.kafka_as(at, addresses), logins.passwords(at, "kafka"), gateway=at.s3)
    close_cassandra(logins.cassandra_as(at, addresses), keyspaces(found), logins.passwords(at, "cassandra"))
    return made


def make_site_access(found: Settings, folder: Path) -> list[str]:
    """Make topics, tables, users and grants of a site whose Kafka and Cassandra are prodrome's alone.

    Raises
    ------
    SettingsError
        The zones have clusters of their own: there an administrator makes users and grants.
    """
    from commands.site_secrets import passwords
    from infra.access import close_cassandra, close_kafka
    from infra.connections import cassandra_of, kafka_of

    if (found.trusted.kafka, found.trusted.cassandra) != (found.clean.kafka, found.clean.cassandra):
        raise SettingsError(
            "--secrets: expected one Kafka and one Cassandra for both zones; see --print-access"
        )
    made = apply_migrations(found)
    close_kafka(kafka_of(found.trusted), passwords(folder, "kafka"))
    close_cassandra(cassandra_of(found.trusted), keyspaces(found), passwords(folder, "cassandra"))
    return made


def access_commands(found: Settings) -> list[str]:
    """Return what an administrator of existing clusters has to run, a zone after the other."""
    from infra.access import as_commands

    return [line for zone in logins.ZONES for line in (f"# {zone}", *as_commands(zone, keyspaces(found)))]


def keyspaces(found: Settings) -> dict[Zone, str]:
    """Return the keyspace of each zone."""
    return {"trusted": found.trusted.keyspace, "clean": found.clean.keyspace}


def apply_migrations(found: Settings) -> list[str]:
    """Make topics, keyspaces and tables of both zones; return what was made."""
    from infra.cassandra import migrate as apply
    from infra.connections import cassandra_of, kafka_of
    from infra.kafka import create_topics
    from schemas.topics import TOPICS

    made = []
    for name, zone in (("trusted", found.trusted), ("clean", found.clean)):
        made += create_topics(kafka_of(zone), [t for t in TOPICS if t.zone == name], zone.topic_replication)
        made += apply(cassandra_of(zone), zone.keyspace, name, zone.replication)
    return made
