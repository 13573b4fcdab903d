"""`up`, `down`, `migrate`: the one-machine stack, with settings that every role and command then finds.

`up` writes ``<home>/prodrome.env`` (mode 600): addresses and what the caller had set. Secrets are made once,
each in a file of mode 600 under ``<home>/secrets``.
"""

import os
import secrets
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Final

import click

from commands.auditing import audited
from commands.wiring import settings, told
from infra.secret_files import write_secret
from infra.settings import PREFIX, Settings, load, read_env_file
from infra.stack.layout import Addresses, Layout, Role
from schemas.errors import SettingsError

#: name -> arguments; the order is the order of starting.
ROLES: Final[dict[str, tuple[str, ...]]] = {
    "receive": ("receive",),
    "relay": ("relay",),
    "deidentify": ("deidentify",),
    "deidentify-bulk": ("deidentify", "--lane", "bulk"),
    "catalog": ("catalog",),
    "ledger": ("ledger",),
    "score": ("score",),
}


#: What the stack itself decides.
ADDRESSES: Final = (
    "PRODROME_TRUSTED_KAFKA", "PRODROME_CLEAN_KAFKA", "PRODROME_TRUSTED_CASSANDRA", "PRODROME_CLEAN_CASSANDRA",
    "PRODROME_RECEIVE_PORT",
)  # fmt: skip


@click.command()
def up() -> None:
    """Start what is not running and return when every role is ready.

    Kafka and Cassandra are fetched at the first call. State lies under .prodrome (PRODROME_HOME).
    """
    with told():
        addresses = bring_up(click.echo)
        with audited(load(), "up"):  # of the addresses that only now are known
            pass
    click.echo(
        f"DICOM: PRODROME@127.0.0.1:{addresses.dicom}   Kafka: {addresses.bootstrap}   `prodrome status`"
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
@click.argument("role", type=click.Choice(sorted(ROLES)))
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
def migrate() -> None:
    """Create the topics, keyspaces and tables that do not exist yet; the only command that does."""
    with told():
        for name in apply_migrations(settings()):
            click.echo(name)


def bring_up(say: object) -> Addresses:
    """Start the whole stack; see `up`."""
    from infra.stack.lifecycle import up as start

    found = load()
    make_secrets(found)
    now = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    given = {**given_before(found.home / "prodrome.env"), **now}
    environment: dict[str, str] = {}

    def prepare(addresses: Addresses) -> None:
        environment.update(role_environment(found, addresses, given))
        write_environment(found.home / "prodrome.env", environment)
        apply_migrations(load({**os.environ, **environment}))

    def role(name: str, addresses: Addresses) -> Role:
        return Role(
            name=name,
            command=(sys.executable, "-m", "prodrome", *ROLES[name]),
            env={
                **role_environment(found, addresses, given),
                "PRODROME_ROLE_METRICS_PORT": str(addresses.metrics[name]),
            },
            metrics_port=addresses.metrics[name],
        )

    return start(layout(found), tuple(ROLES), role, prepare, say)  # type: ignore[arg-type]


def layout(found: Settings) -> Layout:
    """Return where the one-machine stack lives."""
    return Layout(found.home, Path(found.stack.lib))


def role_environment(found: Settings, addresses: Addresses, given: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a role: the stack's addresses, then what callers of `up` have set."""
    cassandra = f"{addresses.host}:{addresses.cassandra}"
    environment = {
        "PRODROME_HOME": str(found.home),
        "PRODROME_TRUSTED_KAFKA": addresses.bootstrap,
        "PRODROME_CLEAN_KAFKA": addresses.bootstrap,
        "PRODROME_TRUSTED_CASSANDRA": cassandra,
        "PRODROME_CLEAN_CASSANDRA": cassandra,
        "PRODROME_RECEIVE_PORT": str(addresses.dicom),
    }
    return {**environment, **given, "PRODROME_HOME": str(found.home)}


def write_environment(path: Path, environment: Mapping[str, str]) -> None:
    """Write the settings that commands of this home take when the environment does not say otherwise."""
    lines = [f"{name}={value}" for name, value in sorted(environment.items()) if name != "PRODROME_HOME"]
    write_secret(path, "# written by `prodrome up`; the environment wins over it\n" + "\n".join(lines) + "\n")


def given_before(path: Path) -> dict[str, str]:
    """Return what earlier calls of `up` were given, so that a plain `up` changes nothing; edit the file to unset."""
    return {name: value for name, value in read_env_file(path).items() if name not in ADDRESSES}


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
