"""`prodrome bench-receive`: the door beside its peers, in pairs of the same run.

For each size of instance and number of associations every receiver is started in turn, given the same load by a
sender that shares no code with ours (`benching/wire.py`), and stopped; and again, in another order, as often as
asked. A ratio is the median over the repeats of ours to the peer's of the same repeat, so that a machine that
others share does not favour who was measured in its better minute.
"""

import functools
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import Progress

from commands.benching.doors import Door, Receiver, measure, receivers
from commands.benching.kept import Kept, measure_kept
from commands.benching.pages import Figures, console, show, write_page
from commands.benching.soak import soak
from commands.benching.wire import Load
from commands.wiring import told
from schemas.errors import ProdromeError

#: Pixels a side by size: 16 bits each.
SIDES: Final = {"200kB": 320, "10MB": 2240}
#: Instances of one measurement: some seconds of it, and less for who is slow.
INSTANCES: Final = {"200kB": 2400, "10MB": 96}
#: Over a spool that holds much.
KEPT_LOAD: Final = 1000
SLOW: Final = "pynetdicom"
SLOWER: Final = 6


@dataclass(frozen=True, kw_only=True)
class Row:
    """One receiver under one load: medians over the repeats, and ours to it, pair by pair."""

    size: str
    associations: int
    name: str
    rate: float
    cpu_ms: float
    p99_ms: float
    rate_ratio: float
    cpu_ratio: float


@click.command("bench-receive")
@click.option("--repeats", default=10, show_default=True, help="Pairs of each.")
@click.option("--sizes", default=",".join(SIDES), show_default=True, help="Of instances.")
@click.option("--associations", default="1,4,16", show_default=True, help="At once.")
@click.option("--only", default="", help="Receivers whose name begins so, beside ours.")
@click.option("--kept", default="", help="Ours alone, over a spool of so many instances each: 1000,10000000.")
@click.option("--soak", "minutes", default=0.0, help="Ours alone, for so long at half of its highest rate.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write; a disk, not memory.")
@click.option("--write", "page", type=click.Path(path_type=Path), help="Write the table into this folder.")
def bench_receive(
    repeats: int,
    sizes: str,
    associations: str,
    only: str,
    kept: str,
    minutes: float,
    folder: Path | None,
    page: Path | None,
) -> None:
    """Measure the DICOM door beside DCMTK and pynetdicom: rate, CPU, and ratios of pairs."""
    if kept:
        return _bench_kept(kept, repeats, folder, page)
    if minutes:
        return _bench_soak(minutes, folder, page)
    with told():
        if unknown := set(sizes.split(",")) - set(SIDES):
            raise ProdromeError(f"--sizes: expected some of {', '.join(SIDES)}, came {', '.join(unknown)}")
        with tempfile.TemporaryDirectory(prefix="prodrome-bench-", dir=folder) as temporary:
            found = [
                receiver
                for receiver in receivers(Path(temporary))
                if receiver.ours or receiver.name.startswith(only)
            ]
            loads = [(size, int(count)) for size in sizes.split(",") for count in associations.split(",")]
            rows = []
            with Progress(console=Console(stderr=True)) as progress:
                task = progress.add_task("measuring", total=len(loads) * repeats * len(found))
                for size, count in loads:
                    runs: list[dict[str, Door]] = []
                    for repeat in range(repeats):
                        runs.append({})
                        for receiver in _turned(found, repeat):
                            load = _load(receiver, size, count, repeat)
                            runs[-1][receiver.name] = measure(receiver, Path(temporary) / "run", load)
                            progress.advance(task)
                    rows += _rows(size, count, [receiver.name for receiver in found], runs)
                    if page is not None:  # after each load: half an hour is long
                        about = f"{repeats} pairs each."
                        write_page(page, "receive", "The door beside its peers", about, [_table(rows)])
    show(_table(rows))
    return None


def _bench_kept(kept: str, repeats: int, folder: Path | None, page: Path | None) -> None:
    with told(), tempfile.TemporaryDirectory(prefix="prodrome-bench-", dir=folder) as temporary:
        if not all(count.isdigit() for count in kept.split(",")):
            raise ProdromeError(f"--kept: expected numbers with commas between, came {kept}")
        counts = [int(count) for count in kept.split(",")]
        ours = next(receivers(Path(temporary)))
        runs: dict[int, list[Kept]] = {count: [] for count in counts}
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task("generating", total=repeats * sum(counts))
            for repeat in range(repeats):
                for count in counts:
                    load = Load(
                        seed=f"kept {count} {repeat}",
                        instances=KEPT_LOAD,
                        associations=1,
                        side=SIDES["200kB"],
                    )
                    place = Path(temporary) / "run"
                    place.mkdir()
                    advance = functools.partial(progress.advance, task)
                    runs[count].append(measure_kept(ours, place, load, count, advance))
    head = ["kept before", "start s", "ack p50 ms", "ack p99 ms", "memory MB"]
    lines = [
        [
            f"{count:,}",
            f"{statistics.median(one.start_seconds for one in found):.1f}",
            f"{statistics.median(one.ack.p50_ms for one in found):.2f}",
            f"{statistics.median(one.ack.p99_ms for one in found):.2f}",
            f"{statistics.median(one.rss_mb for one in found):.0f}",
        ]
        for count, found in runs.items()
    ]
    show(Figures("", head, lines))
    if page is not None:
        about = f"200 kB, one association; medians of {repeats} runs in turn."
        write_page(page, "kept", "The door over a spool that holds much", about, [Figures("", head, lines)])


def _bench_soak(minutes: float, folder: Path | None, page: Path | None) -> None:
    load = Load(seed="soak", instances=INSTANCES["200kB"], associations=4, side=SIDES["200kB"])
    with told(), tempfile.TemporaryDirectory(prefix="prodrome-bench-", dir=folder) as temporary:
        place = Path(temporary) / "run"
        place.mkdir()
        with console.status("measuring") as status:
            found = soak(next(receivers(Path(temporary))), place, load, minutes, status.update)
    head = ["instances/s", "minutes", "instances", "ack p50 ms", "ack p99 ms", "memory MB", "MB an hour"]
    line = [
        f"{found.rate:.0f}",
        f"{found.seconds / 60:.1f}",
        f"{found.instances:,}",
        f"{found.ack.p50_ms:.2f}",
        f"{found.ack.p99_ms:.2f}",
        f"{found.memory[0][1]:.0f} to {found.memory[-1][1]:.0f}",
        f"{found.mb_an_hour:+.1f}",
    ]
    show(Figures("", head, [line]))
    if page is not None:
        about = "200 kB, four associations, half of the highest rate; the slope of the later two thirds."
        write_page(page, "soak", "The door for a long while", about, [Figures("", head, [line])])


def _turned(found: list[Receiver], repeat: int) -> list[Receiver]:
    by = repeat % len(found)
    return found[by:] + found[:by]


def _load(receiver: Receiver, size: str, associations: int, repeat: int) -> Load:
    instances = INSTANCES[size] // (SLOWER if receiver.name.startswith(SLOW) else 1)
    return Load(
        seed=f"{receiver.name} {repeat}",
        instances=max(instances, associations),
        associations=min(associations, receiver.most_associations),
        side=SIDES[size],
    )


def _rows(size: str, associations: int, names: list[str], runs: list[dict[str, Door]]) -> list[Row]:
    ours = names[0]
    return [
        Row(
            size=size,
            associations=associations,
            name=name,
            rate=statistics.median(run[name].rate for run in runs),
            cpu_ms=statistics.median(run[name].cpu_ms for run in runs),
            p99_ms=statistics.median(run[name].ack.p99_ms for run in runs),
            rate_ratio=statistics.median(run[ours].rate / run[name].rate for run in runs),
            cpu_ratio=statistics.median(run[ours].cpu_ms / run[name].cpu_ms for run in runs),
        )
        for name in names
    ]


def _table(rows: list[Row]) -> Figures:
    head = ["size", "associations", "receiver", "instances/s", "CPU ms", "ack p99 ms", "our rate to its",
            "our CPU to its"]  # fmt: skip
    lines = [
        [
            row.size, str(row.associations), row.name, f"{row.rate:.0f}", f"{row.cpu_ms:.2f}", f"{row.p99_ms:.1f}",
            f"{row.rate_ratio:.2f}", f"{row.cpu_ratio:.2f}",
        ]
        for row in rows
    ]  # fmt: skip
    return Figures("", head, lines)
