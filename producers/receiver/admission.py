"""Who may come in: one decision before an association is negotiated. Pure.

pynetdicom accepts any called AE title by default, and checks no address; so the decision is made here, on
the configured sources, and a doubt is a no.
"""

import secrets
from collections.abc import Sequence
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


def admit(
    caller: Caller,
    sources: Sequence[Source],
    *,
    own_title: str,
    open_associations: int,
    max_associations: int,
    spool_ratio: float,
    refuse_ratio: float,
    draining: bool = False,
) -> Session | Rejection:
    """Return a session for this caller, or how to reject it.

    Permanent reasons are looked at first: who may never come is not told to try again.
    """
    source = matching(
        sources,
        calling=caller.calling,
        called=caller.called,
        address=caller.address,
        own_title=own_title,
        certificate=caller.certificate,
    )
    if source is None:
        titles = {own_title, *(source.called_ae_title for source in sources)}
        return UNKNOWN_CALLER if caller.called in titles else UNKNOWN_CALLED
    if draining:
        return DRAINING
    if open_associations >= max_associations:
        return LOCAL_LIMIT
    if spool_ratio >= refuse_ratio:
        return SPOOL_HIGH
    return Session(caller=caller, source=source)
