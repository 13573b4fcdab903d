"""`prodrome reidentify`: who or what one pseudonym stands for. Trusted: it opens the vault, and leaves an entry.

1. A patient's pseudonym leads through the clean index to the patient's studies, an instance's UID to its study.
2. The vault's row of the study (and of the instance) is opened with the project's key.
3. The audit trail gets the pseudonym before anything is shown. What is none by its form is refused, and what is
   not known is recorded without it: it may be an identifier that was typed by mistake.
"""

import json
import re
from typing import Any, Final

import click

from commands.auditing import audited
from commands.wiring import opened, settings, told
from consumers.vault import Vault
from infra.cassandra import Tables
from infra.settings import sealing_secrets
from schemas.errors import ProdromeError

_PATIENT: Final = re.compile(r"[0-9a-f]{24}")
_UID: Final = re.compile(r"2\.25\.[0-9]{1,39}")
#: what is shown of the Patient module; the vault holds all of it
_SHOWN: Final = {
    "PatientID": "00100020", "IssuerOfPatientID": "00100021", "PatientName": "00100010",
    "PatientBirthDate": "00100030", "PatientSex": "00100040",
}  # fmt: skip
_STUDY: Final = {"StudyDate": "00080020", "StudyTime": "00080030", "StudyDescription": "00081030"}


@click.command()
@click.argument("pseudonym")
@click.option("--project", default="default", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of lines.")
def reidentify(pseudonym: str, project: str, as_json: bool) -> None:
    """Say who or what one pseudonym stands for: a patient's, or a pseudonymous Study or SOP Instance UID.

    It needs the trusted keyspace's login and the master key, and every call is in the audit trail. One at a
    time: there is no list.
    """
    with told():
        if not (_PATIENT.fullmatch(pseudonym) or _UID.fullmatch(pseudonym)):
            raise ProdromeError(
                "expected 24 hexadecimal digits or a UID under 2.25: that is no pseudonym of ours"
            )
        found = settings()
        with (
            audited(found, "reidentify", project=project) as entry,
            opened(found.trusted) as trusted,
            opened(found.clean) as clean,
        ):
            vault = Vault(trusted, sealing_secrets(found), found.deidentify.key_id)
            answer = _answer(pseudonym, project, vault, clean)
            entry["pseudonym"] = "unknown" if answer is None else pseudonym
    if answer is None:
        click.echo("not known in this project, or forgotten", err=True)
        raise SystemExit(1)
    if as_json:
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        for name, value in answer.items():
            click.echo(f"{name:20} {value}")


def _answer(pseudonym: str, project: str, vault: Vault, clean: Tables) -> dict[str, str] | None:
    if _PATIENT.fullmatch(pseudonym):
        rows = clean.run(
            "SELECT study FROM patient_studies WHERE project = ? AND patient = ?", (project, pseudonym)
        )
        studies = (vault.study(project, row.study) for row in rows)
        return next((_patient(kept) for kept in studies if kept is not None), None)
    kept = vault.study(project, pseudonym)
    if kept is not None:
        return _patient(kept) | _study(kept)
    rows = clean.run("SELECT study FROM instances_by_uid WHERE project = ? AND sop = ?", (project, pseudonym))
    for row in rows:
        kept, instance = vault.study(project, row.study), vault.instance(project, row.study, pseudonym)
        if kept is not None and instance is not None:
            uids = {
                "SeriesInstanceUID": instance["series_instance_uid"],
                "SOPInstanceUID": instance["sop_instance_uid"],
            }
            return _patient(kept) | _study(kept) | uids
    return None


def _patient(kept: dict[str, Any]) -> dict[str, str]:
    shown = {name: _value(kept["patient_module"], tag) for name, tag in _SHOWN.items()}
    return {**shown, "IssuerOfPatientID": shown["IssuerOfPatientID"] or kept["issuer"]}


def _study(kept: dict[str, Any]) -> dict[str, str]:
    shown = {name: _value(kept["study_module"], tag) for name, tag in _STUDY.items()}
    return {
        "StudyInstanceUID": kept["study_instance_uid"],
        "AccessionNumber": kept["accession_number"] or "",
        **shown,
    }


def _value(module: dict[str, Any], tag: str) -> str:
    values = module.get(tag, {}).get("Value", [])
    names = [
        "=".join(filter(None, map(value.get, ("Alphabetic", "Ideographic", "Phonetic"))))
        if isinstance(value, dict)
        else str(value)
        for value in values
        if value is not None
    ]
    return "\\".join(names)
