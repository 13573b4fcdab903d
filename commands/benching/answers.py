"""How long a study's last acknowledged image waits for its prediction, on the whole running system.

1. Mammography exams come at a stated pace, one association each, whether or not the ones before were answered.
2. Heads come one after another, each when the one before was answered: half a minute of CPU each.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from commands.benching.arrivals import Listener
from commands.benching.figures import Quantiles
from commands.benching.pages import Figures
from commands.send import destination
from consumers.deid.keys import ProjectKeys
from infra.demo import make_exams, read_images, to_bytes, uid
from infra.demo_brain import files_of, make_head, read_head
from infra.settings import Settings, master_key
from producers.send import send
from schemas.errors import ProdromeError
from scoring.score import MODELS

#: Seconds from one exam to the next; a mammograph takes minutes for one.
PACE: Final = 1.0
WAIT_SECONDS: Final = 300.0


def measured(found: Settings, exams: int, heads: int) -> Figures:
    """Send exams and heads through the running stack and return what was waited for each."""
    seed = f"bench-{time.time_ns()}"
    keys = ProjectKeys.derive(master_key(found), "default", found.deidentify.key_id)
    lines = []
    for name, count in (("four-view mammogram", exams), ("T1 head", heads)):
        studies = [keys.pseudonymous_uid(_study(name, seed, number)) for number in range(count)]
        sent: dict[str, float] = {}
        with Listener(found, "prediction.v1", studies) as answers:
            time.sleep(PACE)  # it reads what comes after its start
            for number, study in enumerate(studies):
                due = time.monotonic() + PACE
                _send(_files(name, seed, number))
                sent[study] = time.monotonic()
                if name == "T1 head":
                    answers.wait(study, WAIT_SECONDS)
                else:
                    time.sleep(max(0.0, due - time.monotonic()))
            waited = [_waited(answers, study, sent) for study in studies]
        if waited:
            took = Quantiles.of(waited)
            lines.append(
                [name, str(count), *(f"{ms / 1000:.1f}" for ms in (took.p50_ms, took.p95_ms, took.max_ms))]
            )
    head = ["study", "sent", "p50 s", "p95 s", "most s"]
    quiet = found.catalog.closed_quiet_seconds
    return Figures(
        f"Last image acknowledged to prediction, {quiet:g} s of it until the study is held to be complete",
        head,
        lines,
    )


def _waited(answers: Listener, study: str, sent: Mapping[str, float]) -> float:
    came = answers.wait(study, WAIT_SECONDS)
    if came is None:
        raise ProdromeError(
            f"expected a prediction within {WAIT_SECONDS:.0f} s, none came: see `prodrome status`"
        )
    return 1000 * (came - sent[study])


def _study(name: str, seed: str, number: int) -> str:
    return str(uid(f"{seed}/{number}/study" if name == "T1 head" else f"{seed}/{number}/0/study"))


def _files(name: str, seed: str, number: int) -> list[bytes]:
    if name == "T1 head":
        return files_of(make_head(read_head(), f"{seed}/{number}")[0])
    [exam] = make_exams(read_images(MODELS / "density" / "example"), patients=1, seed=f"{seed}/{number}")
    return [to_bytes(dataset) for dataset in exam.datasets.values()]


def _send(files: Sequence[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number:05d}.dcm") for number in range(len(files))]
        for path, data in zip(paths, files, strict=True):
            path.write_bytes(data)
        if not all(result.stored for result in send(paths, destination(None, "BENCH"))):
            raise ProdromeError("expected every image to be acknowledged: see `prodrome status`")
