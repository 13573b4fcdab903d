"""The whole way at a stated rate: received, de-identified, stored, indexed, for as long as one likes.

1. A sender of its own process keeps the rate (`sender`).
2. Meanwhile: how many are on their way, and every program's memory, each `SAMPLE_SECONDS`.
3. When all have settled: CPU and bytes of every program by instance, latencies, the verdict (`figures`).

`find_rate` raises the rate from run to run until one is not stable.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

from commands.benching.arrivals import Listener
from commands.benching.figures import Quantiles, Sample, WholeWay
from commands.benching.gauges import machine_cpu, read_gauges, usage
from commands.benching.sender import Plan, Sender, Sent
from commands.stack import layout
from commands.status import metric_samples
from commands.wiring import opened
from consumers.deid.keys import ProjectKeys
from consumers.ledger import balance
from infra.cassandra import Tables
from infra.settings import Settings, master_key
from infra.stack.ports import recorded_addresses
from infra.stamped import Stamped
from schemas.errors import ProdromeError

log = logging.getLogger(__name__)

SAMPLE_SECONDS: Final = 5.0
#: For what is still on its way when the sender has ended; a stack that needs longer was not stable.
SETTLE_SECONDS: Final = 600.0
#: Each rate of a search is this much above the one before.
STEP: Final = 1.15


def run_paced(found: Settings, plan: Plan, say: Callable[[str], None] = lambda _: None) -> WholeWay:
    """Send at the plan's rate, wait until all has settled, and return the figures."""
    place, stamped = layout(found), Stamped(plan.seed, plan.side)
    keys = ProjectKeys.derive(master_key(found), "default", found.deidentify.key_id)
    studies = {keys.pseudonymous_uid(stamped.study_uid(n)): n for n in range(0, plan.studies, plan.sample)}
    with opened(found.trusted) as tables, Listener(found, "instance.deidentified.v1", studies) as clean:
        through = Through(found, tables)
        sender = Sender(plan)
        gauges, busy, begin = read_gauges(place), machine_cpu(), time.monotonic()
        samples = []
        while sender.running:
            ended = through()
            memory = {name: gauge.rss_bytes for name, gauge in read_gauges(place).items()}
            at, count = time.monotonic() - begin, sender.count
            samples.append(Sample(at=at, sent=count, in_flight=max(0, count - ended), memory=memory))
            say(f"{at:.0f} s: {count} acknowledged, {samples[-1].in_flight} on their way")
            sender.wait(SAMPLE_SECONDS)
        sent = sender.result()
        until(through, sent.count)
        took, now = time.monotonic() - begin, read_gauges(place)
    programs = usage(gauges, now, sent.count)
    ours = sum(program.cpu_ms for program in programs.values()) * sent.count / 1000 + sent.cpu_seconds
    all_busy = machine_cpu()[0] - busy[0]
    return WholeWay(
        rate=plan.rate,
        seconds=sent.seconds,
        instances=sent.count,
        bytes_each=len(stamped.dataset(0, 0)),
        a_study=plan.a_study,
        associations=plan.associations,
        behind_seconds=sent.behind,
        sender_cpu_ms=1000 * sent.cpu_seconds / sent.count,
        cores_ours=ours / took,
        cores_others=max(0.0, all_busy - ours) / took,
        programs=programs,
        ack=Quantiles.of(sent.ack_ms),
        clean=Quantiles.of(_waits(sent, clean, stamped, keys)),
        samples=tuple(samples),
    )


def find_rate(
    found: Settings, plan_at: Callable[[float], Plan], start: float, say: Callable[[str], None]
) -> list[WholeWay]:
    """Return the runs at rising rates, the last of them the first that was not stable."""
    runs: list[WholeWay] = []
    rate = start
    while not runs or runs[-1].verdict == "stable":
        runs.append(run_paced(found, plan_at(rate), say))
        say(f"{rate:.0f}/s: {runs[-1].verdict}, {runs[-1].cpu_ms:.1f} ms CPU an instance")
        rate *= STEP
    return runs


def _waits(sent: Sent, clean: Listener, stamped: Stamped, keys: ProjectKeys) -> list[float]:
    """Return milliseconds from acknowledged to said on the clean side, of the instances that were sampled."""
    waits = []
    for (study, number), answered in sent.answered.items():
        seen = clean.seen.get(keys.pseudonymous_uid(stamped.instance_uid(study, number)))
        if seen is not None:
            waits.append(1000 * max(0.0, seen - answered))
    return waits


class Through:
    """How many instances have come through since this was made: settled by the ledger, indexed by the catalog."""

    def __init__(self, found: Settings, tables: Tables) -> None:
        addresses = recorded_addresses(layout(found))
        if addresses is None:
            raise ProdromeError("the stack is not up: `prodrome up`")
        self._tables, self._port = tables, dict(addresses.metrics)["catalog"]
        self._before = (0, 0)
        self._before = self._now()

    def __call__(self) -> int:
        """Return the smaller of the two."""
        settled, indexed = self._now()
        return min(settled - self._before[0], indexed - self._before[1])

    def _now(self) -> tuple[int, int]:
        ended = balance(self._tables)
        settled = sum(number for name, number in ended.items() if name not in ("acknowledged", "in_flight"))
        counted = metric_samples(self._port, "prodrome_stage_instances_total")
        return settled, int(sum(value for labels, value in counted if labels["stage"] == "catalog"))


def until(count: Callable[[], int], wanted: int) -> None:
    """Return when a count has come so far; the stack has `SETTLE_SECONDS` for it."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while count() < wanted:
        if time.monotonic() > deadline:
            raise ProdromeError(f"settling took over {SETTLE_SECONDS:.0f} s: see `prodrome status`")
        time.sleep(0.2)
