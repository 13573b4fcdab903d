"""`prodrome bench`: the whole way on this machine, measured. The stack runs, nothing is mocked.

1. Ack latency: one association, one instance after the other; the time to each response.
2. The whole way: instances from the first byte sent until the last is settled and indexed; CPU of every
   program, Kafka's and Cassandra's among them, the sender's apart.
3. Quiet to prediction: demo exams; from the last acknowledgement to the prediction, less the quiet time.

Figures are of the machine and the moment: compare ratios of the same run. No figure is asserted anywhere.
"""

import json
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from commands.send import destination, send_with_progress
from commands.stack import bring_up, layout
from commands.status import intakes
from commands.wiring import told
from consumers.deid.keys import ProjectKeys
from infra.connections import kafka_of
from infra.kafka import read
from infra.load import study_uid_of, write_exams, write_mr
from infra.settings import Settings, load, master_key
from infra.stack.lifecycle import status as programs
from producers.send import Association, Item, inspect_file
from schemas.errors import ProdromeError

#: Bytes of pixels a side of the synthetic MR: 320 x 320 x 16 bit are 200 kB, a common slice.
SIDE: Final = 320
ACKS: Final = 200
EXAMS: Final = 4
WAIT_SECONDS: Final = 600.0

console = Console()


@click.command()
@click.option("--instances", default=1000, show_default=True, help="Instances of 200 kB for the whole way.")
@click.option("--associations", default=4, show_default=True, help="Associations at once.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of tables.")
def bench(instances: int, associations: int, as_json: bool) -> None:
    """Measure ack latency, instances a second through the whole way, CPU by program, and time to prediction.

    Brings the stack up if it does not run; what is sent stays in it.
    """
    with told(), tempfile.TemporaryDirectory(prefix="prodrome-bench-") as folder:
        bring_up(lambda text: console.print(f"[dim]{text}"))
        found = load()
        seed = f"bench-{time.time_ns()}"
        figures = {
            "ack": ack_latency(found, Path(folder) / "ack", seed + "-ack"),
            "whole_way": whole_way(found, Path(folder) / "whole", seed, instances, associations),
            "prediction": quiet_to_prediction(found, Path(folder) / "exams", seed),
        }
    if as_json:
        click.echo(json.dumps(figures, indent=2))
    else:
        _print(figures)


def ack_latency(found: Settings, folder: Path, seed: str) -> dict[str, float]:
    """Return milliseconds from the first byte of a C-STORE to its response, one at a time."""
    items = [
        item
        for path in write_mr(folder, seed, ACKS, side=SIDE)
        if isinstance(item := inspect_file(path), Item)
    ]
    where = destination(None, "BENCH")
    association = Association(where, {(items[0].sop_class_uid, items[0].transfer_syntax_uid): 1})
    times = []
    for item in items:
        begin = time.perf_counter()
        if association.store(item) != 0:
            raise ProdromeError("expected status 0000 of every store")
        times.append((time.perf_counter() - begin) * 1000)
    association.release()
    _until(lambda: intakes(found)["in_flight"] == 0, "settling")
    return {"p50_ms": _quantile(times, 0.5), "p99_ms": _quantile(times, 0.99)}


