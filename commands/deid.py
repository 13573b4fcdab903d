"""`prodrome deid IN OUT`: files in, clean files out; needs no stack, only a master key.

1. Every file below IN is read and de-identified in one of several processes, which write it beside its place.
2. It is put in its place, OUT/patient/study/series/instance.dcm by pseudonyms, when it is whole: an interrupted
   run leaves nothing half-written, and the next one gives the same bytes.
3. What is refused is listed with its reason and not written; the summary counts by action and by reason.
4. The manifest says of each file what was done, without a value; its lines are chained by hashes.

The same SOP Instance UID again with other content is refused, not overwritten. Links are not followed.
"""

import dataclasses
import itertools
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from commands.stack import make_secrets
from commands.wiring import settings, told
from consumers.deid.engine import Profile, ProjectKeys, clean_file, load_profile
from consumers.deid.manifest import GENESIS, chained, counted
from consumers.deid.picture import PixelCleaner
from consumers.deid.profiles import SHIPPED
from consumers.pixeltext import pixel_cleaner
from infra.settings import master_key
from infra.worker import Worker, WorkerEnded
from schemas.errors import ProdromeError, Quarantine

#: So many files for each process may be ahead of the next one in order: one that takes long holds up nobody.
WAITING: Final = 4
_PARTIAL: Final = ".partial-"
_CONFLICT: Final = "uid_conflict"
_ACTIONS: Final = {
    "X": "removed",
    "Z": "emptied",
    "D": "replaced by dummies",
    "U": "UIDs replaced",
    "C": "cleaned",
    "own": "put in: pseudonym and method",
}


class Outcome(NamedTuple):
    """One file: where it was written, and where it belongs; or why it was not."""

    source: Path
    written: Path | None = None
    place: str = ""
    reason: str = ""
    detail: str = ""
    manifest: bytes = b""


@click.command()
@click.argument("source", metavar="IN", type=click.Path(exists=True, path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--profile",
    default="basic",
    show_default=True,
    help=f"One of {', '.join(SHIPPED)}; or the path of a TOML file on top of one (docs/profiles.md).",
)
@click.option("--project", default="default", show_default=True, help="Pseudonyms differ by project.")
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help="File with the master key: 64 hexadecimal digits, mode 600; without it the home's, made if need be.",
)
@click.option("--jobs", type=click.IntRange(min=0), default=0, help="Processes; without it one a core.")
@click.option(
    "--manifest",
    type=click.Path(path_type=Path),
    help="Write here, a line a file, what was done to it: path, action and rule, no value; chained by hashes.",
)
def deid(
    source: Path,
    target: Path,
    profile: str,
    project: str,
    key_file: Path | None,
    jobs: int,
    manifest: Path | None,
) -> None:
    """De-identify the DICOM files of IN (a file or folder) into the folder OUT.

    Clean files are named by their pseudonyms: patient, study, series, instance. The same key gives the same
    bytes, so a run that was interrupted is run again. What is doubtful is not written; it is listed with its
    reason, and the exit status is 1.
    """
    with told():
        if target.resolve().is_relative_to(source.resolve()) and source.is_dir():
            raise ProdromeError(f"expected OUT outside of IN, came {target} inside {source}")
        rules, keys = load_profile(profile), _keys(key_file, project)
        pixel_cleaner(rules)  # what is missing is said here, and not by each process
        begun, counts, actions = _begin(target), Counter[str](), Counter[str]()
        files, record = _files(source), _Record(manifest)
        count = sum(1 for _ in _files(source))
        jobs = min(jobs or len(os.sched_getaffinity(0)), max(1, count))
        with _progress(count) as (progress, task):
            for outcome in _cleaned(files, target, rules, keys, jobs):
                reason = outcome.reason or _put(outcome, target, begun)
                counts[reason] += 1
                actions += record.add(outcome, reason)
                if reason:
                    told_why = f": {outcome.detail}" if outcome.detail else ""
                    progress.console.print(
                        f"{outcome.source}: {reason}{told_why}", markup=False, highlight=False
                    )
                progress.advance(task)
        record.end()
    refused = counts.total() - counts[""]
    for action, meaning in _ACTIONS.items():
        click.echo(f"{actions[action]:8} attributes {meaning}")
    for reason, count in sorted(counts.items()):
        if reason:
            click.echo(f"{count:8} {reason}")
    if manifest is not None:
        click.echo(f"manifest {manifest}: {counts.total()} lines, the last {record.head}")
    click.echo(f"{counts['']} written, {refused} doubtful and not written")
    raise SystemExit(1 if refused else 0)


def _keys(key_file: Path | None, project: str) -> ProjectKeys:
    found = settings()
    if key_file is not None:
        part = dataclasses.replace(found.deidentify, master_key_file=str(key_file))
        found = dataclasses.replace(found, deidentify=part)
    else:
        make_secrets(found)
    return ProjectKeys.derive(master_key(found), project, found.deidentify.key_id)


