"""`prodrome spool ls | verify | extract`: look into a spool. Trusted: its records hold identifiers."""

from collections import Counter
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from commands.wiring import fail, settings, told
from infra.spool import InstanceHeader, Kind, Record, SpoolReader, SpoolStore, pointer_to, readers
from schemas.errors import BadMessage


@click.group()
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path), help="The spool; this machine's by default."
)
@click.pass_context
def spool(ctx: click.Context, folder: Path | None) -> None:
    """List, verify or extract what a receiver has made durable. Reads only; the receiver may run."""
    path = folder or Path(settings().spool.path)
    ctx.obj = list(readers(path).values())
    if not ctx.obj:
        fail(f"no spool at {path}: a receiver makes one when it starts")


@spool.command()
@click.pass_obj
def ls(found: list[SpoolReader]) -> None:
    """List the segments: instances, bytes, whether there will be more."""
    for reader in found:
        table = Table("segment", "instances", "bytes", "sealed", title=f"spool {reader.id}")
        for number in reader.segments():
            segment, records = reader.segment(number), _instances(reader, number)
            size = sum(record.payload_length for record in records)
            table.add_row(str(number), str(len(records)), str(size), "yes" if segment.sealed else "no")
        Console().print(table)


@spool.command()
@click.pass_obj
def verify(found: list[SpoolReader]) -> None:
    """Read every instance and compare its checksum; exit status 1 if one differs."""
    store, counted = SpoolStore.of(found[0].folder), Counter[str]()
    segments = [(reader, number) for reader in found for number in reader.segments()]
    for reader, number in track(segments, description="verifying"):
        for record in _instances(reader, number):
            counted[_state(store, reader, record)] += 1
    click.echo(", ".join(f"{count} {state}" for state, count in sorted(counted.items())) or "empty")
    raise SystemExit(1 if set(counted) - {"whole"} else 0)


@spool.command()
@click.argument("segment", type=int)
@click.argument("record", type=int)
@click.argument("target", type=click.Path(path_type=Path))
@click.pass_obj
def extract(found: list[SpoolReader], segment: int, record: int, target: Path) -> None:
    """Write the dataset of RECORD of SEGMENT, exactly as received (no file meta), to TARGET.

    Of several receiver processes it is the first one's; for others say `--dir` with the number, as in `spool/2`.
    """
    reader = found[0]
    with told():
        for one in _instances(reader, segment):
            if one.number == record and isinstance(one.header, InstanceHeader):
                target.write_bytes(SpoolStore.of(reader.folder).read(pointer_to(reader.id, one)))
                click.echo(f"{one.payload_length} bytes, transfer syntax {one.header.transfer_syntax_uid}")
                return
    fail(f"no record {record} in segment {segment}: `prodrome spool ls`")


def _instances(reader: SpoolReader, number: int) -> list[Record]:
    return [record for record in reader.records(number) if record.kind == Kind.INSTANCE]


def _state(store: SpoolStore, reader: SpoolReader, record: Record) -> str:
    try:
        for _ in store.chunks(pointer_to(reader.id, record)):
            pass
    except BadMessage as error:
        return error.reason
    return "whole"
