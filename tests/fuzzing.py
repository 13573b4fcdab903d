"""Coverage-guided mutation of byte streams: what reaches a new place of the code is kept, and changed further.

No native fuzzer has this code's branches in sight; `sys.settrace` has, and a stream takes a millisecond.
"""

import random
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

Arc = tuple[str, int, int]

_LENGTHS: Final = (
    0,
    1,
    2,
    3,
    5,
    6,
    7,
    0xFE,
    0xFFFE,
    0xFFFF,
    0x10000,
    0x100001,
    0x7FFFFFFF,
    0xFFFFFFFE,
    0xFFFFFFFF,
)
#: What an hour may grow to.
_CORPUS: Final = 4000


class Found(NamedTuple):
    """How far it came."""

    runs: int
    arcs: int
    corpus: int


def fuzz(
    target: Callable[[bytes, random.Random], None],
    seeds: Sequence[bytes],
    rooms: Sequence[Path],
    chance: random.Random,
    go_on: Callable[[int], bool],
) -> Found:
    """Give the target streams until `go_on` of the number of runs says no.

    Parameters
    ----------
    target : callable
        Raises where something is wrong; the error tells the stream.
    seeds : sequence of bytes
        Streams to begin with.
    rooms : sequence of Path
        Source files whose branches count.

    Raises
    ------
    AssertionError
        With the stream in hexadecimal, from which the target raises the same.
    """
    coverage = _Coverage(rooms)
    corpus: list[bytes] = []
    known: set[Arc] = set()
    runs = 0
    waiting = list(seeds)
    while waiting or go_on(runs):
        stream = waiting.pop() if waiting else _mutated(corpus, chance)
        try:
            arcs = coverage.of(lambda stream=stream: target(stream, chance))  # type: ignore[misc]
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}, from {stream.hex()}") from error
        runs += 1
        if arcs - known or runs <= len(seeds):
            known |= arcs
            corpus.append(stream)
            del corpus[: len(corpus) - _CORPUS]
    return Found(runs, len(known), len(corpus))


class _Coverage:
    """Which lines followed which, in the files that count."""

    def __init__(self, rooms: Sequence[Path]) -> None:
        self._rooms = {str(path) for path in rooms}
        self._arcs: set[Arc] = set()

    def of(self, run: Callable[[], None]) -> set[Arc]:
        self._arcs = set()
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            run()
        finally:
            sys.settrace(before)
        return self._arcs

    def _enter(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        name = frame.f_code.co_filename
        if name not in self._rooms:
            return None
        last = 0

        def step(frame: FrameType, event: str, _argument: Any) -> Any:
            nonlocal last
            if event == "line":
                self._arcs.add((name, last, frame.f_lineno))
                last = frame.f_lineno
            return step

        return step


def _mutated(corpus: Sequence[bytes], chance: random.Random) -> bytes:
    # Mostly the newest: they reached what nobody had.
    at = max(chance.randrange(len(corpus)), chance.randrange(len(corpus)))
    data = bytearray(corpus[at])
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        chance.choice(_CHANGES)(data, chance, corpus)
    return bytes(data)


def _place(data: bytearray, chance: random.Random) -> int:
    return chance.randrange(len(data) + 1)


def _flip(data: bytearray, chance: random.Random, _: Any) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _set(data: bytearray, chance: random.Random, _: Any) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.choice((0, 1, 2, 3, 4, 5, 7, 0x7F, 0x80, 0xFF))


def _length(data: bytearray, chance: random.Random, _: Any) -> None:
    at, form = _place(data, chance), chance.choice((">L", "<L", ">H", "<H"))
    value = chance.choice(_LENGTHS) & (0xFFFF if "H" in form else 0xFFFFFFFF)
    data[at : at + struct.calcsize(form)] = struct.pack(form, value)


def _nearly(data: bytearray, chance: random.Random, _: Any) -> None:
    if len(data) >= 4:
        at = chance.randrange(len(data) - 3)
        value = struct.unpack_from(">L", data, at)[0] + chance.randrange(-8, 9)
        struct.pack_into(">L", data, at, value & 0xFFFFFFFF)


def _cut(data: bytearray, chance: random.Random, _: Any) -> None:
    at = _place(data, chance)
    del data[at : at + chance.choice((1, 2, 6, 12, 100, 1 << 20))]


def _double(data: bytearray, chance: random.Random, _: Any) -> None:
    first, last = sorted((_place(data, chance), _place(data, chance)))
    data[first:first] = data[first:last]


def _insert(data: bytearray, chance: random.Random, _: Any) -> None:
    at = _place(data, chance)
    data[at:at] = chance.randbytes(chance.choice((1, 2, 6, 64, 3000)))


def _splice(data: bytearray, chance: random.Random, corpus: Sequence[bytes]) -> None:
    other = chance.choice(corpus)
    data[_place(data, chance) :] = other[chance.randrange(len(other) + 1) :]


def _append(data: bytearray, chance: random.Random, corpus: Sequence[bytes]) -> None:
    if len(data) < 1 << 20:
        data += chance.choice(corpus)


_CHANGES: Final = (_flip, _set, _length, _length, _nearly, _cut, _double, _insert, _splice, _append)
