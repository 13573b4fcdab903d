"""Which associations are open, and how many instances of each study they have brought.

Kept by the writer beside the records, because the count must agree with their order: written whole at the
start of every segment, and as one record when an association ends. So the relay can say of each study that
an association is done with it, also for an association that a kill has ended.
"""

from typing import Final

from infra.spool.format import (
    AssociationClosedHeader,
    AssociationCounts,
    AssociationsOpenHeader,
    Header,
    InstanceHeader,
)

#: An association that brings more studies than this is an archive being moved: the oldest are forgotten,
#: and close by the quiet rule alone.
MAX_STUDIES: Final = 256


class OpenAssociations:
    """The table; the caller holds the writer's lock."""

    def __init__(self) -> None:
        self._projects: dict[str, str] = {}
        self._studies: dict[str, dict[str, int]] = {}

    def add(self, header: InstanceHeader) -> None:
        """Count one instance that was appended."""
        if header.study_instance_uid is None:
            return
        self._projects[header.association] = header.project
        studies = self._studies.setdefault(header.association, {})
        studies[header.study_instance_uid] = studies.pop(header.study_instance_uid, 0) + 1
        if len(studies) > MAX_STUDIES:
            del studies[next(iter(studies))]

    def withdraw(self, header: InstanceHeader) -> None:
        """Take back one instance whose sync failed."""
        studies = self._studies.get(header.association, {})
        study = header.study_instance_uid
        if study is None or study not in studies:
            return
        studies[study] -= 1
        if not studies[study]:
            del studies[study]

    def close(self, association: str, cause: str) -> AssociationClosedHeader | None:
        """Forget an association; return what to record, or None where it brought nothing to wait for."""
        studies = self._studies.pop(association, None)
        project = self._projects.pop(association, "")
        if not studies:
            return None
        return AssociationClosedHeader(association=association, project=project, studies=studies, cause=cause)

    def snapshot(self) -> AssociationsOpenHeader:
        """Return the table as the record that begins a segment."""
        rows = [
            AssociationCounts(association=name, project=self._projects[name], studies=dict(studies))
            for name, studies in self._studies.items()
            if studies
        ]
        return AssociationsOpenHeader(associations=tuple(rows))

    def replay(self, header: Header | None) -> None:
        """Apply one record of the last segment, at recovery."""
        if isinstance(header, InstanceHeader):
            self.add(header)
        elif isinstance(header, AssociationClosedHeader):
            self.close(header.association, header.cause)
        elif isinstance(header, AssociationsOpenHeader):
            self._projects = {row.association: row.project for row in header.associations}
            self._studies = {row.association: dict(row.studies) for row in header.associations}

    def names(self) -> list[str]:
        """Return the open associations."""
        return list(self._studies)
