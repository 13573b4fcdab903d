"""`backup` and `restore`: the master key, and the rows that nothing else can make again.

Without the key no later image matches an earlier one, and the vault stays closed for ever; without the vault
there is no way back from a pseudonym. Both are in one file, sealed under a passphrase. Access credentials are
not in it: `prodrome up` makes new ones. The clean side is made again from what is kept, and is not secret.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click
from rich.progress import track

from commands.auditing import audited
from commands.wiring import opened, settings, told
from infra.backup import BadBackup, read, write
from infra.cassandra import Statement, Tables
from infra.secret_files import key_text, parse_secrets, read_secret, write_secret
from infra.settings import Settings, sealing_secrets
from schemas.errors import SettingsError

#: What the way back needs, and what decides whether a later arrival is a duplicate.
TABLES: Final = (
    "vault_studies", "vault_instances", "accession_studies", "identities", "study_intakes",
)  # fmt: skip
_AT_ONCE: Final = 256
_PASSPHRASE: Final = click.option(
    "--passphrase-file", type=click.Path(path_type=Path, dir_okay=False), required=True,
    help="File of mode 600 with the passphrase; at least 16 characters.",
)  # fmt: skip


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@_PASSPHRASE
@click.option("--keys-only", is_flag=True, help="The master key alone: works without Cassandra.")
def backup(file: Path, passphrase_file: Path, keys_only: bool) -> None:
    """Write the master key and the vault's tables to FILE, sealed; then read it back to check.

    Keep the file and the passphrase apart from each other and from this machine.
    """
    with told():
        found = settings()
        passphrase = _passphrase(passphrase_file)
        with audited(found, "backup", keys_only=keys_only) as entry, opened(found.trusted) as tables:
            write(file, passphrase, records(found, None if keys_only else tables))
            counts = check(file, passphrase)
            entry["rows"] = sum(counts.values())
    click.echo(f"{file}: " + (", ".join(f"{n} {name}" for name, n in counts.items()) or "the key alone"))


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@_PASSPHRASE
@click.option("--keys-only", is_flag=True, help="Put the key back and leave Cassandra alone.")
@click.option("--dry-run", is_flag=True, help="Check the whole file and say what is in it.")
@click.option(
    "--force", is_flag=True, help="Replace another master key, or write over a vault that holds rows."
)
def restore(file: Path, passphrase_file: Path, keys_only: bool, dry_run: bool, force: bool) -> None:
    """Put back what `prodrome backup` wrote: first --keys-only, then `prodrome up`, then the rows.

    The file is read to its end before anything is written. Rows that are there already are written again as
    they were backed up; none is removed. A second time changes nothing.
    """
    with told():
        found = settings()
        passphrase = _passphrase(passphrase_file)
        counts = check(file, passphrase)
        said = ", ".join(f"{n} {name}" for name, n in counts.items()) or "the key alone"
        if dry_run:
            click.echo(f"{file}: whole; {said}")
            return
        with (
            audited(found, "restore", begins=True, keys_only=keys_only) as entry,
            opened(found.trusted) as tables,
        ):
            key_goes_back(found, file, passphrase, force=force)
            if not keys_only and not force and tables.run("SELECT project FROM vault_studies LIMIT 1"):
                raise SettingsError(
                    "the vault holds rows: those of the backup would undo what was decided and forgotten since."
                    " --force writes them over it"
                )
            rows = 0 if keys_only else put_back(tables, file, passphrase, sum(counts.values()))
            entry["rows"] = rows
    click.echo(f"{file}: the key, {rows} rows")


def records(found: Settings, tables: Tables | None) -> Iterator[Any]:
    """Yield what a backup holds: the key, and each table's rows unless `tables` is None."""
    yield ["key", found.deidentify.key_id, key_text(sealing_secrets(found))]
    counts: Counter[str] = Counter()
    for name in TABLES if tables is not None else ():
        columns: list[str] = []
        for row in tables.stream(f"SELECT * FROM {name}") if tables else ():  # noqa: S608  our own names
            if not columns:
                columns = list(row._fields)
                yield ["table", name, columns]
            yield ["row", list(row)]
            counts[name] += 1
    yield ["end", dict(counts)]


def check(file: Path, passphrase: str) -> dict[str, int]:
    """Read a backup to its end and return its rows by table.

    Raises
    ------
    BadBackup
        It does not open, or does not hold as many rows as it says.
    """
    seen: Counter[str] = Counter()
    table = ""
    end: dict[str, int] = {}
    for record in read(file, passphrase):
        match record:
            case ["table", str(table), _] if table not in TABLES:
                raise BadBackup(f"expected one of the tables {', '.join(TABLES)}, came {table}")
            case ["row", _]:
                seen[table] += 1
            case ["end", dict(end)]:
                pass
    if dict(seen) != end:
        raise BadBackup(f"expected {sum(end.values())} rows as its end says, came {sum(seen.values())}")
    return dict(seen)


def key_goes_back(found: Settings, file: Path, passphrase: str, *, force: bool) -> None:
    """Write the secrets of a backup beside those that are there.

    Raises
    ------
    SettingsError
        Another secret of the same number is there, and `force` is not set; or the backup's key has another id than
        the settings'.
    """
    _, key_id, key = next(read(file, passphrase))
    path = Path(found.deidentify.master_key_file)
    if key_id != found.deidentify.key_id:
        raise SettingsError(
            f"the backup's key is called {key_id}: set PRODROME_DEIDENTIFY_KEY_ID to it, now {found.deidentify.key_id}"
        )
    backed_up = parse_secrets(key, str(file))
    here = sealing_secrets(found) if path.exists() and not force else {}
    if any(here.get(number, secret) != secret for number, secret in backed_up.items()):
        raise SettingsError(
            f"{path} holds another master key: what was de-identified with it would never match again."
            " --force replaces it; back it up first"
        )
    write_secret(path, key_text(here | backed_up) + "\n")


def put_back(tables: Tables, file: Path, passphrase: str, total: int) -> int:
    """Write the rows of a backup and return how many; a repeat writes the same."""
    statements = _statements(file, passphrase)
    written = 0
    progress = iter(track(range(total), description="restoring"))
    while some := list(islice(statements, _AT_ONCE)):
        tables.run_all(some)
        written += len(some)
        for _ in some:
            next(progress, None)
    return written


def _statements(file: Path, passphrase: str) -> Iterator[Statement]:
    insert = ""
    for record in read(file, passphrase):
        match record:
            case ["table", str(name), list(columns)]:
                marks = ", ".join("?" for _ in columns)
                insert = f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608
            case ["row", list(values)]:
                yield insert, tuple(values)


def _passphrase(path: Path) -> str:
    text = read_secret(path, "expected a file with the backup's passphrase")
    if len(text) < 16:
        raise SettingsError(f"{path}: expected a passphrase of at least 16 characters, came {len(text)}")
    return text
