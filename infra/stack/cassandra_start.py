"""Become a Cassandra node: `cassandra_start.py COMMITLOG COMMAND...`.

Each start on a full disk makes a segment of the commit log and ends before it can write the segment's header.
Cassandra forgives that of the last segment alone: after two such starts it refuses every later one, with space
or without. A segment without one byte in it never confirmed anything, so it is removed here; one that holds
anything at all is left for Cassandra to judge.

It imports no package and runs with `-I -S`, so that a restart costs milliseconds.
"""

import os
import sys


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


if __name__ == "__main__":
    remove_blank(sys.argv[1])
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606
