"""How long a study's last acknowledged image waits for its prediction, on the whole running system.

1. Mammography exams come at a stated pace, one association each, whether or not the ones before were answered.
2. Heads come one after another, each when the one before was answered: half a minute of CPU each.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pydicom.dataset import Dataset

from commands.benching.arrivals import Listener
from commands.benching.figures import Quantiles
from commands.benching.pages import Figures
from commands.send import destination
from consumers.deid.keys import ProjectKeys
from infra.demo import Pixels, make_exams, read_images
from infra.demo_brain import files_of, make_head, read_head
from infra.settings import Settings, master_key
from producers.send import send
from schemas.errors import ProdromeError
from scoring.score import MODELS

#: Seconds from one exam to the next; a mammograph takes minutes for one.
PACE: Final = 1.0
WAIT_SECONDS: Final = 300.0


class _Kind(NamedTuple):
    """A kind of study: how one is made of a seed, and whether each waits for the answer to the one before."""

    name: str
    make: Callable[[str], list[Dataset]]
    in_turn: bool


def measured(found: Settings, exams: int, heads: int) -> Figures:
    """Send exams and heads through the running stack and return what was waited for each."""
    lines = []
    images, head = read_images(MODELS / "density" / "example"), read_head()
    mammogram = _Kind("four-view mammogram", lambda seed: _exam(images, seed), False)
    t1 = _Kind("T1 head", lambda seed: make_head(head, seed)[0], True)
    for kind, count in ((mammogram, exams), (t1, heads)):
        if count:
            took = Quantiles.of(_waited_for(found, kind, count))
            seconds = (f"{ms / 1000:.1f}" for ms in (took.p50_ms, took.p95_ms, took.max_ms))
            lines.append([kind.name, str(count), *seconds])
    quiet = found.catalog.closed_quiet_seconds
    return Figures(
        f"Last image acknowledged to prediction, {quiet:g} s of it until the study is held to be complete",
        ["study", "sent", "p50 s", "p95 s", "most s"],
        lines,
    )


def _waited_for(found: Settings, kind: _Kind, count: int) -> list[float]:
    """Send studies of a kind and return the milliseconds from each one's last image to its prediction."""
    keys = ProjectKeys.derive(master_key(found), "default", found.deidentify.key_id)
    seed = f"bench-{time.time_ns()}"
    sent: dict[str, float] = {}
    with Listener(found, "prediction.v1") as answers:
        time.sleep(PACE)  # it reads what comes after its start
        for number in range(count):
            due = time.monotonic() + PACE
            datasets = kind.make(f"{seed}/{number}")
            study = keys.pseudonymous_uid(str(datasets[0].StudyInstanceUID))
            answers.expect(study)
            _send(files_of(datasets))
            sent[study] = time.monotonic()
            if kind.in_turn:
                answers.wait(study, WAIT_SECONDS)
            time.sleep(max(0.0, due - time.monotonic()))
        return [_waited(answers, study, since) for study, since in sent.items()]


def _exam(images: Mapping[str, Pixels], seed: str) -> list[Dataset]:
    [exam] = make_exams(images, patients=1, seed=seed)
    return list(exam.datasets.values())


def _waited(answers: Listener, study: str, since: float) -> float:
    came = answers.wait(study, WAIT_SECONDS)
    if came is None:
        raise ProdromeError(
            f"expected a prediction within {WAIT_SECONDS:.0f} s, none came: see `prodrome status`"
        )
    return 1000 * (came - since)


def _send(files: Sequence[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number:05d}.dcm") for number in range(len(files))]
        for path, data in zip(paths, files, strict=True):
            path.write_bytes(data)
        if not all(result.stored for result in send(paths, destination(None, "BENCH"))):
            raise ProdromeError("expected every image to be acknowledged: see `prodrome status`")
