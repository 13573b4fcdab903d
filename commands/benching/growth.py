"""Growth: does storing, indexing or finding an instance take longer when there are many?

Small instances go through the real way, all of it, until there are so many; at each size of `sizes` some are
stored one after the other, followed until they come out on the clean side, and looked up by UID.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from commands.benching.arrivals import Listener
from commands.benching.figures import Quantiles
from commands.benching.paced import Through, until
from commands.benching.sender import Plan, Sender
from commands.wiring import opened
from consumers.deid.keys import ProjectKeys
from infra.settings import Settings, master_key
from infra.stamped import Stamped

#: Pixels a side: with its header such an instance has about a kilobyte.
SIDE: Final = 8
PROBES: Final = 100
A_STUDY: Final = 100
#: No schedule: as fast as they are taken.
UNPACED: Final = 1e9
#: Sent at once; while the next of them are sent, no more than these are on their way.
CHUNK: Final = 5000

_BY_UID: Final = "SELECT study FROM instances_by_uid WHERE project = 'default' AND sop = ?"
_ROWS: Final = "SELECT sop, facts FROM study_instances WHERE project = 'default' AND study = ?"


@dataclass(frozen=True, kw_only=True)
class Size:
    """What one instance takes when there are so many: to store, to come out, to be found, to list its study."""

    instances: int
    rate: float
    ack: Quantiles
    clean: Quantiles
    by_uid: Quantiles
    study: Quantiles


def sizes(up_to: int) -> list[int]:
    """Return 1000, 3000, 10000 and so on, up to a number and with it."""
    steps = [round(10 ** (n / 2), -3 if n > 6 else 0) for n in range(6, 2 * 9)]
    return sorted({int(step) for step in steps if step < up_to} | {up_to})


def grow(found: Settings, plan: Plan, up_to: int, say: Callable[[str], None]) -> Iterator[Size]:
    """Yield the figures at each size; `plan` says where to send, and the seed."""
    small = replace(plan, side=SIDE, a_study=A_STUDY, rate=UNPACED)
    there = 0
    for size in sizes(up_to):
        begin = time.monotonic()
        added = 0
        with opened(found.trusted) as tables:
            through = Through(found, tables)
            while there + added < size - PROBES:
                chunk = min(CHUNK, size - PROBES - there - added)
                seed = f"{plan.seed}-{there + added}"
                added += Sender(replace(small, seed=seed, instances=chunk)).result().count
                until(through, added - CHUNK)
                say(f"{there + added} instances")
            until(through, added)
        rate = added / max(1e-9, time.monotonic() - begin)
        probed = _probe(found, replace(small, seed=f"{plan.seed}-probe-{size}"), there + added + PROBES, rate)
        say(_line(probed))
        yield probed
        there += added + PROBES


def _probe(found: Settings, plan: Plan, instances: int, rate: float) -> Size:
    one = replace(plan, associations=1, instances=PROBES, a_study=PROBES, sample=1)
    stamped = Stamped(one.seed, one.side)
    keys = ProjectKeys.derive(master_key(found), "default", found.deidentify.key_id)
    study = keys.pseudonymous_uid(stamped.study_uid(0))
    sops = [keys.pseudonymous_uid(stamped.instance_uid(0, n)) for n in range(PROBES)]
    with opened(found.trusted) as trusted, Listener(found, "instance.deidentified.v1", [study]) as clean:
        through = Through(found, trusted)
        sent = Sender(one).result()
        until(through, sent.count)
    waits = [1000 * (clean.seen.get(sops[n], math.inf) - at) for (_, n), at in sent.answered.items()]
    with opened(found.clean) as tables:
        by_uid = [_timed(lambda sop=sop: tables.run(_BY_UID, (sop,))) for sop in sops]  # type: ignore[misc]
        listed = [_timed(lambda: tables.run(_ROWS, (study,))) for _ in range(20)]
    return Size(
        instances=instances,
        rate=rate,
        ack=Quantiles.of(sent.ack_ms),
        clean=Quantiles.of([wait for wait in waits if wait < math.inf]),
        by_uid=Quantiles.of(by_uid[1:]),  # the first one prepares the statement
        study=Quantiles.of(listed[1:]),
    )


def _line(size: Size) -> str:
    # Said at once: a run to a million takes an hour, and one that is cut short has shown what it had.
    p50s = (
        f"acknowledged {size.ack.p50_ms:.1f}, clean {size.clean.p50_ms:.0f}, by UID {size.by_uid.p50_ms:.1f}"
    )
    return f"{size.instances} at {size.rate:.0f}/s; p50 in ms: {p50s}, study's rows {size.study.p50_ms:.1f}"


def _timed(step: Callable[[], object]) -> float:
    begin = time.perf_counter()
    step()
    return 1000 * (time.perf_counter() - begin)
