"""What the bench measured, as values: quantiles, slopes, the verdict on a rate. Pure.

A rate is *kept* when the sender was never far behind its schedule, and *stable* when besides the instances on
their way neither pile up nor take longer and longer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from commands.benching.gauges import Usage

T = TypeVar("T")

#: A sender that is this far behind its schedule did not keep the rate.
BEHIND_SECONDS: Final = 2.0
#: So many seconds of the rate may be on their way, and so many may have piled up over the later two thirds.
LAG_SECONDS: Final = 10.0
PILED_SECONDS: Final = 2.0
#: Bounds of the histograms' bars, in milliseconds: each twice the one before.
BOUNDS_MS: Final = tuple(2.0**n for n in range(15))


@dataclass(frozen=True, kw_only=True)
class Quantiles:
    """A distribution of milliseconds: what people ask for, and its histogram by `BOUNDS_MS`."""

    count: int
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    bars: tuple[int, ...] = field(repr=False)

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> "Quantiles":
        """Sum up some durations; all zero where there are none."""
        if not milliseconds:
            return cls(
                count=0,
                p50_ms=0.0,
                p90_ms=0.0,
                p95_ms=0.0,
                p99_ms=0.0,
                max_ms=0.0,
                bars=(0,) * (len(BOUNDS_MS) + 1),
            )
        ordered = sorted(milliseconds)
        bars = [0] * (len(BOUNDS_MS) + 1)
        for value in ordered:
            bars[next((n for n, bound in enumerate(BOUNDS_MS) if value <= bound), len(BOUNDS_MS))] += 1
        p50, p90, p95, p99 = (
            ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.9, 0.95, 0.99)
        )
        return cls(
            count=len(ordered),
            p50_ms=p50,
            p90_ms=p90,
            p95_ms=p95,
            p99_ms=p99,
            max_ms=ordered[-1],
            bars=tuple(bars),
        )


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The run at one moment, `at` seconds after its begin: memory in bytes by program."""

    at: float
    sent: int
    in_flight: int
    memory: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class WholeWay:
    """One run of the whole way at a stated rate.

    `cores_ours` and `cores_others` are the mean numbers of cores that the stack with the sender, and whatever
    else ran on the machine, kept busy.
    """

    rate: float
    seconds: float
    instances: int
    bytes_each: int
    a_study: int
    associations: int
    behind_seconds: float
    sender_cpu_ms: float
    cores_ours: float
    cores_others: float
    programs: Mapping[str, Usage]
    ack: Quantiles
    clean: Quantiles
    samples: tuple[Sample, ...] = field(repr=False)

    @property
    def kept_rate(self) -> float:
        """Instances a second that were acknowledged."""
        return self.instances / self.seconds

    @property
    def cpu_ms(self) -> float:
        """CPU of the whole stack for an instance, the sender's apart."""
        return sum(program.cpu_ms for program in self.programs.values())

    @property
    def compile_ms(self) -> float:
        """That part of it in which the JVMs compiled: it ends with the warm-up."""
        return sum(program.compile_ms for program in self.programs.values())

    @property
    def lag_seconds(self) -> float:
        """The most instances on their way, as seconds of the rate."""
        return max((sample.in_flight for sample in self.samples), default=0) / self.rate

    @property
    def piled_seconds(self) -> float:
        """By how many seconds of the rate those on their way grew over the later two thirds."""
        later = self._later()
        if not later:
            return 0.0
        grown = slope([s.at for s in later], [float(s.in_flight) for s in later])
        return grown * (later[-1].at - later[0].at) / self.rate

    def memory_mb_an_hour(self, name: str) -> float:
        """By how many MB an hour a program's memory grew, over the later two thirds."""
        later = self._later()
        return slope([s.at for s in later], [s.memory.get(name, 0) / 1e6 for s in later]) * 3600

    @property
    def verdict(self) -> str:
        """``stable``, or what was not."""
        if self.behind_seconds > BEHIND_SECONDS:
            return f"not kept: the sender fell {self.behind_seconds:.0f} s behind"
        if self.lag_seconds > LAG_SECONDS:
            return f"lagging: {self.lag_seconds:.0f} s on their way"
        if self.piled_seconds > PILED_SECONDS:
            return f"piling up: {self.piled_seconds:.0f} s more on their way at the end"
        return "stable"

    def _later(self) -> Sequence[Sample]:
        return later_part(self.samples)


def later_part(samples: Sequence[T]) -> Sequence[T]:
    """Return the later two thirds: what is made once is made by then."""
    return samples[len(samples) // 3 :]


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the slope of the line of least squares; 0 for fewer than two points."""
    if len(xs) < 2:
        return 0.0
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread if spread else 0.0
