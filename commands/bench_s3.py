"""`prodrome bench-s3`: the S3 door on this machine, from event to indexed, beside the loop that people write.

1. Objects are put while the bridge stands still; from its start to the last outcome is what is measured. The loop works
   on the same objects, alone, afterwards.
2. Live images by C-STORE, with a backfill beside them and without.
3. The lister over a generated listing (`benching/listing.py`).
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import click
import msgspec

from commands.benching import listing
from commands.benching.gauges import read_gauges, usage
from commands.benching.installed import install
from commands.benching.paced import run_paced, until
from commands.benching.pages import Figures, console, show, write_page
from commands.benching.sender import Plan
from commands.send import destination
from commands.stack import bring_up, layout
from commands.wiring import opened, told
from infra.connections import buckets_of
from infra.control import set_paused
from infra.load import mr_instance, uid
from infra.objects import Store
from infra.settings import GATEWAY_BUCKET, PREFIX, Settings, load
from schemas.errors import ProdromeError

PEERS: Final = {"boto3": "1.44.5", "pydicom": "3.0.2"}
#: Pixels a side, 16 bits each -> objects of it.
SIZES: Final = {320: 2000, 2290: 100}
#: Objects before the clock runs.
WARM: Final = 500
#: A bridge looks this often whether it is paused.
PAUSE_SECONDS: Final = 3.0
LIVE_RATE: Final = 20.0
_CHILD: Final = Path(__file__).parent / "benching" / "s3_child.py"


class Loop(msgspec.Struct):
    """What the plain loop took."""

    count: int
    seconds: float
    cpu_seconds: float


@click.command()
@click.option("--scale", default=1.0, show_default=True, help="Of the numbers of objects.")
@click.option("--keys", default=1_000_000, show_default=True, help="Of the generated listing.")
@click.option("--write", "page", type=click.Path(path_type=Path), help="Write the tables into this folder.")
def bench_s3(scale: float, keys: int, page: Path | None) -> None:
    """Measure the S3 door: objects a second and CPU an object, a backfill beside live images, the lister.

    Brings the stack up with its gateway; what is put stays in it.
    """
    os.environ[f"{PREFIX}STACK_S3"] = "true"
    with told():
        bring_up(console.print)
        found = load()
        peers = install(found.home / "bench" / "s3-peers", PEERS)
        steps: list[Callable[[], Figures]] = [
            partial(_from_event, found, scale, peers),
            partial(_beside, found, scale),
            partial(_listing, found, keys),
        ]
        tables = []
        for step in steps:
            tables.append(step())
            show(tables[-1])
    if page is not None:
        write_page(page, "s3", "The S3 door", "Everything runs on this one machine, the gateway too.", tables)


def _from_event(found: Settings, scale: float, peers: Path) -> Figures:
    lines = []
    warm = _settled(found)
    put(found, f"warm/{time.time_ns()}/", WARM, 320)  # what starts with the first objects is nobody's cost
    until(lambda: _settled(found), warm + WARM)
    for side, count in SIZES.items():
        wanted, prefix = max(8, int(scale * count)), f"bench/{time.time_ns()}/"
        with _standing(found, "bridge", "lister") as go:
            put(found, prefix, wanted, side)
            before, done = read_gauges(layout(found)), _settled(found)
            began = time.monotonic()
            go("bridge")
            until(lambda: _settled(found), done + wanted)
            took = time.monotonic() - began
            used = usage(before, read_gauges(layout(found)), wanted)
            loop = _loop(found, prefix, peers)
            size = f"{2 * side * side / 1e6:.1f} MB"
            whole = sum(program.cpu_ms for program in used.values())
            own = sum(used[name].cpu_ms for name in ("bridge", "deidentify", "deidentify-bulk"))
            lines += [
                [size, "prodrome, event to indexed", f"{wanted}", f"{wanted / took:.1f}", f"{whole:.1f}", f"{own:.1f}"],
                [size, "plain loop", f"{loop.count}", f"{loop.count / loop.seconds:.1f}", "",
                 f"{1000 * loop.cpu_seconds / loop.count:.1f}"],
            ]  # fmt: skip
    head = [
        "size",
        "who",
        "objects",
        "objects/s",
        "CPU ms an object, all programs",
        "of bridge and deidentify, or the loop",
    ]
    return Figures("From event to indexed", head, lines)


def _beside(found: Settings, scale: float) -> Figures:
    lines = []
    for name in ("alone", "beside a backfill"):
        prefix = f"backfill/{time.time_ns()}/"
        with _standing(found, "bridge", "lister"):
            filling = None
            if name != "alone":
                put(found, prefix, max(8, int(scale * 2 * SIZES[320])), 320)
                filling = subprocess.Popen(
                    [Path(sys.executable).with_name("prodrome"), "backfill", f"s3://{GATEWAY_BUCKET}/{prefix}"],
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
            plan = Plan(
                destination=destination(None, "BENCH"), seed=f"live-{time.time_ns()}", rate=LIVE_RATE,
                instances=max(100, int(scale * 60 * LIVE_RATE)), associations=2, a_study=50, side=320,
            )  # fmt: skip
            run = run_paced(found, plan)
            if filling is not None:
                filling.wait()
        lines.append([name, f"{LIVE_RATE:.0f}", f"{run.clean.p50_ms:.0f}", f"{run.clean.p95_ms:.0f}", f"{run.clean.p99_ms:.0f}",
                      f"{run.ack.p90_ms:.1f}"])  # fmt: skip
    head = [
        "live images",
        "a second",
        "acknowledged to clean p50 ms",
        "p95 ms",
        "p99 ms",
        "acknowledgement p90 ms",
    ]
    return Figures("Live images and a backfill", head, lines)


def _listing(found: Settings, keys: int) -> Figures:
    with opened(found.trusted) as trusted:
        return listing.measured(trusted, keys, buckets_of(found.buckets))


def put(found: Settings, prefix: str, count: int, side: int) -> None:
    """Put so many MR images of studies of 100 into the gateway's bucket."""
    store = Store(f"s3://{GATEWAY_BUCKET}", "clean", buckets_of(found.buckets))
    image = mr_instance(prefix, 0, 0, side=side)
    marks = [(uid(prefix, 0, 0), 0), (uid(prefix, 0), 1)]

    def one(number: int) -> None:
        data = image
        for mark, what in marks:
            value = number if what == 0 else number // 100
            data = data.replace(mark.encode(), f"{mark[:-8]}{value:08d}".encode())
        store.put_again(f"{prefix}{number:08d}.dcm", data)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(count)))


