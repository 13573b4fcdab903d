"""`prodrome bench-deid`: de-identification beside its peers, in the same run: what it costs, and what it leaves.

1. The peers are installed at pinned versions into an environment of their own, below the home.
2. CPU: every tool takes the same files in turn, in a process of its own (`benching/deid_child.py`), as often as
   asked; a ratio is the median over the repeats of the peer's to ours of the same repeat.
3. Size: one large multi-frame file read, de-identified and written, beside reading and writing alone.
4. The table: each of its rows planted at the root and 1, 3 and 8 sequences deep (`benching/deid_table.py`): by
   SOP class what ours does wrong, and how many rows' values each tool leaves in the file.
5. Canaries: identifiers of every class in every carrier, looked for in all that leaves, under each profile
   (`benching/deid_canaries.py`).
6. With `--images`: text drawn into real images, and whether it is found (`benching/pixel_load.py`).
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from rich.progress import Progress

from commands.benching import deid_canaries, deid_table, pixel_load
from commands.benching.deid_load import SIDE, ct_series, enhanced
from commands.benching.installed import install
from commands.benching.pages import Figures, console, show, write_page
from commands.wiring import settings, told
from consumers.deid.engine import ProjectKeys, basic_profile, clean_file
from schemas.errors import ProdromeError

#: Newest releases in November 2026; dicom-anonymizer is told to use its newest table, which is not its default.
PEERS: Final = {"dicognito": "0.19.0", "dicom-anonymizer": "2.1.0", "deid": "0.4.13"}
TOOLS: Final = ("prodrome", "prodrome-cold", "dicognito", "dicom-anonymizer", "pydicom-deid")
#: Of the series; who is slower takes the first of them alone, so that a run lasts minutes.
INSTANCES: Final = 200
FEW: Final = 20
#: Frames of an enhanced object, and how many of those are measured.
FRAMES, OBJECTS = 100, 10
LARGE_MB: Final = 512
CANARIES: Final = 600
_CHILD: Final = Path(__file__).with_name("benching") / "deid_child.py"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One tool over one folder: CPU of a file in milliseconds, files it refused."""

    cpu_ms: float
    refused: int


@click.command("bench-deid")
@click.option("--repeats", default=5, show_default=True, help="Of each tool on the same files.")
@click.option("--instances", default=INSTANCES, show_default=True, help="Of the CT series.")
@click.option("--large", default=LARGE_MB, show_default=True, help="MB of the large multi-frame file.")
@click.option(
    "--canaries", default=CANARIES, show_default=True, help="Instances with some 560 canaries each."
)
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="DICOM images without text, to draw some into: grey or in colour, the first frame of each.",
)
@click.option("--minutes", default=5.0, show_default=True, help="For how long to look for drawn text.")
@click.option("--write", "page", type=click.Path(path_type=Path), help="Write the tables into this folder.")
def bench_deid(
    repeats: int,
    instances: int,
    large: int,
    canaries: int,
    images: Path | None,
    minutes: float,
    page: Path | None,
) -> None:
    """Measure de-identification beside other tools: CPU a file, MB a second, rows of the table that stay."""
    with told(), tempfile.TemporaryDirectory(prefix="prodrome-bench-") as temporary:
        peers = install(settings().home / "bench" / "deid-peers", PEERS)
        here = Path(temporary)
        loads = {
            f"CT, 258 elements, {2 * SIDE * SIDE // 1024} kB": ct_series(instances),
            f"enhanced MR, {FRAMES} frames": [enhanced(FRAMES, n) for n in range(OBJECTS)],
        }
        tables = [
            _costs(here, loads, repeats, peers),
            _large(here, large),
            deid_table.ours(basic_profile(), deid_table.admissible()),
            _left(here, peers),
            *deid_canaries.measured(canaries),
            *(pixel_load.measured(images, 60 * minutes) if images else ()),
        ]
    for figures in tables:
        show(figures)
    if page is not None:
        write_page(page, "deid", "De-identification beside its peers", f"{repeats} repeats.", tables)


