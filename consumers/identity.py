"""What another arrival of a SOP Instance UID is: clean, duplicate, corrected or conflict. Pure.

The rule (docs/decisions/0002-identity-by-content.md): the same content in the same pixels, or in another
transfer syntax, is a *duplicate* and has no effect. The same pixels under other content are a *correction*:
the later received is effective. Anything else is a *conflict*: kept, not effective, flagged.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

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
    """What has arrived now."""

    content_id: str
    pixel_id: str
    transfer_syntax_uid: str
    intake: str


def decide(arrived: Arrived, known: Sequence[Version]) -> Version:
    """Return what `arrived` is beside the known versions of its SOP Instance UID.

    The same intake again gets the answer it had, so that a repeat changes nothing.
    """
    for version in known:
        if _same(arrived, version):
            if version.intake == arrived.intake:
                return version
            return Version(*arrived, "duplicate", version.version)
    if not known:
        return Version(*arrived, "clean", 0)
    effective = max((v for v in known if v.outcome != "conflict"), key=lambda v: v.version)
    # Not their count: an operator's decision takes a number too (`prodrome resolve`).
    number = 1 + max(v.version for v in known)
    if effective.pixel_id == arrived.pixel_id:
        return Version(*arrived, "corrected", number)
    return Version(*arrived, "conflict", number)


def _same(arrived: Arrived, version: Version) -> bool:
    return arrived.content_id == version.content_id and (
        arrived.pixel_id == version.pixel_id or arrived.transfer_syntax_uid != version.transfer_syntax_uid
    )
