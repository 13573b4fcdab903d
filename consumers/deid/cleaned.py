"""One element after its judgement, or a run of them: what every step behind the walk works on."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from consumers.deid import residual
from consumers.deid.elements import Bytes, Element
from consumers.deid.jsonmodel import DEFAULT_ENCODINGS, entry_of, member_of
from consumers.deid.syntaxes import Syntax
from consumers.deid.writer import element_bytes

NOTHING: Final[Mapping[Any, Any]] = MappingProxyType({})


class Cleaned(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One element after its judgement.

    `written` is the clean element as encoded, empty where it is removed, with the value in `bulk` where it is
    long; `content`, `content_bulk` and `behind` are what it adds to the content digest (`digest.Content`). `json`
    is its member of the DICOM JSON object. `traces` and `text` are what the residual search looks into,
    `names` what it looks for. `received` is the text as received, `vault` its member of DICOM JSON where the
    way back needs it. `did` is the member of the manifest, empty where nothing was done. A `personal` one is
    other for another patient; one that `turns` changes how those behind it are read. A run of elements that were
    met before is one `Cleaned`, which has them in `members` by tag.
    """

    tag: int
    element: Element
    written: bytes = b""
    bulk: Bytes = b""
    content: bytes = b""
    content_bulk: Bytes = b""
    json: bytes = b""
    traces: Mapping[str, residual.Where] = NOTHING
    text: str = ""
    names: frozenset[str] = frozenset()
    received: str = ""
    vault: Mapping[str, dict[str, Any]] = NOTHING
    did: bytes = b""
    personal: bool = False
    behind: tuple[bytes, ...] = ()
    turns: bool = False
    members: dict[int, "Cleaned"] = {}

    @property
    def last(self) -> int:
        """The tag, of a run the last one."""
        return next(reversed(self.members)) if self.members else self.tag


def own(element: Element, syntax: Syntax, did: str = "own") -> Cleaned:
    """Return an element of our own making, as it is written and said; `did` is what the manifest says of it."""
    entry = entry_of(element, big=syntax.big, encodings=DEFAULT_ENCODINGS)
    member = b"" if entry is None else member_of(element.tag, entry)
    return Cleaned(
        element.tag,
        element,
        written=b"".join(element_bytes(element, syntax)),
        json=member,
        did=b'"%08X":"%b"' % (element.tag, did.encode()),
    )
