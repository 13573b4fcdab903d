"""`prodrome demo`: the main job, on this machine, in front of your eyes.

1. Bring the stack up (it stays up).
2. Make two synthetic patients' mammography exams with planted identifiers, from one public exam.
3. Send them over real associations; show each prediction as it arrives beside an independent reference
   computed on the sent pixels.
4. Send one again, add a spot view, repeat a view: nothing, nothing, one superseding prediction.
5. Send a head: a T1 series becomes a graded severity with its spread, and the gates that let it pass.
6. Find the studies under their pseudonyms; show the balance.

Each step is checked; the exit status is 1 where one does not hold.
"""

import json
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from commands.query import instances_of, predictions_of, studies_of
from commands.send import destination, send_with_progress
from commands.stack import bring_up
from commands.status import intakes
from commands.wiring import opened, told
from consumers.deid.keys import ProjectKeys
from consumers.predictions import run_outcome
from consumers.quiet import StudyKey
from infra.connections import kafka_of
from infra.demo import Exam, make_exams, read_images, repeated_view, spot_view, to_bytes, uid
from infra.demo_brain import files_of, make_head, read_head, sent_anew
from infra.demo_reference import read_weights, reference
from infra.kafka import read
from infra.settings import Settings, load, master_key
from schemas.errors import ProdromeError

#: Agreement that the float32 graph and the float64 reference must reach.
TOLERANCE: Final = 1e-6
#: The slowest machine this was tried on needs a tenth of it; past it something is wrong.
WAIT_SECONDS: Final = 120.0
CHECKOUT: Final = Path(__file__).resolve().parent.parent
PACKAGE: Final = CHECKOUT / "scoring" / "models" / "density"
#: A whole T1 series, used where it lies beside the checkout.
SHARED_HEAD: Final = CHECKOUT.parent / "shared" / "data" / "brain-mri" / "dicoms"

Prediction = dict[str, Any]

console = Console()


@click.command()
def demo() -> None:
    """Send two synthetic mammography exams and a head through the whole system and show what comes out.

    One public exam stands behind the mammograms, one public head behind the T1 series (or the shared one, where it
    lies beside the checkout). Not for diagnosis.
    """
    started = time.monotonic()
    console.print(Panel("Public images, synthetic patients, invented identifiers. Not for diagnosis.",
                        title="prodrome demo", style="yellow"))  # fmt: skip
    with told():
        bring_up(lambda text: console.print(f"[dim]{text}"))
        console.print(f"[dim]the stack is ready after {time.monotonic() - started:.1f} s")
        shown = Demo(load())
        try:
            shown.run()
        finally:
            shown.close()
    console.print(f"[dim]done in {time.monotonic() - started:.1f} s; `prodrome status`, `prodrome down`")
    raise SystemExit(1 if shown.failed else 0)


class Arrived:
    """The predictions of a topic as they arrive, each once.

    A message comes again, and after others, where its role was restarted (docs/subscribing.md): what was heard is
    told by its id, never by its place.
    """

    def __init__(self) -> None:
        self._by_id: dict[str, Prediction] = {}

    def hear(self, message: bytes) -> None:
        """Take a message's value; one that was heard before changes nothing."""
        prediction: Prediction = json.loads(message)
        self._by_id.setdefault(prediction["prediction_id"], prediction)

    def of(self, study: str) -> list[Prediction]:
        """Return what was said of a study once it was complete, the lowest revision first."""
        heard = [p for p in list(self._by_id.values()) if p["study_instance_uid"] == study]
        return sorted((p for p in heard if p["outcome"] != "incomplete"), key=lambda p: int(p["revision"]))


