"""What prodrome adds inside supervisord, through its two extension points: events and an RPC namespace.

1. A program that died takes its process group with it: no worker outlives its role.
2. Deaths are counted, and `prodrome.deaths()` tells them.
3. The pause before a restart grows by a second each time, up to half a minute. Without the bound it would
   be minutes after a night without a dependency.

Runs in supervisord's only thread: it neither blocks nor raises.
"""

import contextlib
import os
import signal
import time
from typing import Any, Final

from supervisor import events

LONGEST_PAUSE: Final = 30


class Deaths:
    """The RPC namespace `prodrome`: public methods can be called from outside."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}
        events.subscribe(events.ProcessStateBackoffEvent, self._died)
        events.subscribe(events.ProcessStateExitedEvent, self._died)
        events.subscribe(events.ProcessStateStoppedEvent, _end_group)

    def deaths(self) -> dict[str, int]:
        """How often each program ended without being told to."""
        return dict(self._count)

    def _died(self, event: Any) -> None:
        process = event.process
        name = process.config.name
        self._count[name] = self._count.get(name, 0) + 1
        if isinstance(event, events.ProcessStateBackoffEvent):
            process.backoff = min(process.backoff, LONGEST_PAUSE)
            process.delay = min(process.delay, time.time() + LONGEST_PAUSE)
        _end_group(event)


def _end_group(event: Any) -> None:
    if event.process.pid > 0:
        with contextlib.suppress(OSError):  # nobody is left, as it should be
            os.killpg(event.process.pid, signal.SIGKILL)


def make_rpc_namespace(_supervisord: Any, **_config: Any) -> Deaths:
    """The factory that the configuration names."""
    return Deaths()
