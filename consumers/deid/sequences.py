"""A sequence put together from its cleaned items: what is written of it, said, and searched.

One pass over all elements of its items, for this is most of what an enhanced multi-frame header costs; what is the
same of every sequence of one tag is made once (`Shell`).
"""

from collections.abc import Callable, Mapping
from struct import Struct
from typing import Final

import msgspec

from consumers.deid.cleaned import NOTHING, Cleaned
from consumers.deid.elements import Bytes, Element
from consumers.deid.jsonmodel import object_of
from consumers.deid.residual import Where
from consumers.deid.syntaxes import Syntax
from consumers.deid.writer import item_header, sequence_header

_LENGTHS: Final = {big: Struct(">L" if big else "<L").pack for big in (False, True)}


class Shell(msgspec.Struct, frozen=True, eq=False):
    """What every sequence of one tag has about its items: headers but for their lengths, and the heads of members."""

    element: Element
    header: bytes
    item: bytes
    length: Callable[[int], bytes]
    json: bytes
    did: bytes


class Kept(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What is left of a sequence, as `Cleaned` has it."""

    written: bytes = b""
    json: bytes = b""
    traces: Mapping[str, Where] = NOTHING
    text: str = ""
    did: bytes = b""
    personal: bool = False


def shell_of(tag: int, syntax: Syntax) -> Shell:
    """Return the shell of a tag's sequences, as a syntax writes them."""
    return Shell(
        Element(tag, "SQ", items=()),
        sequence_header(tag, 0, syntax)[:-4],  # in each syntax the last four bytes are the length
        item_header(0, syntax)[:-4],
        _LENGTHS[syntax.big],
        b'"%08X":{"vr":"SQ"' % tag,
        b'"%08X":[' % tag,
    )


def kept_of(shell: Shell, items: list[list[Cleaned]]) -> Kept:
    """Return what is left of a sequence that keeps these items."""
    length = shell.length
    body: list[bytes] = []
    json: list[bytes] = []
    did: list[bytes] = []
    traces: dict[str, Where] = {}
    text: list[str] = []
    personal = False
    for item in items:
        parts: list[Bytes] = []
        members: list[bytes] = []
        done: list[bytes] = []
        for one in item:
            done.append(one.did)
            if not one.written:  # removed: nothing of it is left
                continue
            parts.append(one.written)
            if one.bulk:
                parts.append(one.bulk)
            members.append(one.json)
            if one.traces:
                traces.update(one.traces)
            if one.text:
                text.append(one.text)
            if one.personal:
                personal = True
        encoded = b"".join(parts)
        body += (shell.item, length(len(encoded)), encoded)
        json.append(object_of(members))
        did.append(object_of(done))
    encoded, inside = b"".join(body), b",".join(did)
    return Kept(
        b"".join((shell.header, length(len(encoded)), encoded)),
        b"".join((shell.json, b',"Value":[', b",".join(json), b"]}")) if items else shell.json + b"}",
        traces,
        "\n".join(text),
        b"".join((shell.did, inside, b"]")) if inside.strip(b"{},") else b"",
        personal,
    )
