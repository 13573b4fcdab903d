"""Child processes end with their parent, however that ends."""

import ctypes
import os
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def end_with(parent: int) -> None:
    """Let the kernel kill this process when `parent`, the process id of who started it, ends; called first.

    Ctrl-C goes to the parent, which ends us.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # died before we asked
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
