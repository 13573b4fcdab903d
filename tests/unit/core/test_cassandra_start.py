"""What is done before a Cassandra node starts: blank segments of the commit log go, timers are loosened."""

import subprocess
import sys
from pathlib import Path

from infra.stack import cassandra_start
from infra.stack.cassandra_start import SLACK_NANOSECONDS, remove_blank


def test_a_segment_that_holds_nothing_is_removed(tmp_path: Path) -> None:
    """Also one of no bytes; one with a byte at its end, or of another name, stays."""
    (tmp_path / "CommitLog-7-1.log").write_bytes(bytes(3 << 20))
    (tmp_path / "CommitLog-7-2.log").write_bytes(b"")
    (tmp_path / "CommitLog-7-3.log").write_bytes(bytes(3 << 20) + b"\1")
    (tmp_path / "CommitLog-7-4.log").write_bytes(b"\0\0\0\7" + bytes(100))
    (tmp_path / "CommitLog-7-5_cdc.idx").write_bytes(bytes(4))
    remove_blank(str(tmp_path))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["CommitLog-7-3.log", "CommitLog-7-4.log", "CommitLog-7-5_cdc.idx"]


def test_before_the_first_start_there_is_no_folder(tmp_path: Path) -> None:
    """It is made by the node."""
    remove_blank(str(tmp_path / "commitlog"))
    assert not list(tmp_path.iterdir())


def test_what_it_becomes_may_have_late_timers(tmp_path: Path) -> None:
    """The kernel's note of the program that was started; a thread gets that of the one that made it."""
    start = [sys.executable, "-I", "-S", cassandra_start.__file__, str(tmp_path)]
    done = subprocess.run([*start, "/bin/cat", "/proc/self/timerslack_ns"], capture_output=True, check=True)
    assert int(done.stdout) == SLACK_NANOSECONDS
