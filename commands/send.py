"""`prodrome send DIR`: the user's files over real associations, byte for byte."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from commands.wiring import fail, settings
from infra.connections import Tls
from producers.send import Destination, Result
from producers.send import send as send_files

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument(
    "paths", metavar="DIR...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)
)
@click.option("--to", metavar="AE@HOST:PORT", help="Where to; the stack on this machine by default.")
@click.option("--as", "calling", default="PRODROME_SEND", show_default=True, help="Our calling AE title.")
@click.option("--tls-ca", type=_FILE, help="Speak TLS, to who shows a certificate of these CAs (PEM).")
@click.option(
    "--tls-cert", type=_FILE, help="PEM file of our certificate, and of its key if --tls-key names none."
)
@click.option("--tls-key", type=_FILE, help="PEM file of its key.")
@click.option("--associations", default=2, show_default=True, help="How many at once.")
@click.option(
    "--retry", default=60.0, show_default=True, help="Seconds to try again what was refused for the moment."
)
def send(
    paths: tuple[Path, ...],
    to: str | None,
    calling: str,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    associations: int,
    retry: float,
) -> None:
    """Send the DICOM files of DIR (or single files) with C-STORE, exactly as they are.

    Nothing is decoded or converted. Exit status 1 if a file was not taken.
    """
    files = [file for path in paths for file in _files(path)]
    where = destination(to, calling)
    if tls_ca or tls_cert:
        where = replace(where, tls=Tls(ca=tls_ca, cert=tls_cert, key=tls_key))
    results = send_with_progress(files, where, associations, retry)
    refused = [r for r in results if not r.stored]
    counted = Counter(r.error or f"status {r.status:04X}" for r in refused)
    console = Console(stderr=True)
    for reason, count in counted.most_common(20):
        console.print(f"{count} not stored: {reason}")
    click.echo(f"{len(results) - len(refused)} stored, {len(refused)} not")
    raise SystemExit(1 if refused else 0)


def destination(to: str | None, calling: str) -> Destination:
    """Return the destination of ``AE@host:port``, or of this machine's stack."""
    if to is None:
        here = settings().receive
        return Destination(host=here.host, port=here.port, called=here.ae_title, calling=calling)
    called, at, address = to.rpartition("@")
    host, colon, port = address.rpartition(":")
    if not (at and colon and called and host and port.isdigit()):
        fail(f"--to: expected AE@HOST:PORT, came {to!r}", 2)
    return Destination(host=host, port=int(port), called=called, calling=calling)


def send_with_progress(
    files: Sequence[Path],
    where: Destination,
    associations: int = 2,
    retry: float = 60.0,
    title: str = "sending",
) -> list[Result]:
    """Send files with a progress bar and return all results."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    results = []
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=len(files))
        for result in send_files(files, where, associations=associations, retry_seconds=retry):
            results.append(result)
            progress.advance(task)
    return results


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