@contextmanager
def _standing(found: Settings, *stages: str) -> Iterator[Callable[[str], None]]:
    """Let stages stand still; yields what lets one go on."""
    with opened(found.trusted) as tables:

        def go(stage: str) -> None:
            set_paused(tables, stage, False, "bench")

        for stage in stages:
            set_paused(tables, stage, True, "bench")
        time.sleep(PAUSE_SECONDS)
        try:
            yield go
        finally:
            for stage in stages:
                go(stage)


def _settled(found: Settings) -> int:
    from consumers.ledger import balance

    with opened(found.trusted) as tables:
        counted = balance(tables)
        return counted["acknowledged"] - counted["in_flight"]


def _loop(found: Settings, prefix: str, peers: Path) -> Loop:
    credentials = buckets_of(found.buckets).credentials() or ("", "")
    environment = {
        "PATH": os.environ["PATH"], "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": credentials[0], "AWS_SECRET_ACCESS_KEY": credentials[1],
    }  # fmt: skip
    command = [
        str(peers),
        str(_CHILD),
        found.buckets.endpoint,
        GATEWAY_BUCKET,
        prefix,
        f"loop-{time.time_ns()}",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProdromeError(f"the plain loop failed: {done.stderr.strip().splitlines()[-1:]}")
    return msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=Loop)
