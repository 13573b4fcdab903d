"""`prodrome bench`: the whole way on this machine, measured. The stack runs, nothing is mocked.

1. The whole way at a stated rate, for as long as asked: CPU, bytes and memory by program, what is on its way,
   latencies (`benching/paced.py`); or rising rates until one is not stable.
2. Quiet to prediction: demo exams; from the last acknowledgement to the prediction, less the quiet time.
3. Ratios to peers in the same run (`benching/peers.py`), and growth (`benching/growth.py`) where asked for.

Figures are of the machine and the moment: compare ratios of the same run. No figure is asserted anywhere.
"""

import datetime
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from commands.benching.arrivals import Listener
from commands.benching.figures import Quantiles
from commands.benching.growth import grow
from commands.benching.machine import this_machine
from commands.benching.paced import find_rate, run_paced
from commands.benching.peers import measure_doors, measure_header
from commands.benching.report import Results, show, write
from commands.benching.sender import Plan, Sender
from commands.send import destination, send_with_progress
from commands.stack import bring_up
from commands.wiring import told
from consumers.deid.keys import ProjectKeys
from infra.load import study_uid_of, write_exams
from infra.settings import Settings, load, master_key
from schemas.errors import ProdromeError

#: Bytes of pixels a side of the synthetic MR: 320 x 320 x 16 bit are 200 kB, a common slice.
SIDE: Final = 320
ACKS: Final = 200
EXAMS: Final = 4
#: A prediction takes a few seconds; one that has not come by then does not come.
WAIT_SECONDS: Final = 300.0
#: A rate of the search lasts this long: two minutes show what piles up.
STEP_SECONDS: Final = 120.0
#: As fast as one association goes.
UNPACED: Final = 1e9

#: Tables are as wide as they need where nobody looks at a terminal.
console = Console(width=None if sys.stdout.isatty() else 180)


@click.command()
@click.option("--rate", default=100.0, show_default=True, help="Instances a second of the whole way.")
@click.option("--minutes", default=1.0, show_default=True, help="For how long.")
@click.option(
    "--find", is_flag=True, help="Rising rates from --rate on, two minutes each, until one is not stable."
)
@click.option("--side", default=SIDE, show_default=True, help="Pixels a side of an instance, 16 bits each.")
@click.option(
    "--a-study", default=100, show_default=True, help="Instances a study; each study is one association."
)
@click.option("--associations", default=4, show_default=True, help="Associations at once.")
@click.option("--growth", default=0, metavar="ROWS", help="Small instances until there are so many; 0: none.")
@click.option("--quick", is_flag=True, help="The whole way for half a minute at --rate, the rest in short.")
@click.option(
    "--write", "folder", type=click.Path(path_type=Path), help="Write page and picture into this folder."
)
def bench(
    rate: float,
    minutes: float,
    find: bool,
    side: int,
    a_study: int,
    associations: int,
    growth: int,
    quick: bool,
    folder: Path | None,
) -> None:
    """Measure the whole way at a stated rate, time to prediction, growth, and ratios to peers.

    Brings the stack up if it does not run; what is sent stays in it: ten minutes at 200/s are 50 GB.
    """
    with told():
        bring_up(_say)
        found, results = load(), Results(day=_today(), machine=this_machine())

        def plan(seconds: float, at: float) -> Plan:
            return Plan(
                destination=destination(None, "BENCH"),
                seed=f"bench-{time.time_ns()}",
                rate=at,
                instances=max(a_study, int(at * seconds)),
                associations=associations,
                a_study=a_study,
                side=side,
            )

        results.ack = one_by_one(plan(1.0, UNPACED), 50 if quick else ACKS)
        if find:
            results.whole = find_rate(found, lambda at: plan(STEP_SECONDS, at), rate, _say)
        else:
            results.whole = [run_paced(found, plan(30.0 if quick else 60 * minutes, rate), _say)]
        results.predictions = quiet_to_prediction(found, f"exams-{time.time_ns()}", 1 if quick else EXAMS)
        with tempfile.TemporaryDirectory(prefix="prodrome-bench-") as temporary:
            results.doors = measure_doors(Path(temporary), 200 if quick else 4000, associations, side)
        results.header = measure_header(50 if quick else 500, side)
        if growth:
            results.sizes = list(grow(found, plan(1.0, UNPACED), growth, _say))
    show(results, console)
    if folder is not None:
        click.echo(write(results, folder, f"{results.day}-{results.machine.commit}"))


def one_by_one(plan: Plan, count: int) -> Quantiles:
    """Return milliseconds from the first byte of a C-STORE to its response, one at a time."""
    one = Plan(destination=plan.destination, seed=plan.seed, rate=UNPACED, instances=count, associations=1,
               a_study=count, side=plan.side)  # fmt: skip
    return Quantiles.of(Sender(one).result().ack_ms)


def quiet_to_prediction(found: Settings, seed: str, exams: int) -> list[float]:
    """Return seconds from the last acknowledgement of an exam to its prediction, less the quiet time."""
    keys = ProjectKeys.derive(master_key(found), "default", found.deidentify.key_id)
    waits = []
    with tempfile.TemporaryDirectory(prefix="prodrome-bench-") as folder:
        made = write_exams(Path(folder), seed, exams)
        studies = [keys.pseudonymous_uid(study_uid_of(files["L-CC"])) for files in made]
        with Listener(found, "prediction.v1", studies) as predictions:
            for files, study in zip(made, studies, strict=True):
                send_with_progress(list(files.values()), destination(None, "BENCH"), 1, title="an exam")
                begin = time.monotonic()
                seen = predictions.wait(study, WAIT_SECONDS)
                if seen is None:
                    raise ProdromeError(f"no prediction within {WAIT_SECONDS:.0f} s: see `prodrome status`")
                waits.append(seen - begin - found.catalog.closed_quiet_seconds)
    return waits


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _say(text: str) -> None:
    console.print(f"[dim]{text}")
