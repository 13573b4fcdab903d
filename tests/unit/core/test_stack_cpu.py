"""CPU of other processes is read finer than the kernel's ticks of 10 ms."""

import os
import subprocess
import sys

from infra.stack import processes


def test_cpu_of_another_process() -> None:
    """Whatever it used is seen, were it less than a tick; and what it says itself agrees."""
    say = "import sys, time; print(time.process_time(), flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", say], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        said = float(child.stdout.readline())
        seen = processes.table()[child.pid].cpu_seconds
        assert said <= seen < said + 1
        assert seen != round(seen, 2)
        child.communicate()


def test_cpu_of_one_that_ended() -> None:
    """A process that nobody has waited for yet keeps what it used."""
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    ended = processes.table()[pid]
    assert not ended.alive
    assert ended.cpu_seconds > 0
    os.waitpid(pid, 0)