class Demo:
    """One run: its exams, the predictions as they arrive, and what did not hold."""

    def __init__(self, found: Settings) -> None:
        self.found = found
        self.failed = 0
        self.run_number = _next_number(found.home / "demo" / "runs")
        self.folder = found.home / "demo" / f"run-{self.run_number}"
        self.exams = make_exams(read_images(PACKAGE / "example"), seed=f"demo-{self.run_number}")
        self.model = tomllib.loads((PACKAGE / "card.toml").read_text())["id"]
        self.weights = read_weights(PACKAGE / "weights.npz")
        keys = ProjectKeys.derive(master_key(found), "default", found.deidentify.key_id)
        self._pseudonym = keys.pseudonymous_uid
        self.studies = [self._pseudonym(_study(exam)) for exam in self.exams]
        self.arrived = Arrived()
        self._stopping = threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)

    def run(self) -> None:
        """Show what the module says."""
        before = self._balance()
        self._listener.start()
        files = {i: self._write(i, exam) for i, exam in enumerate(self.exams)}
        self._tell_exams()
        self._send([f for some in files.values() for f in some.values()], "sending two exams")
        self._show_predictions(files)
        self._send_again(list(files[0].values()), before)
        self._spot_view()
        self._repeated_view(files[1])
        slices = self._head()
        self._show_query()
        self._show_balance(before, slices)

    def close(self) -> None:
        """End the listener."""
        self._stopping.set()

    # what it shows

    def _tell_exams(self) -> None:
        for exam, study in zip(self.exams, self.studies, strict=True):
            console.print(f"patient {exam.patient + 1}: {exam.statement}; known inside as study {study}")

    def _show_predictions(self, files: dict[int, dict[str, Path]]) -> None:
        self._wait("two predictions", lambda: all(map(self.arrived.of, self.studies)))
        for i, study in enumerate(self.studies):
            self._compare(i, self.arrived.of(study)[-1], files[i])

    def _send_again(self, files: list[Path], before: dict[str, int]) -> None:
        count = self._count()
        self._send(files, "sending the first exam again")
        self._wait(
            "all duplicates settled", lambda: self._balance()["duplicate"] - before["duplicate"] == len(files)
        )
        self._check(
            "an exam sent twice changes nothing: 4 duplicates, no new prediction",
            self._count() == count,
        )

    def _spot_view(self) -> None:
        count, revision = self._count(), self._next_revision(0)
        path = self._write_one(0, "spot", to_bytes(spot_view(self.exams[0])))
        self._send([path], "adding a spot view")
        self._wait(f"revision {revision} to be scored", lambda: self._scored(0, revision))
        self._check(
            f"a spot view makes revision {revision} and changes no prediction", self._count() == count
        )

    def _repeated_view(self, files: dict[str, Path]) -> None:
        study, revision, count = self.studies[1], self._next_revision(1), self._count()
        first = self.arrived.of(study)[-1]
        path = self._write_one(1, "repeat", to_bytes(repeated_view(self.exams[1])))
        self._send([path], "repeating the left CC view")
        self._wait("the superseding prediction", lambda: self.arrived.of(study)[-1]["revision"] >= revision)
        newest = self.arrived.of(study)[-1]
        self._compare(1, newest, {**files, "L-CC": path})
        holds = (newest["supersedes"], newest["revision"]) == (first["prediction_id"], revision)
        self._check(
            f"a repeated view gives revision {revision} and one prediction that supersedes the first",
            holds and self._count() == count + 1,
        )

    def _show_query(self) -> None:
        table = Table(
            "pseudonymous patient", "study", "revision", "instances", "effective prediction", title="Query"
        )
        with opened(self.found.clean) as tables:
            for i, study in enumerate(self.studies):
                patient = self.arrived.of(study)[-1]["patient_id"]
                heads = [s for s in studies_of(tables, "default", patient) if s["study"] == study]
                instances = instances_of(tables, "default", study)
                effective = [p for p in predictions_of(tables, "default", study) if p["effective"]]
                table.add_row(patient, study, str(heads[0]["revision"]), str(len(instances)),
                              f"{effective[0]['category']} {effective[0]['score']:.4f}")  # fmt: skip
                self._check(f"patient {i + 1} is found by query: 5 instances, one effective prediction",
                            len(instances) == 5 and len(effective) == 1, quiet=True)  # fmt: skip
        console.print(table)

    def _head(self) -> int:
        """Send a head and show its prediction; returns the number of its slices."""
        seed = f"demo-{self.run_number}/head"
        shared = sorted(SHARED_HEAD.glob("*.dcm")) if SHARED_HEAD.is_dir() else []
        said = "the shared series" if shared else "hippodeep's example head (MIT)"
        slices = sent_anew(shared, seed) if shared else files_of(make_head(read_head(), seed)[0])
        files = [self._write_one(2, f"{number:05d}", data) for number, data in enumerate(slices)]
        study = self._pseudonym(str(uid(f"{seed}/study")))
        console.print(f"patient 3: {said}, {len(files)} slices; known inside as study {study}")
        self._send(files, "sending a head")
        begun = time.monotonic()
        self._wait("its prediction", lambda: bool(self.arrived.of(study)))
        found = self.arrived.of(study)[-1]
        console.print(f"predicted {time.monotonic() - begun:.1f} s after the last acknowledgement")
        if found["outcome"] == "predicted":
            table = Table("measurement", "value", "of passes moved by a voxel", "confidence",
                          title=f"patient 3: {found['category']}, {found['score_meaning']} {found['score']:.3f}"
                          f" {' '.join(found['quality_flags'])}")  # fmt: skip
            for m in found["measurements"]:
                spread = f"{m['low']:.3f} to {m['high']:.3f}" if "low" in m else ""
                table.add_row(m["name"], f"{m['value']:.3f}", spread, m.get("confidence", ""))
            console.print(table)
        gates = Table(*found.get("gates", {"gates": 0}), title="Gates")
        gates.add_row(*(f"{value:.3f}" for value in found.get("gates", {"gates": 0}).values()))
        console.print(gates)
        self._check("a T1 series of a head becomes one graded severity", found["outcome"] == "predicted")
        return len(files)

    def _show_balance(self, before: dict[str, int], slices: int) -> None:
        self._wait("nothing in flight", lambda: self._balance()["in_flight"] == 0)
        now = {name: count - before[name] for name, count in self._balance().items()}
        table = Table(*now, title="Balance of this run")
        table.add_row(*map(str, now.values()))
        console.print(table)
        expected = {"acknowledged": 14 + slices, "clean": 10 + slices, "duplicate": 4}
        self._check(
            "acknowledged = clean + duplicate + ... + in flight", now == {**dict.fromkeys(now, 0), **expected}
        )

    # parts of them

    def _compare(self, patient: int, prediction: Prediction, files: dict[str, Path]) -> None:
        expected = reference({view: path.read_bytes() for view, path in files.items()}, self.weights)
        table = Table("class", "prodrome", "reference", "difference",
                      title=f"patient {patient + 1}, revision {prediction['revision']}, {prediction['status']}: "
                      f"{prediction['category'] or prediction['outcome']}")  # fmt: skip
        worst = 0.0
        for name, value in expected.items():
            got = prediction["probabilities"].get(name, float("nan"))
            worst = max(worst, abs(got - value)) if got == got else 1.0
            table.add_row(name, f"{got:.7f}", f"{value:.7f}", f"{abs(got - value):.1e}")
        console.print(table)
        self._check(
            f"patient {patient + 1} agrees with the reference within {TOLERANCE:g}", worst <= TOLERANCE
        )

    def _count(self) -> int:
        return sum(len(self.arrived.of(study)) for study in self.studies)

    def _next_revision(self, patient: int) -> int:
        """Return the revision that one more image makes: 2, unless a stage was away while the exam came."""
        return int(self.arrived.of(self.studies[patient])[-1]["revision"]) + 1

    def _scored(self, patient: int, revision: int) -> bool:
        """Whether the model has an answer for this revision of a patient's study."""
        with opened(self.found.clean) as tables:
            key = StudyKey("default", self.studies[patient])
            return run_outcome(tables, key, self.model, revision) == "predicted"

    def _balance(self) -> dict[str, int]:
        return intakes(self.found)

    def _send(self, files: list[Path], title: str) -> None:
        results = send_with_progress(files, destination(None, "DEMO"), title=title)
        self._check(f"{title}: {len(files)} acknowledged", all(r.stored for r in results))

    def _write(self, number: int, exam: Exam) -> dict[str, Path]:
        return {
            view: self._write_one(number, view, to_bytes(dataset)) for view, dataset in exam.datasets.items()
        }

    def _write_one(self, patient: int, name: str, data: bytes) -> Path:
        path = self.folder / f"patient-{patient + 1}" / f"{name}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def _listen(self) -> None:
        for message in _follow(self.found, self._stopping):
            self.arrived.hear(message)

    def _wait(self, what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        with console.status(f"waiting for {what}"):
            while not holds():
                if time.monotonic() > deadline:
                    raise ProdromeError(
                        f"no {what} within {WAIT_SECONDS:.0f} s: see `prodrome status` and the logs"
                    )
                time.sleep(0.1)

    def _check(self, text: str, holds: bool, quiet: bool = False) -> None:
        self.failed += not holds
        if not (holds and quiet):
            console.print(f"[green]✓[/] {text}" if holds else f"[red]✗ {text}")


def _follow(found: Settings, stopping: threading.Event) -> Iterator[bytes]:
    for message in read(
        kafka_of(found.clean), "prediction.v1", from_start=True, follow=True, stopping=stopping
    ):
        yield message.value


def _study(exam: Exam) -> str:
    return str(next(iter(exam.datasets.values())).StudyInstanceUID)


def _next_number(path: Path) -> int:
    # Every run has patients of its own, so that a second demo shows predictions too.
    number = int(path.read_text()) + 1 if path.exists() else 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(number))
    return number
