"""Reading, decoding and preparing of exams, in processes of their own beside the forward passes.

1. A task names the package, the selected instances and where their bytes lie.
2. In its process: what was prepared before is read again; else the instances are read, decoded and prepared, and
   the outcome is kept in the results store for the next model that prepares alike.
3. A process that dies, hangs or wants more memory than it may has failed its own exam (`consumers.workers`).

What is kept is compressed numbers with their measures; damaged or half of it, it is made anew.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np

from consumers.workers import Job, Workers, own_journal
from infra.objects import Store, open_results, open_store
from infra.settings import Settings
from schemas.errors import BadMessage, SlowDown
from schemas.events import Pointer
from scoring.arrays import Arrays, ArraysRefused, read_arrays, write_arrays
from scoring.intake import Selected
from scoring.outcomes import Failed, OutOfDomain, Prepared
from scoring.score import Preparer, load_preparer

if TYPE_CHECKING:  # a process that prepares needs no bodies of answers
    from consumers.exam import Exam

log = logging.getLogger(__name__)

Result = Prepared | OutOfDomain | Failed


class Task(NamedTuple):
    """One exam to be prepared.

    Attributes
    ----------
    name : str
        For the journal: the prediction's id.
    package, digest : str
        Folder and digest of the package.
    kept_as : str
        Key of what is prepared, in the results store.
    objects : dict of str to Pointer
        Where the bytes of each selected instance lie, by SOP Instance UID.
    """

    name: str
    package: str
    digest: str
    kept_as: str
    selected: Selected
    objects: dict[str, Pointer]


def task_of(name: str, exam: "Exam", selected: Selected) -> Task:
    """Return what the preparation of an exam needs to know; `name` is for the journal."""
    chosen = {i.sop_instance_uid for i in selected.instances.values()}
    model, key = exam.model, exam.key
    return Task(
        name=name,
        package=str(model.package.path),
        digest=model.package.digest,
        kept_as=f"{key.project}/prepared/{key.study}/{model.prepared_key(selected)}.npz",
        selected=selected,
        objects={
            i.sop_instance_uid: i.object for i in exam.manifest.instances if i.sop_instance_uid in chosen
        },
    )


class Preparing:
    """The processes; tasks are run beside each other, and answered in their order.

    Parameters
    ----------
    settings : Settings
        Stores, and how many processes with what time and memory.
    journal : str
        Name of the small file that outlives a process.
    """

    def __init__(self, settings: Settings, journal: str) -> None:
        self._seconds = settings.score.prepare_seconds
        path = own_journal(settings.home / "work" / "score", journal)
        self._workers = Workers(
            _prepare, _setup, (settings,), settings.score.preparers, path, memory=settings.score.prepare_bytes
        )
        self._done: dict[str, Result] = {}  # of exams that are prepared while a store refuses others

    def run(self, tasks: Sequence[Task]) -> list[Result]:
        """Prepare all; an exam that cannot be is `Failed` with its word.

        Raises
        ------
        SlowDown
            A store does not answer; what was prepared is kept for the next call.
        """
        left = [task for task in tasks if task.name not in self._done]
        jobs = [
            Job(task.name, task, sum(p.length for p in task.objects.values()), self._seconds) for task in left
        ]
        waits: SlowDown | None = None
        for task, result in zip(left, self._workers.run(jobs) if jobs else [], strict=True):
            if isinstance(result, SlowDown):
                waits = result
            else:
                self._done[task.name] = _result(task, result)
        if waits is not None:
            raise waits
        done, self._done = self._done, {}
        return [done[task.name] for task in tasks]

    def close(self) -> None:
        """End the processes."""
        self._workers.close()


def _result(task: Task, result: object) -> Result:
    if isinstance(result, Prepared | OutOfDomain | Failed):
        return result
    if isinstance(result, BadMessage):
        return Failed(reason=result.reason, detail=result.detail)
    word = "out_of_memory" if isinstance(result, MemoryError) else "preparation_failed"
    log.error("prediction %s: %s, %s", task.name, word, type(result).__name__)
    return Failed(reason=word, detail=f"the preparation ended with {type(result).__name__}")


class _Process:
    """What one process holds: the stores, and the packages that it has prepared for."""

    def __init__(self, settings: Settings) -> None:
        self.clean: Store = open_store(settings.clean, "clean", "clean")
        self.results: Store = open_results(settings)
        self.keep = settings.score.keep_prepared
        self._loaded: dict[str, Preparer] = {}

    def preparer(self, package: str, digest: str) -> Preparer:
        """Return the package's preparer, of which the newest of each folder stays loaded."""
        if digest not in self._loaded:
            found = load_preparer(Path(package), expected_digest=digest)
            model = found.package.card.id
            self._loaded = {d: p for d, p in self._loaded.items() if p.package.card.id != model}
            self._loaded[digest] = found
        return self._loaded[digest]


_process: _Process | None = None
#: Arrays of numbers compress to a quarter at the first level; the others cost seconds for little more.
LEVEL: Final = 1


def _setup(settings: Settings) -> None:
    global _process
    _process = _Process(settings)


def _prepare(task: Task) -> Result:
    assert _process is not None
    if (kept := _process.results.find(task.kept_as)) is not None:
        try:
            return read_prepared(kept)
        except ArraysRefused as error:
            log.warning("prepared %s: %s; it is made anew", task.kept_as, error)
    preparer, clean = _process.preparer(task.package, task.digest), _process.clean
    made = preparer.prepare(task.selected, lambda i: clean.get(task.objects[i.sop_instance_uid]))
    if _process.keep and isinstance(made, Prepared):
        _process.results.put_again(task.kept_as, write_prepared(made))
    return made


def write_prepared(prepared: Prepared) -> bytes:
    """Return what is kept of a prepared exam."""
    about = {
        "set_id": prepared.set_id,
        "measured": prepared.measured,
    }
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    arrays: Arrays = {"features": prepared.features, "about": text}
    if prepared.to_source is not None:
        arrays["to_source"] = prepared.to_source
    return write_arrays(arrays, LEVEL)


def read_prepared(data: bytes) -> Prepared:
    """Return a prepared exam as it was kept.

    Raises
    ------
    ArraysRefused
        The bytes are damaged, or hold something else.
    """
    arrays = read_arrays(data)
    try:
        about = msgspec.json.decode(arrays["about"].tobytes(), type=_About)
        return Prepared(
            set_id=about.set_id,
            features=arrays["features"],
            to_source=arrays.get("to_source"),
            measured=about.measured,
        )
    except (KeyError, msgspec.DecodeError) as error:
        raise ArraysRefused("expected what was prepared of an exam, found other arrays") from error


class _About(msgspec.Struct, frozen=True):
    set_id: str
    measured: dict[str, float]
