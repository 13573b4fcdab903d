"""What prodrome adds inside supervisord, through its two extension points: events and an RPC namespace.

1. A program that died takes its process group with it: no worker outlives its role.
2. Deaths are counted, and `prodrome.deaths()` tells them.
3. The stack's ports are claimed, so that no other stack takes one while its owner is restarted.
4. The pause before a restart grows by a second each time, up to half a minute. Without the bound it would
   be minutes after a night without a dependency.

Runs in supervisord's only thread: it neither blocks nor raises.
"""

import contextlib
import os
import signal
import socket
import time
from typing import Any, Final

from supervisor import events

from infra.stack.ports import claim

LONGEST_PAUSE: Final = 30


class Prodrome:
    """The RPC namespace `prodrome`: public methods can be called from outside."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}
        self._claims: dict[int, socket.socket] = {}
        events.subscribe(events.ProcessStateBackoffEvent, self._died)
        events.subscribe(events.ProcessStateExitedEvent, self._died)
        events.subscribe(events.ProcessStateStoppedEvent, _end_group)

    def deaths(self) -> dict[str, int]:
        """How often each program ended without being told to."""
        return dict(self._count)

    def hold(self, ports: list[int]) -> list[int]:
        """Claim these ports and no others; returns those that could be."""
        for port in set(self._claims) - set(ports):
            self._claims.pop(port).close()
        for port in set(ports) - set(self._claims):
            if claimed := claim(port):
                self._claims[port] = claimed
        return self.held()

    def held(self) -> list[int]:
        """The ports that are claimed."""
        return sorted(self._claims)

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


def make_rpc_namespace(_supervisord: Any, **_config: Any) -> Prodrome:
    """The factory that the configuration names."""
    return Prodrome()
