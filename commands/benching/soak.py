"""The door for a long while, at half of its highest rate: whether its memory stays what it is."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from commands.benching.doors import Receiver, freeing, rss_mb, running
from commands.benching.figures import Quantiles, later_part, slope
from commands.benching.sender import Plan, Sender
from commands.benching.wire import Load, send_load
from producers.send import Destination

#: Of its memory, seconds.
SAMPLE_SECONDS: Final = 5.0


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
        later = later_part(self.memory)
        return slope([at for at, _ in later], [mb for _, mb in later]) * 3600


def soak(receiver: Receiver, folder: Path, load: Load, minutes: float, say: Callable[[str], None]) -> Soak:
    """Measure the highest rate with a load, then send at half of it; `folder` is removed again."""
    try:
        with running(receiver, folder) as (pid, port), freeing(folder / "spool"):
            highest = send_load(replace(load, port=port))
            rate = highest.count / highest.seconds / 2
            say(f"highest {2 * rate:.0f}/s, sending {rate:.0f}/s for {minutes:g} min")
            plan = Plan(
                destination=Destination(host="127.0.0.1", port=port),
                seed=f"{load.seed} at half",
                rate=rate,
                instances=round(rate * minutes * 60),
                associations=load.associations,
                side=load.side,
            )
            sender, begin, memory = Sender(plan), time.monotonic(), []
            while sender.running:
                memory.append((time.monotonic() - begin, rss_mb(pid)))
                say(f"{memory[-1][0]:.0f} s: {sender.count} acknowledged, {memory[-1][1]:.0f} MB")
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