def run_tool(tool: str, source: Path, target: Path, peers: Path) -> Run:
    """Run one tool over a folder in a process of its own."""
    ours = tool.startswith("prodrome")
    environment = (
        {**os.environ, "PYTHONPATH": str(_CHILD.parents[2])} if ours else {"PATH": os.environ["PATH"]}
    )
    command = [sys.executable if ours else str(peers), str(_CHILD), tool, str(source), str(target)]
    target.mkdir()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProdromeError(f"{tool} failed: {done.stderr.strip().splitlines()[-1:]}")
    return Run(**json.loads(done.stdout.strip().splitlines()[-1]))


def _costs(here: Path, loads: dict[str, list[bytes]], repeats: int, peers: Path) -> Figures:
    head = ["files", "tool", "CPU ms a file", "its CPU to ours", "refused"]
    lines: list[list[str]] = []
    with Progress(console=console) as progress:
        task = progress.add_task("measuring", total=len(loads) * repeats * len(TOOLS))
        for number, (load, files) in enumerate(loads.items()):
            source, few = here / f"in-{number}", here / f"few-{number}"
            _write_files(source, files)
            _write_files(few, files[:FEW])
            runs: dict[str, list[Run]] = {tool: [] for tool in TOOLS}
            for repeat in range(repeats):
                for tool in TOOLS:
                    given = source if tool == TOOLS[0] else few
                    runs[tool].append(run_tool(tool, given, here / f"out-{number}-{repeat}-{tool}", peers))
                    progress.advance(task)
            for tool, each in runs.items():
                ratio = statistics.median(
                    run.cpu_ms / own.cpu_ms for run, own in zip(each, runs[TOOLS[0]], strict=True)
                )
                cpu = statistics.median(run.cpu_ms for run in each)
                lines.append([load, tool, f"{cpu:.2f}", f"{ratio:.1f}", str(each[-1].refused)])
    return Figures("CPU of one file, read, de-identified and encoded", head, lines)


def _write_files(folder: Path, files: list[bytes]) -> None:
    folder.mkdir()
    for index, data in enumerate(files):
        (folder / _name(index)).write_bytes(data)


def _name(index: int) -> str:
    return f"{index:04d}.dcm"


def _large(here: Path, megabytes: int) -> Figures:
    """Measure one large file: read, de-identify, write and sync; beside reading, writing and syncing alone."""
    file, copy = here / "large.dcm", here / "copy"
    side = 512
    file.write_bytes(enhanced(max(1, megabytes * 1_000_000 // (2 * side * side)), side=side))
    keys, profile = ProjectKeys.derive(bytes(32), "default", "bench"), basic_profile()
    size = file.stat().st_size / 1e6
    plain = min(_seconds(lambda: _write_synced(copy, (file.read_bytes(),))) for _ in range(3))
    ours = min(
        _seconds(lambda: _write_synced(copy, clean_file(file.read_bytes(), profile, keys).parts))
        for _ in range(3)
    )
    line = [f"{size:.0f}", f"{size / ours:.0f}", f"{size / plain:.0f}", f"{plain / ours:.2f}"]
    return Figures(
        "One large multi-frame file, the best of three",
        ["MB", "MB/s", "MB/s read and written alone", "of that"],
        [line],
    )


def _left(here: Path, peers: Path) -> Figures:
    """Count the rows of the table whose value is still in what each tool wrote, by depth."""
    planted = {depth: deid_table.planted_file(depth) for depth in deid_table.DEPTHS}
    source = here / "planted"
    _write_files(source, [data for data, _ in planted.values()])
    lines = []
    for tool in (tool for tool in TOOLS if tool != "prodrome-cold"):
        target = here / f"planted-{tool}"
        run_tool(tool, source, target, peers)
        cells = [tool]
        for index, (_, canaries) in enumerate(planted.values()):
            out = target / _name(index)
            left = sum(canary in out.read_bytes() for canary in canaries) if out.exists() else None
            cells.append("refused" if left is None else f"{left} of {len(canaries)}")
        lines.append(cells)
    return Figures(
        "Rows of the table whose value is left, CT", ["tool", *(f"{d} deep" for d in planted)], lines
    )


def _write_synced(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    with path.open("wb") as out:
        out.writelines(parts)
        out.flush()
        os.fsync(out.fileno())


def _seconds(step: Callable[[], None]) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin
