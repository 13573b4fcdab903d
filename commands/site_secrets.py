"""`prodrome secrets`: the secret files of a site whose roles run in containers, a folder a principal.

Made once, each with 256 random bits: what is there is kept. Compose mounts the folders as they are; for
Kubernetes `kubectl create secret generic NAME --from-file FOLDER` takes each. Certificates are the site's own.
"""

import secrets as random
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from commands.wiring import told
from infra.secret_files import read_secret, write_secret
from schemas import access
from schemas.topics import Zone


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def secrets(folder: Path) -> None:
    """Make the secret files of a site in FOLDER: logins, the master key, tokens of the spool's reader.

    Keep a copy of deidentify/master.key apart: without it the vault stays closed for ever.
    """
    with told():
        for name, make in wanted(folder):
            if not (folder / name).exists():
                write_secret(folder / name, make() + "\n")
                click.echo(folder / name)


def wanted(folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield every file by its name below the folder, in the order of making, with how its text is made."""
    for principal in access.PRINCIPALS:
        for part in parts_of(principal):
            yield f"{principal}/{part}", lambda: random.token_urlsafe(32)
    yield "deidentify/master.key", lambda: random.token_bytes(32).hex()
    yield "deidentify/reader-token", lambda: random.token_urlsafe(32)
    # the same one: whom the relay admits
    yield "relay/reader-tokens", lambda: (folder / "deidentify" / "reader-token").read_text().strip()


def parts_of(principal: str) -> list[str]:
    """Return the parts that a principal logs in to."""
    zones: tuple[Zone, ...] = ("trusted", "clean")
    uses = {"kafka": access.uses_kafka, "cassandra": access.uses_cassandra}
    return [part for part, used in uses.items() if any(used(principal, zone) for zone in zones)]


def passwords(folder: Path, part: str) -> dict[str, str]:
    """Return the passwords of everybody who has one for a part, by user name."""
    return {
        access.user(principal): read_secret(folder / principal / part, "`prodrome secrets` makes it")
        for principal in access.PRINCIPALS
        if part in parts_of(principal)
    }
