"""De-identify one instance: bytes as received in, a clean file and its facts out, or a quarantine reason."""

from consumers.deid.keys import ProjectKeys
from consumers.deid.model import Deidentified, InstanceFacts, IntakeContext, VaultEntry
from consumers.deid.profile import Profile, basic_profile

__all__ = [
    "Deidentified", "InstanceFacts", "IntakeContext", "Profile", "ProjectKeys", "VaultEntry",
    "basic_profile", "clean_object_key", "deidentify", "deidentify_file", "split_part10",
]  # fmt: skip


def deidentify(raw: bytes, context: IntakeContext, profile: Profile, keys: ProjectKeys) -> Deidentified:
    """De-identify one dataset; raise `schemas.errors.Quarantine` for anything doubtful."""
    raise NotImplementedError


def split_part10(file_bytes: bytes) -> tuple[str, str, str, bytes]:
    """Split a file into (transfer syntax UID, SOP class UID, SOP instance UID, dataset bytes)."""
    raise NotImplementedError


def deidentify_file(file_bytes: bytes, profile: Profile, keys: ProjectKeys, *, project: str = "default") -> bytes:
    """De-identify a DICOM file held in memory and return the clean file."""
    raise NotImplementedError


def clean_object_key(
    *, content_id: str, pixel_id: str, transfer_syntax_uid: str, profile: Profile, keys: ProjectKeys
) -> str:
    """Return the keyed digest under which the clean object is stored."""
    raise NotImplementedError
