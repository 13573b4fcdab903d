"""`prodrome keys`: exchange the secret that seals the vault and the quarantine. Trusted.

Pseudonyms are made of the master secret, the first line of the key file, and that does not rotate: every
pseudonym would change. What seals may: a later line seals from then on, what older ones sealed is sealed anew
(`rewrap`), and a line that seals nothing any more goes (`retire`). Each step may end anywhere and be run again.
"""

import secrets as random
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from commands.auditing import audited
from commands.wiring import fail, opened, settings, told
from consumers.kept import Kept
from consumers.sealed import Sealed, sealed_values
from consumers.vault import Vault
from infra.cassandra import Tables
from infra.seal import MOST_SECRETS
from infra.secret_files import MASTER, key_text, write_secret
from infra.settings import Settings, sealing_secrets
from schemas.errors import BadMessage, SettingsError

_AT_ONCE = 256


@click.group()
def keys() -> None:
    """Exchange the secret that seals the vault and the quarantine.

    1. `prodrome keys rotate` adds a secret to the key file: copy the file wherever it is kept (`prodrome backup`).
    2. Restart the roles that seal: `prodrome restart deidentify`, and deidentify-bulk.
    3. `prodrome keys rewrap` seals anew what older secrets sealed.
    4. `prodrome keys retire N` takes an older secret out of the file, once nothing is sealed under it.
    """


@keys.command("list")
def list_() -> None:
    """Count what is sealed under each secret of the key file. Shows no secret."""
    with told():
        found = settings()
        known = sealing_secrets(found)
        with opened(found.trusted) as tables:
            counts = Counter((one.number, one.kept) for one in _values(found, tables))
    table = Table("secret", "seals", "sealed")
    for number in sorted({*known, *(number for number, _ in counts)}):
        seals = "from now on" if number == max(known) else "" if number in known else "not in the file"
        lines = [f"{count} {kept}" for (n, kept), count in sorted(counts.items()) if n == number]
        table.add_row(str(number), seals, "\n".join(lines) or "nothing")
    Console().print(table)


@keys.command()
def rotate() -> None:
    """Add a secret to the key file; it seals from each role's next start on."""
    with told():
        found = settings()
        with audited(found, "keys", begins=True, step="rotate") as entry:
            entry["number"] = number = add_secret(found)
    click.echo(f"secret {number} is in {found.deidentify.master_key_file}")
    click.echo("next: a backup, `prodrome restart deidentify` (and deidentify-bulk), `prodrome keys rewrap`")


@keys.command()
def rewrap() -> None:
    """Seal anew, under the latest secret, what older ones sealed. A second time changes nothing."""
    with told():
        found = settings()
        newest = max(sealing_secrets(found))
        with opened(found.trusted) as tables, audited(found, "keys", begins=True, step="rewrap") as entry:
            done, shut = seal_again(tables, _values(found, tables), newest)
            entry |= {"values": done.total(), "shut": shut.total()}
    click.echo("".join(f"{count:8} {kept}\n" for kept, count in sorted(done.items())), nl=False)
    click.echo(f"{done.total()} sealed anew under secret {newest}")
    if shut:
        said = ", ".join(f"{count} {kept}" for kept, count in sorted(shut.items()))
        fail(
            f"do not open, and stay as they are: {said}. Their secret is not in the file, or they are damaged"
        )


@keys.command()
@click.argument("number", type=int)
def retire(number: int) -> None:
    """Take secret NUMBER out of the key file, if nothing is sealed under it.

    What was backed up before is still sealed under it: keep that backup's key, or make a new backup.
    """
    with told():
        found = settings()
        with (
            opened(found.trusted) as tables,
            audited(found, "keys", begins=True, step="retire", number=number),
        ):
            take_out(found, number, _values(found, tables))
    click.echo(f"secret {number} is no longer in {found.deidentify.master_key_file}")


def add_secret(found: Settings) -> int:
    """Append a new secret to the key file and return its number."""
    known = sealing_secrets(found)
    number = max(known) + 1
    if number > MOST_SECRETS:
        raise SettingsError(
            f"the key file holds {MOST_SECRETS} secrets: a sealed value names its own in one byte"
        )
    _write(found, known | {number: random.token_bytes(32)})
    return number


def seal_again(tables: Tables, values: Iterator[Sealed], newest: int) -> tuple[Counter[str], Counter[str]]:
    """Seal values anew that are not sealed under `newest`; return how many of each kind, and how many do not open."""
    done, shut = Counter[str](), Counter[str]()
    shown = track(values, "sealing anew", total=None, console=Console(stderr=True))
    old = (one for one in shown if one.number != newest)
    while some := list(islice(old, _AT_ONCE)):
        statements = []
        for one in some:
            try:
                statements.append(one.again())
                done[one.kept] += 1
            except (ValueError, BadMessage):  # damaged, or of another key file: the others do not wait for it
                shut[one.kept] += 1
        tables.run_all(filter(None, statements))
    return done, shut


def take_out(found: Settings, number: int, values: Iterator[Sealed]) -> None:
    """Take a secret out of the key file.

    Raises
    ------
    SettingsError
        It is the master, the latest, or not there; or something is sealed under it.
    """
    known = sealing_secrets(found)
    if number == MASTER:
        raise SettingsError("secret 1 is the master: pseudonyms are made of it, and it stays")
    if number not in known or number == max(known):
        before = ", ".join(str(n) for n in known if n not in (MASTER, max(known))) or "none"
        raise SettingsError(f"expected one of the secrets before the latest ({before}), came {number}")
    left = Counter(one.kept for one in values if one.number == number)
    if left:
        raise SettingsError(
            f"secret {number} still seals {', '.join(f'{n} {kept}' for kept, n in sorted(left.items()))}:"
            " restart the roles that seal, then `prodrome keys rewrap`"
        )
    _write(found, {n: secret for n, secret in known.items() if n != number})


def _values(found: Settings, tables: Tables) -> Iterator[Sealed]:
    vault = Vault(tables, sealing_secrets(found), found.deidentify.key_id)
    return sealed_values(tables, vault, Kept(found))


def _write(found: Settings, secrets: Mapping[int, bytes]) -> None:
    write_secret(Path(found.deidentify.master_key_file), key_text(secrets) + "\n")