def whole_way(found: Settings, folder: Path, seed: str, instances: int, associations: int) -> dict[str, Any]:
    """Return the rate from sent to settled, and milliseconds of CPU an instance by program."""
    files = write_mr(folder, seed, instances, side=SIDE)
    cpu_before, ours_before = _cpu(found), resource.getrusage(resource.RUSAGE_SELF)
    settled_before = _settled(found)
    begin = time.monotonic()
    results = send_with_progress(files, destination(None, "BENCH"), associations)
    sent = time.monotonic() - begin
    if not all(result.stored for result in results):
        raise ProdromeError("expected every instance to be acknowledged")
    _until(lambda: _settled(found) - settled_before >= instances, "settling")
    took = time.monotonic() - begin
    cpu = {name: seconds - cpu_before.get(name, 0.0) for name, seconds in _cpu(found).items()}
    ours = resource.getrusage(resource.RUSAGE_SELF)
    sender = ours.ru_utime + ours.ru_stime - ours_before.ru_utime - ours_before.ru_stime
    return {
        "instances": instances,
        "bytes_each": files[0].stat().st_size,
        "associations": associations,
        "acknowledged_per_second": instances / sent,
        "settled_per_second": instances / took,
        "cpu_ms_an_instance": {name: 1000 * seconds / instances for name, seconds in cpu.items()},
        "cpu_ms_an_instance_total": 1000 * sum(cpu.values()) / instances,
        "sender_cpu_ms_an_instance": 1000 * sender / instances,
    }


def quiet_to_prediction(found: Settings, folder: Path, seed: str) -> dict[str, float]:
    """Return seconds from the last acknowledgement of an exam to its prediction, less the quiet time."""
    keys = ProjectKeys.derive(master_key(found), "default", found.deidentify.key_id)
    waits = []
    for files in write_exams(folder, seed, EXAMS):
        study = keys.pseudonymous_uid(study_uid_of(files["L-CC"]))
        seen, stopping = threading.Event(), threading.Event()
        listener = threading.Thread(target=_listen, args=(found, study, seen, stopping), daemon=True)
        listener.start()
        send_with_progress(list(files.values()), destination(None, "BENCH"), associations=1, title="an exam")
        begin = time.monotonic()
        if not seen.wait(WAIT_SECONDS):
            raise ProdromeError(f"no prediction within {WAIT_SECONDS:.0f} s")
        waits.append(time.monotonic() - begin - found.catalog.closed_quiet_seconds)
        stopping.set()
        listener.join()
    return {"median_s": statistics.median(waits), "worst_s": max(waits), "exams": len(waits)}


def _listen(found: Settings, study: str, seen: threading.Event, stopping: threading.Event) -> None:
    key = f"default/{study}".encode()
    for message in read(
        kafka_of(found.clean), "prediction.v1", from_start=True, follow=True, stopping=stopping
    ):
        if message.key == key:
            seen.set()
            return


def _settled(found: Settings) -> int:
    now = intakes(found)
    return now["acknowledged"] - now["in_flight"]


def _cpu(found: Settings) -> dict[str, float]:
    return {program.name: program.cpu_seconds for program in programs(layout(found))}


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise ProdromeError(f"{what} took over {WAIT_SECONDS:.0f} s: see `prodrome status`")
        time.sleep(0.1)


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _print(figures: dict[str, Any]) -> None:
    whole, ack, prediction = figures["whole_way"], figures["ack"], figures["prediction"]
    table = Table("what", "figure", title="prodrome bench")
    table.add_row("ack, one association, p50 / p99", f"{ack['p50_ms']:.2f} / {ack['p99_ms']:.2f} ms")
    table.add_row(
        f"acknowledged, {whole['associations']} associations, {whole['bytes_each'] / 1000:.0f} kB",
        f"{whole['acknowledged_per_second']:.0f} instances/s",
    )
    table.add_row("whole way: sent to settled", f"{whole['settled_per_second']:.1f} instances/s")
    table.add_row("CPU an instance, everything but the sender", f"{whole['cpu_ms_an_instance_total']:.1f} ms")
    table.add_row(
        "quiet to prediction, median / worst", f"{prediction['median_s']:.2f} / {prediction['worst_s']:.2f} s"
    )
    console.print(table)
    table = Table("program", "CPU ms an instance")
    for name, milliseconds in sorted(whole["cpu_ms_an_instance"].items(), key=lambda row: -row[1]):
        table.add_row(name, f"{milliseconds:.2f}")
    table.add_row("the sender, apart", f"{whole['sender_cpu_ms_an_instance']:.2f}")
    console.print(table)
