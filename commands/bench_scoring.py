"""`prodrome bench-scoring`: what scoring costs over the bare runtime, and what batches bring.

1. Each package's forward passes beside the bare session on the same arrays, in turns: the overhead of cutting,
   moving, checking and encoding.
2. Preparation of a density exam and of a head, from bytes in memory.
3. Batches of 1 to 32 of a heavy network with made-up weights: where a device needs them, they show here.
4. On the running stack: from a study's last acknowledged image to its prediction (`benching/answers.py`).

For the first three data lie in memory. `--cuda` runs the passes on the GPU, beside the CPU.
"""

import itertools
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import click
import msgspec
import numpy as np
from numpy.typing import NDArray

from commands.benching import answers
from commands.benching.pages import Figures, console, show, write_page
from commands.stack import bring_up
from commands.wiring import told
from infra.demo import make_exams, read_images, to_bytes
from infra.demo_brain import files_of, make_head, read_head
from infra.settings import load as load_settings
from scoring.card import Graph
from scoring.encode import passes
from scoring.intake import Instance, Selected
from scoring.outcomes import Prepared
from scoring.runtime import CPU, Session
from scoring.score import MODELS, Model, load, load_preparer
from scoring.series import plane_of
from scoring.volume import order_slices

CUDA: Final = "CUDAExecutionProvider"
#: (package, exams of a turn, turns)
LOADS: Final = (("density", 256, 40), ("dementia", 1, 10))
BATCHES: Final = (1, 2, 4, 8, 16, 32)


@click.command()
@click.option("--cuda", is_flag=True, help="On the GPU too, where onnxruntime-gpu and CUDA are installed.")
@click.option("--exams", default=40, show_default=True, help="Mammograms to send through the stack.")
@click.option(
    "--heads", default=5, show_default=True, help="Heads to send through it; with none of both it stays down."
)
@click.option("--threads", default=2, show_default=True, help="Of one pass on the CPU.")
@click.option("--write", "page", type=click.Path(path_type=Path), help="Write the tables into this folder.")
def bench_scoring(cuda: bool, exams: int, heads: int, threads: int, page: Path | None) -> None:
    """Measure scoring: overhead over the bare runtime, preparation, batches; then brings the stack up for latencies."""
    devices = (CPU, CUDA) if cuda else (CPU,)
    steps: list[Callable[[], Figures]] = [
        partial(_overhead, devices, threads),
        partial(_preparation, threads),
        partial(_batches, devices, threads),
        *([partial(_answers, exams, heads)] if exams or heads else []),
    ]
    found = []
    with told():
        for step in steps:
            found.append(step())
            show(found[-1])
    if page is not None:
        write_page(page, "scoring", "Scoring", "Data lie in memory, but for the stack's.", found)


def _answers(exams: int, heads: int) -> Figures:
    bring_up(console.print)
    return answers.measured(load_settings(), exams, heads)


def _overhead(devices: Sequence[str], threads: int) -> Figures:
    """Model.forward beside session.run on the same passes, in turns, the median of the ratios."""
    lines = []
    for name, exams, turns in LOADS:
        for device in devices:
            model = load(MODELS / name, providers=(device,), threads=threads)
            batch = _made_up(model, exams)
            [tensor] = model.card.network.inputs
            rows = np.concatenate([passes(model.card, exam.features) for exam in batch])
            bare = _bare(model, tensor, rows)
            ours, theirs = _in_turns(partial(model.forward, batch), bare, turns)
            ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
            lines.append([
                model.card.id, _device(model.session.providers), str(len(rows)), f"{exams / median(ours):.1f}",
                f"{exams / median(theirs):.1f}", f"{100 * (ratio - 1):+.1f} %",
                f"{1000 * (median(ours) - median(theirs)) / exams:.3f}",
            ])  # fmt: skip
    head = [
        "package",
        "device",
        "passes a turn",
        "exams/s",
        "bare session, exams/s",
        "overhead",
        "ms an exam",
    ]
    return Figures("Forward passes beside the bare runtime", head, lines)


def _made_up(model: Model, exams: int) -> list[Prepared]:
    [shape] = model.card.network.inputs.values()
    random = np.random.default_rng(0)
    return [Prepared(set_id=str(i), features=random.random(shape, dtype=np.float32)) for i in range(exams)]


def _bare(model: Model, tensor: str, rows: NDArray[np.float32]) -> Callable[[], Any]:
    """Return the session's own run over the same rows, in the same batches."""
    session, most = model.session._session, model.card.network.batch
    names = list(model.card.network.outputs)
    return lambda: [session.run(names, {tensor: rows[i : i + most]}) for i in range(0, len(rows), most)]


def _in_turns(
    first: Callable[[], Any], second: Callable[[], Any], turns: int
) -> tuple[list[float], list[float]]:
    took: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns + 1):
        for which, step in enumerate((first, second)):
            begun = time.perf_counter()
            step()
            if turn:  # the first warms up
                took[which].append(time.perf_counter() - begun)
    return took


