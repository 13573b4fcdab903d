"""What was measured, told: tables for a terminal, a page in Markdown with its picture for docs/bench.

A page is written only where it is asked for; it names the machine by its properties, the day and the commit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from commands.benching.doors import Door
from commands.benching.figures import Quantiles, WholeWay
from commands.benching.growth import Size
from commands.benching.machine import Machine
from commands.benching.peers import Header
from commands.benching.plot import draw

Rows = Sequence[Sequence[str]]

#: Somebody else at work on the machine beyond this many cores belongs into the note.
OTHERS_CORES: Final = 0.1


@dataclass(kw_only=True)
class Results:
    """Everything that one call measured; what was not is empty."""

    day: str
    machine: Machine
    whole: list[WholeWay] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
    doors: list[Door] = field(default_factory=list)
    header: Header | None = None
    ack: Quantiles | None = None
    predictions: list[float] = field(default_factory=list)


def tables(found: Results) -> list[tuple[str, Rows]]:
    """Return every table of the results: its title, and its rows, the first of which is the head."""
    made: list[tuple[str, Rows]] = []
    if found.whole:
        made.append(("The whole way: received, de-identified, stored, indexed", _whole(found.whole)))
        made.append(("By program, for an instance", _programs(found.whole[-1])))
        made.append(("Latencies at this rate, ms", _latencies(found.whole[-1])))
    if found.ack is not None:
        made.append(("One association, one instance after the other", _one(found.ack)))
    if found.predictions:
        made.append(("From quiet to prediction, s", _predictions(found.predictions)))
    if found.doors:
        made.append(("The door beside its peers", _doors(found.doors)))
    if found.header is not None:
        made.append(("De-identification of one dataset, CPU ms", _header(found.header)))
    if found.sizes:
        made.append(("Growth, small objects", _sizes(found.sizes)))
    return made


def show(found: Results, console: Console) -> None:
    """Print the tables."""
    console.print(f"[dim]{found.day}: {found.machine}")
    for title, (head, *rows) in tables(found):
        table = Table(*head, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def write(found: Results, folder: Path, name: str) -> Path:
    """Write the page and, where a rate was run, its picture; return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# Measured on {found.day}", "", f"{found.machine}.", ""]
    if found.whole:
        run = found.whole[-1]
        title = (
            f"{run.rate:.0f} instances/s of {run.bytes_each / 1000:.0f} kB for {run.seconds / 60:.1f} minutes"
        )
        (folder / f"{name}.svg").write_text(draw(run, title))
        lines += [f"![{title}]({name}.svg)", ""]
        if run.cores_others > OTHERS_CORES:
            lines += [
                f"Others kept {run.cores_others:.1f} of the machine's cores busy meanwhile: they cost rate, and CPU"
                " time of ours by sharing caches.",
                "",
            ]
    for title, rows in tables(found):
        lines += [f"## {title}", "", *_markdown(rows), ""]
    page = folder / f"{name}.md"
    page.write_text("\n".join(lines).rstrip() + "\n")
    return page


def _markdown(rows: Rows) -> list[str]:
    line: Callable[[Sequence[str]], str] = lambda cells: f"| {' | '.join(cells)} |"  # noqa: E731
    return [line(rows[0]), line(["---"] * len(rows[0])), *(line(row) for row in rows[1:])]


def _whole(runs: Sequence[WholeWay]) -> Rows:
    head = ["asked for/s", "kept/s", "for", "verdict", "most on their way", "CPU ms an instance", "of it compiling",
            "sender's CPU ms", "cores: ours", "others'"]  # fmt: skip
    return [
        head,
        *(
            [
                f"{run.rate:.0f}", f"{run.kept_rate:.1f}", f"{run.seconds:.0f} s", run.verdict,
                f"{max((s.in_flight for s in run.samples), default=0)}", f"{run.cpu_ms:.2f}", f"{run.compile_ms:.2f}",
                f"{run.sender_cpu_ms:.2f}", f"{run.cores_ours:.2f}", f"{run.cores_others:.2f}",
            ]
            for run in runs
        ),
    ]  # fmt: skip


def _programs(run: WholeWay) -> Rows:
    head = ["program", "CPU ms", "of it compiling", "kB written", "kB read", "memory, MB", "growing, MB/h"]
    return [
        head,
        *(
            [
                name, f"{used.cpu_ms:.2f}", f"{used.compile_ms:.2f}", f"{used.written_kb:.1f}", f"{used.read_kb:.1f}",
                f"{used.rss_mb:.0f}", f"{run.memory_mb_an_hour(name):+.0f}",
            ]
            for name, used in run.programs.items()
        ),
    ]  # fmt: skip


def _quantiles(name: str, found: Quantiles) -> list[str]:
    times = (found.p50_ms, found.p90_ms, found.p99_ms, found.max_ms)
    return [name, str(found.count), *(f"{time:.1f}" for time in times)]


def _latencies(run: WholeWay) -> Rows:
    return [
        ["from, to", "instances", "p50", "p90", "p99", "most"],
        _quantiles("first byte to acknowledged", run.ack),
        _quantiles("acknowledged to clean event", run.clean),
    ]


def _one(ack: Quantiles) -> Rows:
    return [
        ["from, to", "instances", "p50", "p90", "p99", "most"],
        _quantiles("first byte to acknowledged", ack),
    ]


def _predictions(waits: Sequence[float]) -> Rows:
    ordered = sorted(waits)
    return [
        ["exams", "median", "worst"],
        [str(len(ordered)), f"{ordered[len(ordered) // 2]:.2f}", f"{ordered[-1]:.2f}"],
    ]


def _doors(doors: Sequence[Door]) -> Rows:
    ours = doors[0]
    return [
        ["receiver", "instances/s", "CPU ms", "ack p50 ms", "our rate to its", "our CPU to its"],
        *(
            [
                door.name, f"{door.rate:.0f}", f"{door.cpu_ms:.2f}", f"{door.ack.p50_ms:.1f}",
                f"{ours.rate / door.rate:.2f}", f"{ours.cpu_ms / door.cpu_ms:.2f}",
            ]
            for door in doors
        ),
    ]  # fmt: skip


def _header(found: Header) -> Rows:
    ratio = found.ours_ms / found.pydicom_ms
    return [
        ["ours, whole", "pydicom read, walk and write", "ours to pydicom's"],
        [f"{found.ours_ms:.2f}", f"{found.pydicom_ms:.2f}", f"{ratio:.2f}"],
    ]


def _sizes(found: Sequence[Size]) -> Rows:
    head = ["instances", "came in at/s", "ack p50 / p99 ms", "clean p50 / p99 ms", "by UID p50 / p99 ms",
            "study's rows p50 / p99 ms"]  # fmt: skip
    both: Callable[[Quantiles], str] = lambda q: f"{q.p50_ms:.1f} / {q.p99_ms:.1f}"  # noqa: E731
    return [
        head,
        *(
            [str(s.instances), f"{s.rate:.0f}", both(s.ack), both(s.clean), both(s.by_uid), both(s.study)]
            for s in found
        ),
    ]
