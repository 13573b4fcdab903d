"""The order of system calls: was each instance durable before it was answered? A kill cannot show that.

`kill -9` leaves what was written in the kernel's cache, so a skipped sync loses nothing then. Here the calls
themselves are the evidence (`strace -f -y`): for each response that takes responsibility, by its SOP Instance UID,

1. a sync of the segment's file began behind the record's write and ended before the response;
2. a sync of the folder began behind the making of that file and ended before the response.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

#: -s: as much of each buffer as holds a record's header, or the response's command set.
STRACE: Final = (
    "strace", "-f", "--seccomp-bpf", "-qq", "-y", "-s", "1500", "-e", "trace=openat,fdatasync,fsync,pwritev,pwritev2,sendto",
)  # fmt: skip
_UNFINISHED: Final = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED: Final = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")
_WHOLE: Final = re.compile(r"^(\d+) +(\w+)\((.*)$")
_HEADER_UID: Final = re.compile(r'\\"sop_instance_uid\\":\\"([0-9.]+)\\"')
_RESPONSE_UID: Final = re.compile(r"(2\.25\.\d+)")
#: (0000,0900) as strace shows it: 2 bytes, of which the second says A7.
_REFUSED: Final = re.compile(r"\\0\\0\\t\\2\\0\\0\\0\\0\\247")
_FILE: Final = re.compile(r"<([^<>]*\.seg)>")
_FOLDER: Final = re.compile(r"^\d+<([^<>]*)>")


class Call(NamedTuple):
    """A system call: the lines at which it began and ended, and its arguments with its result."""

    name: str
    began: int
    ended: int
    text: str


def calls(lines: Iterable[str]) -> Iterator[Call]:
    """Yield the calls of a trace in the order in which they ended; one that was cut is put together."""
    open_calls: dict[tuple[str, str], tuple[int, str]] = {}
    for number, line in enumerate(lines):
        if found := _UNFINISHED.match(line):
            open_calls[found[1], found[2]] = (number, found[3])
        elif found := _RESUMED.match(line):
            began, text = open_calls.pop((found[1], found[2]), (number, ""))
            yield Call(found[2], began, number, text + found[3])
        elif found := _WHOLE.match(line):
            yield Call(found[2], number, number, found[3])


def uncovered(lines: Iterable[str]) -> tuple[int, list[str]]:
    """Return the number of responses, and a line for each that came before what covers it."""
    written: dict[str, tuple[int, str]] = {}  # UID -> where its write ended, its file
    made: dict[str, int] = {}  # file -> where its making ended
    syncs: dict[str, list[Call]] = {}  # file or folder -> completed syncs
    answered, early = 0, []
    for call in calls(lines):
        if call.name == "openat" and "O_CREAT" in call.text and (made_file := _FILE.search(call.text)):
            made.setdefault(made_file[1], call.ended)
        elif call.name.startswith("pwritev") and (file := _FILE.search(call.text)):
            written.update(dict.fromkeys(_HEADER_UID.findall(call.text), (call.ended, file[1])))
        elif call.name in ("fdatasync", "fsync") and call.text.endswith("= 0"):
            if place := _FOLDER.match(call.text):
                syncs.setdefault(place[1], []).append(call)
        elif call.name == "sendto" and not _REFUSED.search(call.text):
            for uid in _RESPONSE_UID.findall(call.text):
                answered += 1
                early += list(_missing(uid, call.began, written, made, syncs))
    return answered, early


def _missing(
    uid: str,
    response: int,
    written: dict[str, tuple[int, str]],
    made: dict[str, int],
    syncs: dict[str, list[Call]],
) -> Iterator[str]:
    if uid not in written:
        yield f"{uid}: answered, never written"
        return
    at, file = written[uid]
    if not any(sync.began > at and sync.ended < response for sync in syncs.get(file, [])):
        yield f"{uid}: answered before its record was synced"
    folder = str(Path(file).parent)
    if file not in made:
        yield f"{uid}: its segment was made before the trace began"
    elif not any(sync.began > made[file] and sync.ended < response for sync in syncs.get(folder, [])):
        yield f"{uid}: answered before its segment's name was synced"