def _preparation(threads: int) -> Figures:
    lines = []
    [exam] = make_exams(read_images(MODELS / "density" / "example"), patients=1)
    density = {str(d.SOPInstanceUID): to_bytes(d) for d in exam.datasets.values()}
    views = {
        view: Instance(**_identity(d), photometric_interpretation="MONOCHROME2", bits_allocated=8)
        for view, d in exam.datasets.items()
    }
    slices, _ = make_head(read_head(), "bench")
    head = dict(zip((str(d.SOPInstanceUID) for d in slices), files_of(slices), strict=True))
    placed = [
        msgspec.convert(
            {
                **_identity(d),
                "image_position": tuple(map(float, d.ImagePositionPatient)),
                "image_orientation": tuple(map(float, d.ImageOrientationPatient)),
                "pixel_spacing": tuple(map(float, d.PixelSpacing)),
            },
            Instance,
        )
        for d in slices
    ]
    order = order_slices([plane for each in placed if (plane := plane_of(each)) is not None])
    series = {f"{number:05d}": placed[i] for number, i in enumerate(order)}
    for name, chosen, files, turns in (("density", views, density, 10), ("dementia", series, head, 5)):
        preparer = load_preparer(MODELS / name, threads=threads)
        selected = Selected(set_id="bench", instances=chosen, inputs=())
        took, cpu = [], []
        for turn in range(turns + 1):
            begun, used = time.perf_counter(), time.process_time()
            made = preparer.prepare(selected, lambda i, files=files: files[i.sop_instance_uid])  # type: ignore[misc]
            assert isinstance(made, Prepared), made
            if turn:
                took.append(time.perf_counter() - begun)
                cpu.append(time.process_time() - used)
        size = sum(map(len, files.values())) / 1e6
        lines.append(
            [
                preparer.package.card.id,
                str(len(files)),
                f"{size:.0f}",
                f"{median(took):.2f}",
                f"{median(cpu):.2f}",
            ]
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    lines.append(["peak memory of all of this, GB", "", "", f"{peak:.1f}", ""])
    return Figures("Preparation of one exam", ["package", "images", "MB", "seconds", "CPU seconds"], lines)


def _identity(dataset: Any) -> dict[str, Any]:
    return {
        "sop_instance_uid": str(dataset.SOPInstanceUID), "series_instance_uid": str(dataset.SeriesInstanceUID),
        "sop_class_uid": str(dataset.SOPClassUID), "transfer_syntax_uid": "", "content_key": "", "pixel_key": "",
        "rows": int(dataset.Rows), "columns": int(dataset.Columns),
    }  # fmt: skip


def _batches(devices: Sequence[str], threads: int) -> Figures:
    """Exams a second of a heavy network by the size of its batches; its weights are made up."""
    data, graph = heavy()
    lines = []
    for device in devices:
        session = Session(data, graph, (device,), threads)
        for size in BATCHES:
            x = {"x": np.random.default_rng(0).random((size, *graph.inputs["x"]), dtype=np.float32)}
            session.forward(x)
            turns = max(2, 16 // size)
            begun = time.perf_counter()
            for _ in range(turns):
                session.forward(x)
            rate = turns * size / (time.perf_counter() - begun)
            lines.append([_device(session.providers), str(size), f"{rate:.1f}", f"{1000 / rate:.1f}"])
    return Figures(
        "Batches of a heavy network with made-up weights", ["device", "batch", "exams/s", "ms an exam"], lines
    )


def heavy() -> tuple[bytes, Graph]:
    """Return a network of some 2 GFLOP an exam, four convolutions over 48 voxels a side, and its part of a card."""
    from scoring.tools.graphs import GraphBuilder

    random, channels = np.random.default_rng(0), (1, 16, 32, 64, 64)
    tensors = {
        f"c{n}.weight": random.normal(0, 0.05, (b, a, 3, 3, 3)).astype(np.float32)
        for n, (a, b) in enumerate(itertools.pairwise(channels))
    }
    build, x = GraphBuilder(tensors), "x"
    for number in range(len(tensors)):
        x = build.node("Relu", build.convolution(x, f"c{number}", padding=1))
        x = build.max_pool(x, 2, 2) if number < 3 else x
    build.node("Flatten", build.node("GlobalAveragePool", x), axis=1, name="y")
    shape = (1, 48, 48, 48)
    data = build.model("made-up", {"x": ("N", *shape)}, {"y": ("N", channels[-1])})
    graph = Graph(
        name="network", file="", opset=17, inputs={"x": shape}, outputs={"y": (channels[-1],)}, operators=(),
        example="", batch=max(BATCHES),
    )  # fmt: skip
    return data, graph


def _device(providers: Sequence[str]) -> str:
    return providers[0].removesuffix("ExecutionProvider")
