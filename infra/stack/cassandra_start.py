"""Become a Cassandra node: `cassandra_start.py COMMITLOG COMMAND...`.

Each start on a full disk makes a segment of the commit log and ends before it can write the segment's header.
Cassandra forgives that of the last segment alone: after two such starts it refuses every later one, with space
or without. A segment without one byte in it never confirmed anything, so it is removed here; one that holds
anything at all is left for Cassandra to judge.

Its threads look for work by sleeps of some ten microseconds, 25,000 of them a second under load. The kernel is told
that timers may be late by `SLACK_NANOSECONDS`, which takes a third of the node's CPU away
(docs/decisions/0037); what the node becomes, and each thread of it, inherits that.

It imports no package and runs with `-I -S`, so that a restart costs milliseconds.
"""

import ctypes
import os
import sys

#: Against 50,000 unless told otherwise; the group of the commit log waits 5 ms, a request some 10.
SLACK_NANOSECONDS = 1_000_000
_PR_SET_TIMERSLACK = 29


def remove_blank(folder: str) -> None:
    """Remove the segments that hold nothing but zeros."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:  # its first start
        return
    for name in names:
        path = os.path.join(folder, name)
        if name.startswith("CommitLog-") and name.endswith(".log") and _blank(path):
            os.unlink(path)
            print(f"{name}: removed, it holds nothing", flush=True)


def _blank(path: str) -> bool:
    with open(path, "rb") as file:
        while some := file.read(1 << 20):
            if some.count(0) != len(some):
                return False
    return True


def loosen_timers() -> None:
    """Let timers of this process, and of what it becomes, be late; without effect on kernels that cannot."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(SLACK_NANOSECONDS), 0, 0, 0)


if __name__ == "__main__":
    remove_blank(sys.argv[1])
    loosen_timers()
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606
