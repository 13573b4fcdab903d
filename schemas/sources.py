"""A source: who may send, or which part of a bucket is read, and how what comes from it is treated.

The receiver admits an association only if one source matches its calling AE title, its address and the
called AE title; the bridge admits an object only if a source names its bucket and how its key begins. What a
source sets (project, quiet time, issuer, strictness) is in force from the door on.
"""

import ipaddress
import re
from collections.abc import Iterable, Set
from typing import Final

import msgspec

from schemas.ids import valid_project, valid_uid

LOOPBACK = ("127.0.0.0/8", "::1/128")
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One configured sender.

    Attributes
    ----------
    name : str
        Names the source in records, events and metrics; never an AE title as received.
    project : str
        Everything that this source sends belongs to it.
    calling_ae_titles : tuple of str
        Admitted calling AE titles; empty admits any from the addresses.
    addresses : tuple of str
        Admitted addresses and networks (CIDR).
    certificates : tuple of str
        Admitted client certificates, by a subject alternative name or by ``sha256:`` and the fingerprint in hex;
        empty admits any that the receiver's CAs have signed.
    called_ae_title : str
        The called AE title that leads to this source; empty takes the receiver's own.
    issuer : str
        Issuer of Patient ID where the dataset names none.
    quiet_seconds : float
        A study of this source is taken as closed after this long without an instance.
    strict : bool
        Refuse (A900, C000) what differs from its command or cannot be read, instead of keeping it for a
        person to judge.
    admit_burned_in : bool
        Admit SOP classes that may have text burned in.
    transfer_syntax_order : tuple of str
        Preferred transfer syntaxes, best first; empty takes the order of the conformance statement.
    max_associations : int
        Associations at once; 0 sets no cap but the receiver's.
    reserved_associations : int
        So many of the receiver's slots are kept for this source, whoever else comes.
    bucket : str
        A bucket that is read instead of a sender that is waited for; what is about associations is then unused.
    prefix : str
        How the keys of this source begin; empty takes the whole bucket. Of several sources the longest wins.
    """

    name: str
    project: str = "default"
    calling_ae_titles: tuple[str, ...] = ()
    addresses: tuple[str, ...] = LOOPBACK
    certificates: tuple[str, ...] = ()
    called_ae_title: str = ""
    issuer: str = ""
    quiet_seconds: float = 15.0
    strict: bool = False
    admit_burned_in: bool = False
    transfer_syntax_order: tuple[str, ...] = ()
    max_associations: int = 0
    reserved_associations: int = 0
    bucket: str = ""
    prefix: str = ""

    def __post_init__(self) -> None:
        # msgspec turns a ValueError raised here into a ValidationError that names the table.
        if not valid_project(self.name) or not valid_project(self.project):
            raise ValueError("name and project: expected lower case letters, digits and dashes")
        for network in self.addresses:
            ipaddress.ip_network(network)
        if any(not 0 < len(title.strip()) <= 16 for title in self.calling_ae_titles):
            raise ValueError("calling_ae_titles: expected 1 to 16 characters each")
        if len(self.called_ae_title) > 16 or self.quiet_seconds <= 0:
            raise ValueError("called_ae_title: at most 16 characters; quiet_seconds: above 0")
        if not all(valid_uid(uid) for uid in self.transfer_syntax_order):
            raise ValueError("transfer_syntax_order: expected UIDs")
        if not 0 <= self.reserved_associations <= (self.max_associations or self.reserved_associations):
            raise ValueError("reserved_associations: expected 0 up to max_associations")
        if self.bucket and not _BUCKET.fullmatch(self.bucket):
            raise ValueError("bucket: expected 3 to 63 lower case letters, digits, dots and dashes")
        if self.prefix and not self.bucket:
            raise ValueError("prefix: expected a bucket beside it")


def matching(
    sources: Iterable[Source],
    *,
    calling: str,
    called: str,
    address: str,
    own_title: str,
    certificate: Set[str] = frozenset(),
) -> Source | None:
    """Return the first source that admits this caller under this called AE title, or None.

    Parameters
    ----------
    calling, called : str
        AE titles as proposed.
    address : str
        Address of the peer.
    own_title : str
        The receiver's AE title, for sources that name no other.
    certificate : set of str
        What the peer's verified certificate says of it.
    """
    peer = ipaddress.ip_address(address)
    peer = getattr(peer, "ipv4_mapped", None) or peer
    for source in sources:
        if (
            not source.bucket
            and called.strip() == (source.called_ae_title or own_title)
            and (not source.calling_ae_titles or calling.strip() in source.calling_ae_titles)
            and (not source.certificates or not certificate.isdisjoint(map(str.lower, source.certificates)))
            and any(peer in ipaddress.ip_network(network) for network in source.addresses)
        ):
            return source
    return None


def of_object(sources: Iterable[Source], bucket: str, key: str) -> Source | None:
    """Return the source that an object belongs to, or None: then it is none of ours."""
    found = [source for source in sources if source.bucket == bucket and key.startswith(source.prefix)]
    return max(found, key=lambda source: len(source.prefix), default=None) if bucket else None
