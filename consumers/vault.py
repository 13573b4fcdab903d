"""The vault: what the way back needs, by pseudonymous study, sealed. Trusted.

A row a study (patient and study modules, accession, requests, source) and a row an instance (original UIDs,
class, effective content). Written before an intake is settled, and made again when the spool is republished.
A later instance of a study overwrites the study's row with the same or a newer reading of the same modules.
"""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

from consumers.boundary import Crossing
from consumers.deid.keys import ProjectKeys
from infra.cassandra import Statement, Tables
from infra.seal import Sealer
from infra.secret_files import MASTER

_STUDY: Final = "INSERT INTO vault_studies (project, study, key_id, sealed) VALUES (?, ?, ?, ?)"
_INSTANCE: Final = "INSERT INTO vault_instances (project, study, sop, key_id, sealed) VALUES (?, ?, ?, ?, ?)"
_ACCESSION: Final = "INSERT INTO accession_studies (project, accession_key, study) VALUES (?, ?, ?)"
_INSTANCE_FIELDS: Final = (
    "study_instance_uid",
    "series_instance_uid",
    "sop_instance_uid",
    "sop_class_uid",
    "frame_of_reference_uid",
    "acquisition_time",
)


class Vault:
    """Reads and writes vault rows; holds the secrets."""

    def __init__(self, tables: Tables, secrets: Mapping[int, bytes], key_id: str) -> None:
        self._tables, self._key_id = tables, key_id
        self._sealer = cache(lambda project: Sealer(secrets, project, "vault", key_id))
        self._keys = cache(lambda project: ProjectKeys.derive(secrets[MASTER], project, key_id))

    def rows(self, project: str, crossings: Sequence[Crossing]) -> list[list[Statement]]:
        """Return the rows of newly crossed instances by partition; a repeat means the same.

        Those of a study stand in one partition, whose two tables are written together.
        """
        by_study: dict[str, list[Crossing]] = defaultdict(list)
        for crossing in crossings:
            by_study[crossing.study_instance_uid].append(crossing)
        partitions = []
        for study, members in by_study.items():
            instances = [self._instance_row(project, study, c) for c in members]
            partitions.append([*instances, self._study_row(project, study, members[-1])])
            partitions += [[row] for row in self._accession_rows(project, study, members[-1])]
        return partitions

    def study(self, project: str, study: str) -> dict[str, Any] | None:
        """Return what is kept of a pseudonymous study, opened; None where nothing is."""
        rows = self._tables.run(
            "SELECT sealed FROM vault_studies WHERE project = ? AND study = ?", (project, study)
        )
        return self._open(project, rows[0].sealed, f"{project} {study}") if rows else None

    def instance(self, project: str, study: str, sop: str) -> dict[str, Any] | None:
        """Return what is kept of one pseudonymous instance, opened; None where nothing is."""
        rows = self._tables.run(
            "SELECT sealed FROM vault_instances WHERE project = ? AND study = ? AND sop = ?",
            (project, study, sop),
        )
        return self._open(project, rows[0].sealed, f"{project} {study} {sop}") if rows else None

    def sealed_again(self, sealed: bytes, *belongs_to: str) -> bytes:
        """Return a value of project, study (and instance) sealed anew, under the latest secret."""
        sealer, owner = self._sealer(belongs_to[0]), " ".join(belongs_to)
        return sealer.seal(sealer.open(sealed, owner), owner)

    def studies_of_accession(self, project: str, accession: str) -> list[str]:
        """Return the pseudonymous studies that carry an accession number."""
        rows = self._tables.run(
            "SELECT study FROM accession_studies WHERE project = ? AND accession_key = ?",
            (project, self._accession_key(project, accession)),
        )
        return [row.study for row in rows]

    def forgotten_accession(self, project: str, accession: str, study: str) -> Statement:
        """Return the statement that removes a study from its accession number."""
        key = self._accession_key(project, accession)
        return "DELETE FROM accession_studies WHERE project = ? AND accession_key = ? AND study = ?", (
            project,
            key,
            study,
        )

    def _instance_row(self, project: str, study: str, crossing: Crossing) -> Statement:
        kept = {name: getattr(crossing.vault, name) for name in _INSTANCE_FIELDS}
        kept |= {"content_id": crossing.content_id, "pixel_id": crossing.pixel_id, "source": crossing.source}
        sealed = self._seal(project, kept, f"{project} {study} {crossing.sop_instance_uid}")
        return _INSTANCE, (project, study, crossing.sop_instance_uid, self._key_id, sealed)

    def _study_row(self, project: str, study: str, crossing: Crossing) -> Statement:
        if crossing.vault is None:
            raise ValueError("expected a clean crossing")
        kept = {k: v for k, v in dataclasses.asdict(crossing.vault).items() if k not in _INSTANCE_FIELDS[1:]}
        kept |= {"source": crossing.source, "patient": crossing.patient}
        sealed = self._seal(project, kept, f"{project} {study}")
        return _STUDY, (project, study, self._key_id, sealed)

    def _accession_rows(self, project: str, study: str, crossing: Crossing) -> list[Statement]:
        if crossing.vault is None or not crossing.vault.accession_number:
            return []
        return [(_ACCESSION, (project, self._accession_key(project, crossing.vault.accession_number), study))]

    def _accession_key(self, project: str, accession: str) -> bytes:
        return bytes.fromhex(self._keys(project).keyed_digest("accession", accession.strip()))

    def _seal(self, project: str, kept: dict[str, Any], belongs_to: str) -> bytes:
        return self._sealer(project).seal(json.dumps(kept).encode(), belongs_to)

    def _open(self, project: str, sealed: bytes, belongs_to: str) -> dict[str, Any]:
        opened: dict[str, Any] = json.loads(self._sealer(project).open(sealed, belongs_to))
        return opened
