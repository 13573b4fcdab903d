"""What another arrival of a SOP Instance UID is: clean, duplicate, corrected or conflict. Pure.

The rule (docs/decisions/0002-identity-by-content.md): the same content in the same pixels, or in another
transfer syntax, is a *duplicate* and has no effect. The same pixels under other content are a *correction*:
the later received is effective. Anything else is a *conflict*: kept, not effective, flagged.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from consumers.deid.digest import is_of_first_release

Identity = Literal["clean", "duplicate", "corrected", "conflict"]


class Version(NamedTuple):
    """One known content of a SOP Instance UID, and the intake that brought it first."""

    content_id: str
    pixel_id: str
    transfer_syntax_uid: str
    intake: str
    outcome: Identity
    version: int


class Arrived(NamedTuple):
    """What has arrived now.

    `first_release` are its digests as release 0.1.0 made them; needed where a known version is of that release.
    """

    content_id: str
    pixel_id: str
    transfer_syntax_uid: str
    intake: str
    first_release: tuple[str, str] | None = None

    def digests_like(self, version: Version) -> tuple[str, str]:
        """Return content and pixel digest in the way in which a version has them."""
        if self.first_release is not None and is_of_first_release(version.content_id):
            return self.first_release
        return self.content_id, self.pixel_id

    def becomes(self, outcome: Identity, version: int) -> Version:
        """Return the version that this arrival is."""
        return Version(*self[:4], outcome, version)


def decide(arrived: Arrived, known: Sequence[Version]) -> Version:
    """Return what `arrived` is beside the known versions of its SOP Instance UID.

    The same intake again gets the answer it had, so that a repeat changes nothing.
    """
    for version in known:
        if _same(arrived, version):
            if version.intake == arrived.intake:
                return version
            return arrived.becomes("duplicate", version.version)
    if not known:
        return arrived.becomes("clean", 0)
    effective = max((v for v in known if v.outcome != "conflict"), key=lambda v: v.version)
    # Not their count: an operator's decision takes a number too (`prodrome resolve`).
    number = 1 + max(v.version for v in known)
    same_pixels = effective.pixel_id == arrived.digests_like(effective)[1]
    return arrived.becomes("corrected" if same_pixels else "conflict", number)


def _same(arrived: Arrived, version: Version) -> bool:
    content, pixels = arrived.digests_like(version)
    return content == version.content_id and (
        pixels == version.pixel_id or arrived.transfer_syntax_uid != version.transfer_syntax_uid
    )