def _files(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
        return
    for folder, folders, names in os.walk(source):
        folders.sort()
        for name in sorted(names):
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink():
                yield path


def _begin(target: Path) -> int:
    """Remove what an interrupted run left beside its place, and return the time by the clock of OUT's files."""
    target.mkdir(parents=True, exist_ok=True)
    for left in target.glob(f"{_PARTIAL}*"):
        left.unlink()
    marker = target / f"{_PARTIAL}begin"
    marker.touch()
    begun = marker.stat().st_mtime_ns
    marker.unlink()
    return begun


class _Record:
    """The manifest of a run: written beside its place, and put there when the run has ended; or nowhere."""

    def __init__(self, place: Path | None) -> None:
        self._place = place
        self._partial = place.with_name(f"{_PARTIAL}{place.name}") if place else None
        self._file = self._partial.open("wb") if self._partial else None
        self.head = GENESIS

    def add(self, outcome: Outcome, reason: str) -> Counter[str]:
        """Add the line of one file, and return its actions by letter."""
        said = {} if reason else msgspec.json.decode(outcome.manifest)
        if self._file is not None:
            told_of = {"refused": reason} if reason else {"file": outcome.place, **said}
            line, self.head = chained(self.head, told_of)
            self._file.write(line)
        return counted(said.get("actions", {}))

    def end(self) -> None:
        """Put the manifest in its place."""
        if self._file is not None and self._partial is not None and self._place is not None:
            self._file.close()
            self._partial.replace(self._place)


def _cleaned(
    files: Iterator[Path], target: Path, profile: Profile, keys: ProjectKeys, jobs: int
) -> Iterator[Outcome]:
    """Yield the outcome of each file in their order; some are ahead, and a process that ends costs its own file."""
    workers: list[Worker] = []
    busy: dict[Any, tuple[Worker, Path]] = {}  # by connection
    order: deque[Path] = deque()
    done: dict[Path, Outcome] = {}

    def started(count: int) -> list[Worker]:
        new = [Worker(_clean, _setup, (target, profile, keys)) for _ in range(count)]
        workers.extend(new)
        for worker in new:
            _await(worker)
        return new

    try:
        free = started(jobs)
        while True:
            while order and order[0] in done:
                yield done.pop(order.popleft())
            while free and len(order) < WAITING * jobs and (path := next(files, None)) is not None:
                worker = free.pop()
                with suppress(WorkerEnded):  # its pipe says so below
                    worker.ask(path)
                busy[worker.connection] = (worker, path)
                order.append(path)
            if not order:
                return
            for connection in wait(list(busy)):
                worker, path = busy.pop(connection)
                try:
                    answer = worker.receive()
                except WorkerEnded:
                    workers.remove(worker)
                    worker.end()
                    _remove_halves(target, worker, done.values())
                    answer = Outcome(path, reason="crashed_worker", detail="its process ended; memory?")
                    [worker] = started(1)
                if isinstance(answer, Exception):
                    answer = Outcome(path, reason="deid_failed", detail=type(answer).__name__)
                done[path] = answer
                free.append(worker)
    finally:
        for worker in workers:
            worker.end()


def _await(worker: Worker) -> None:
    try:
        worker.wait_until_ready()
    except (WorkerEnded, TimeoutError):
        raise ProdromeError("a process to de-identify in does not start; too little memory?") from None


def _remove_halves(target: Path, worker: Worker, answered: Iterable[Outcome]) -> None:
    whole = {outcome.written for outcome in answered}
    for half in set(target.glob(f"{_PARTIAL}{worker.pid}-*")) - whole:
        half.unlink()


_numbers: Final = itertools.count()
_work: tuple[Path, Profile, ProjectKeys, PixelCleaner | None] | None = None


def _setup(target: Path, profile: Profile, keys: ProjectKeys) -> None:
    global _work
    _work = (target, profile, keys, pixel_cleaner(profile))


def _clean(source: Path) -> Outcome:
    """De-identify one file in this process, and write it beside its place."""
    if _work is None:
        raise RuntimeError("expected _setup() before _clean()")
    target, profile, keys, cleaner = _work
    try:
        done = clean_file(source.read_bytes(), profile, keys, cleaner=cleaner)
        written = _written(target, done.parts)
    except Quarantine as doubt:
        return Outcome(source, reason=doubt.reason, detail=doubt.detail)
    except OSError as error:
        return Outcome(source, reason="unreadable_file", detail=error.strerror or type(error).__name__)
    place = (done.patient, done.study_instance_uid, done.series_instance_uid, f"{done.sop_instance_uid}.dcm")
    return Outcome(source, written, "/".join(place), manifest=done.manifest_json)


def _written(target: Path, parts: Iterable[bytes | memoryview]) -> Path:
    written = target / f"{_PARTIAL}{os.getpid()}-{next(_numbers)}"
    try:
        with written.open("wb") as file:
            file.writelines(parts)
    except BaseException:  # the disk is full
        written.unlink(missing_ok=True)
        raise
    return written


def _put(outcome: Outcome, target: Path, begun: int) -> str:
    """Put a written file in its place; return why it was not, or an empty text."""
    if outcome.written is None:
        raise RuntimeError("expected a written file")
    place = target / outcome.place
    place.parent.mkdir(parents=True, exist_ok=True)
    # What stood there before this run is replaced: it may be of another key or an older version.
    ours = place.exists() and place.stat().st_mtime_ns >= begun
    if ours and place.read_bytes() != outcome.written.read_bytes():
        outcome.written.unlink()
        return _CONFLICT
    outcome.written.rename(place)
    return ""


@contextmanager
def _progress(total: int) -> Iterator[tuple[Progress, TaskID]]:
    columns = (TextColumn("de-identifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, soft_wrap=True)) as bar:
        yield bar, bar.add_task("files", total=total)
