"""Who may come in: two decisions before an association is negotiated. Pure.

1. `identify`: which source this caller is; a stranger is rejected for good.
2. `transient`: whether that source may come in now. Its own cap, the slots that are kept for others, the spool and
   a drain may say later.

pynetdicom accepts any called AE title by default, and checks no address; so the decisions are made here, on
the configured sources, and a doubt is a no.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from producers.receiver.statuses import (
    DRAINING,
    LOCAL_LIMIT,
    SPOOL_HIGH,
    UNKNOWN_CALLED,
    UNKNOWN_CALLER,
    Rejection,
)
from schemas.sources import Source, matching


@dataclass(frozen=True, kw_only=True)
class Caller:
    """What an association request says of itself, and where it comes from."""

    calling: str
    called: str
    address: str
    certificate: frozenset[str] = frozenset()


@dataclass(kw_only=True)
class Session:
    """An admitted association.

    `association` is random and says nothing of the peer: it is what log lines carry. `ordinal` counts what
    was stored; only the association's own thread changes it.
    """

    caller: Caller
    source: Source
    association: str = field(default_factory=lambda: secrets.token_hex(16))
    ordinal: int = 0
    busy: bool = False


def identify(caller: Caller, sources: Sequence[Source], *, own_title: str) -> Source | Rejection:
    """Return the source that admits this caller, or the permanent rejection of a stranger."""
    source = matching(
        sources,
        calling=caller.calling,
        called=caller.called,
        address=caller.address,
        own_title=own_title,
        certificate=caller.certificate,
    )
    if source is not None:
        return source
    titles = {own_title, *(source.called_ae_title for source in sources)}
    return UNKNOWN_CALLER if caller.called in titles else UNKNOWN_CALLED


def transient(
    source: Source,
    sources: Sequence[Source],
    *,
    open_associations: Mapping[str, int],
    max_associations: int,
    spool_ratio: float,
    refuse_ratio: float,
    draining: bool = False,
) -> Rejection | None:
    """Return why this source must come again later, or None where it may come in now.

    Parameters
    ----------
    source : Source
        Who asks; permanent reasons come first, so it is known by now.
    sources : sequence of Source
        All, for the slots that are kept for others.
    open_associations : mapping
        By source name.
    max_associations : int
        In all.
    """
    if draining:
        return DRAINING
    mine = open_associations.get(source.name, 0)
    kept = sum(
        max(0, other.reserved_associations - open_associations.get(other.name, 0))
        for other in sources
        if other.name != source.name
    )
    if sum(open_associations.values()) + kept >= max_associations:
        return LOCAL_LIMIT
    if source.max_associations and mine >= source.max_associations:
        return LOCAL_LIMIT
    if spool_ratio >= refuse_ratio:
        return SPOOL_HIGH
    return None
