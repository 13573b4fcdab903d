"""The backup file: keys and rows that cannot be made again, sealed under a passphrase.

Format 1. A line ``prodrome-backup 1``, a line of JSON (salt, scrypt's cost), then frames: four bytes of length,
big endian, and AES-256-GCM over up to a megabyte of records. The nonce is seven random bytes of the file, a
counter, and one byte that is 1 in the last frame alone (the STREAM construction of Hoang, Reyhanitabar, Rogaway
and Vizar, 2015): a frame that is changed, moved, left out or missing at the end does not open. A record is a
msgpack array with four bytes of length before it; ``["table", name, [columns]]`` begins a table and
``["row", [values]]`` belongs to the table before it; the last is ``["end", {table: rows}]``.

It streams both ways: memory does not grow with the number of rows.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from schemas.errors import ProdromeError

MAGIC: Final = b"prodrome-backup 1\n"
FRAME_BYTES: Final = 1 << 20
#: RFC 7914's parameters for files: about half a second and 128 MiB a guess.
_COST: Final = {"n": 1 << 17, "r": 8, "p": 1}
#: No writer makes more: what a reader allocates for a file that is not what it says.
_MOST_BYTES: Final = FRAME_BYTES + (8 << 20)
_LENGTH: Final = struct.Struct(">I")


class BadBackup(ProdromeError):
    """The file cannot be used; the message says what was expected."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in plain text: how the key is made of the passphrase."""

    salt: bytes
    nonce: bytes
    n: int
    r: int
    p: int


def write(path: Path, passphrase: str, records: Iterable[Any]) -> None:
    """Write a backup, whole or not at all, mode 600; an existing file is replaced at the end.

    Parameters
    ----------
    records : iterable
        As the module describes, the ``end`` record last; taken one by one.
    """
    head = Head(salt=os.urandom(16), nonce=os.urandom(7), **_COST)
    text = msgspec.json.encode(head) + b"\n"
    new = path.with_name(path.name + ".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(MAGIC + text)
        aead = _aead(head, passphrase)
        waiting, number = b"", 0
        for frame in _frames(records):
            if waiting:
                _write_frame(file, aead, head, text, number, waiting, last=False)
                number += 1
            waiting = frame
        _write_frame(file, aead, head, text, number, waiting, last=True)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def read(path: Path, passphrase: str) -> Iterator[Any]:
    """Yield the records of a backup in order.

    Raises
    ------
    BadBackup
        Not a backup, another passphrase, or changed, cut or reordered bytes. Records before it were yielded:
        read a file to its end before anything is done with it.
    """
    try:
        with path.open("rb") as file:
            yield from _read(file, passphrase)
    except OSError as error:
        raise BadBackup(f"{path}: {error.strerror}") from None


def _read(file: BinaryIO, passphrase: str) -> Iterator[Any]:
    if file.read(len(MAGIC)) != MAGIC:
        raise BadBackup("expected a file that begins with 'prodrome-backup 1'")
    text = file.readline(1024)
    try:
        head = msgspec.json.decode(text, type=Head)
    except msgspec.DecodeError:
        raise BadBackup("expected a line of JSON behind the first") from None
    if {"n": head.n, "r": head.r, "p": head.p} != _COST:
        raise BadBackup("expected the cost of format 1: others are refused, not computed")
    aead, number, ended = _aead(head, passphrase), 0, False
    following = _next_frame(file)
    while following:
        frame, following = following, _next_frame(file)
        for record in _opened(aead, head, text, number, frame, last=not following):
            ended = record[0] == "end"
            yield record
        number += 1
    if not ended:
        raise BadBackup("expected an end record: the file is cut")


def _opened(aead: AESGCM, head: Head, text: bytes, number: int, frame: bytes, *, last: bool) -> Iterator[Any]:
    try:
        plain = aead.decrypt(_nonce(head, number, last=last), frame, text)
    except InvalidTag:
        raise BadBackup(
            "cannot be opened: another passphrase, or changed bytes" if number == 0 else
            f"frame {number} cannot be opened: changed, moved or missing bytes"
        ) from None  # fmt: skip
    at = 0
    while at < len(plain):
        (length,) = _LENGTH.unpack_from(plain, at)
        yield msgspec.msgpack.decode(plain[at + 4 : at + 4 + length])
        at += 4 + length


def _frames(records: Iterable[Any]) -> Iterator[bytes]:
    frame = bytearray()
    for record in records:
        body = msgspec.msgpack.encode(record)
        frame += _LENGTH.pack(len(body)) + body
        if len(frame) >= FRAME_BYTES:
            yield bytes(frame)
            frame.clear()
    if frame:
        yield bytes(frame)


def _next_frame(file: BinaryIO) -> bytes:
    size = file.read(_LENGTH.size)
    if not size:
        return b""
    length = _LENGTH.unpack(size)[0] if len(size) == _LENGTH.size else 0
    frame = file.read(length) if 0 < length <= _MOST_BYTES else b""
    if not frame or len(frame) != length:
        raise BadBackup("expected a whole frame: the file is cut or changed")
    return frame


def _write_frame(
    file: BinaryIO, aead: AESGCM, head: Head, text: bytes, number: int, frame: bytes, *, last: bool
) -> None:
    sealed = aead.encrypt(_nonce(head, number, last=last), frame, text)
    file.write(_LENGTH.pack(len(sealed)) + sealed)


def _nonce(head: Head, number: int, *, last: bool) -> bytes:
    return head.nonce + number.to_bytes(4, "big") + bytes([last])


def _aead(head: Head, passphrase: str) -> AESGCM:
    kdf = Scrypt(salt=head.salt, length=32, n=head.n, r=head.r, p=head.p)
    return AESGCM(kdf.derive(passphrase.encode()))
