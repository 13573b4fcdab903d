"""The door for a long while, at half of its highest rate: whether its memory stays what it is."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from commands.benching.doors import Receiver, freeing, running
from commands.benching.figures import Quantiles, slope
from commands.benching.sender import Plan, Sender
from commands.benching.wire import Load, send_load
from infra.stack import processes
from producers.send import Destination

#: Of its memory, seconds.
SAMPLE_SECONDS: Final = 5.0
#: Its slope is told of the later part: what is made once is made by then.
_LATER: Final = 1 / 3
ASSOCIATIONS: Final = 4


@dataclass(frozen=True, kw_only=True)
class Soak:
    """What was sent, for how long, and what the receiver held meanwhile: seconds and MB."""

    rate: float
    seconds: float
    instances: int
    ack: Quantiles
    memory: tuple[tuple[float, float], ...]

    @property
    def mb_an_hour(self) -> float:
        """The slope of its memory over the later two thirds."""
        later = [one for one in self.memory if one[0] >= _LATER * self.memory[-1][0]]
        return slope([at for at, _ in later], [mb for _, mb in later]) * 3600


def soak(receiver: Receiver, folder: Path, load: Load, minutes: float, say: Callable[[str], None]) -> Soak:
    """Measure the highest rate with a load, then send at half of it; `folder` is removed again."""
    try:
        with running(receiver, folder) as (pid, port), freeing(folder / "spool"):
            highest = send_load(
                Load(
                    seed="soak",
                    instances=load.instances,
                    associations=ASSOCIATIONS,
                    side=load.side,
                    port=port,
                )
            )
            rate = highest.count / highest.seconds / 2
            say(f"highest {2 * rate:.0f}/s, sending {rate:.0f}/s for {minutes:g} min")
            plan = Plan(
                destination=Destination(host="127.0.0.1", port=port),
                seed="soak at half",
                rate=rate,
                instances=round(rate * minutes * 60),
                associations=ASSOCIATIONS,
                side=load.side,
            )
            sender, begin, memory = Sender(plan), time.monotonic(), []
            while sender.running:
                held = sum(row.rss_bytes for row in processes.tree(pid, processes.table())) / (1 << 20)
                memory.append((time.monotonic() - begin, held))
                say(f"{memory[-1][0]:.0f} s: {sender.count} acknowledged, {held:.0f} MB")
                sender.wait(SAMPLE_SECONDS)
            sent = sender.result()
    finally:
        shutil.rmtree(folder)
    return Soak(
        rate=sent.count / sent.seconds,
        seconds=sent.seconds,
        instances=sent.count,
        ack=Quantiles.of(sent.ack_ms),
        memory=tuple(memory),
    )
