"""`prodrome deid IN OUT`: files in, clean files out; needs no stack, only the master key."""

from pathlib import Path

import click
from rich.progress import track

from commands.stack import make_secrets
from commands.wiring import settings, told
from consumers.deid.engine import ProjectKeys, basic_profile, deidentify_file
from infra.settings import master_key
from schemas.dicom_reader import read_file_header
from schemas.errors import Quarantine


@click.command()
@click.argument("source", metavar="IN", type=click.Path(exists=True, path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--profile", type=click.Choice(["basic"]), default="basic", show_default=True)
@click.option("--project", default="default", show_default=True, help="Pseudonyms differ by project.")
def deid(source: Path, target: Path, profile: str, project: str) -> None:
    """De-identify the DICOM files of IN (a file or folder) into the folder OUT.

    Files are named by their pseudonymous SOP Instance UID. What is doubtful is not written; it is listed with
    its reason, and the exit status is 1.
    """
    del profile  # one so far
    with told():
        found = settings()
        make_secrets(found)
        keys = ProjectKeys.derive(master_key(found), project, found.deidentify.key_id)
    files = sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]
    target.mkdir(parents=True, exist_ok=True)
    doubtful = 0
    for path in track(files, description="de-identifying"):
        try:
            clean = deidentify_file(path.read_bytes(), basic_profile(), keys, project=project)
        except Quarantine as doubt:
            doubtful += 1
            click.echo(f"{path}: {doubt}", err=True)
            continue
        (target / f"{_sop_instance_uid(clean)}.dcm").write_bytes(clean)
    click.echo(f"{len(files) - doubtful} written, {doubtful} doubtful and not written")
    raise SystemExit(1 if doubtful else 0)


def _sop_instance_uid(clean: bytes) -> str:
    return read_file_header(clean).sop_instance_uid or "unnamed"
