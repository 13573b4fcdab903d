"""What an operator has told the stages: pause, or go on. A row a stage, in the keyspace of the stage's zone.

Every process of a stage looks at its row every two seconds, wherever it runs. While Cassandra does not answer
the last word stands: a stage that is paused stays so, and one that works needs no permission to go on.
"""

import logging
from typing import Final

from infra import metrics
from infra.cassandra import Tables
from infra.clock import Clock
from schemas.errors import SlowDown

log = logging.getLogger(__name__)

#: A person who pauses a stage waits this long at most; a point read every two seconds is nothing.
LOOK_SECONDS: Final = 2.0

_SELECT: Final = "SELECT paused FROM stage_control WHERE stage = ?"
_WRITE: Final = "INSERT INTO stage_control (stage, paused, since, actor) VALUES (?, ?, toTimestamp(now()), ?)"
_ALL: Final = "SELECT stage, paused, since, actor FROM stage_control"


class Paused:
    """Whether a stage is to stand still now; asks at most every `LOOK_SECONDS`.

    Parameters
    ----------
    tables : Tables
        The keyspace of the stage's zone.
    stage : str
        Its name, as in metrics and commands.
    clock : Clock
        For when to look again.
    """

    def __init__(self, tables: Tables, stage: str, clock: Clock) -> None:
        self._tables, self._stage, self._clock = tables, stage, clock
        self._paused, self._next = False, clock.monotonic()

    def __call__(self) -> bool:
        """Return the last word known."""
        if self._clock.monotonic() >= self._next:
            self._next = self._clock.monotonic() + LOOK_SECONDS
            self._note(self._look())
        return self._paused

    def _look(self) -> bool:
        try:
            rows = self._tables.run(_SELECT, (self._stage,))
        except SlowDown:
            return self._paused
        return bool(rows and rows[0].paused)

    def _note(self, paused: bool) -> None:
        if paused != self._paused:
            log.warning("%s by an operator", "paused" if paused else "resumed")
        self._paused = paused
        metrics.put("prodrome_stage_paused", int(paused), stage=self._stage)


def set_paused(tables: Tables, stage: str, paused: bool, actor: str) -> None:
    """Tell a stage to stand still, or to go on; telling twice is telling once."""
    tables.run(_WRITE, (stage, paused, actor))


def paused_stages(tables: Tables) -> list[str]:
    """Return the names of the stages of this zone that are paused."""
    return sorted(row.stage for row in tables.run(_ALL) if row.paused)
