"""A sender with a ledger of its own: every attempt is on the disk before it is made, every answer before it counts.

1. `Ledger` writes one line an attempt and one an answer, each synced; `sent` reads them back.
2. `Sender` sends over several associations at once and, as a PACS does, sends again what had no answer or
   was refused for a passing cause, until it is answered or its time is over.

It shares the wire with `prodrome send` and nothing of what the system knows: what was acknowledged stands here.
"""

import hashlib
import io
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pydicom
from pydicom.dataset import Dataset

from producers.send import Association, AssociationRefused, Destination, Item, Lost, inspect_file

#: Between attempts of what was lost or refused.
PAUSE_SECONDS = 0.3


class Sent(NamedTuple):
    """One content under one SOP Instance UID, and every answer that it got; None where there was none."""

    uid: str
    study: str
    content: str
    image: str
    answers: tuple[int | None, ...]

    @property
    def acknowledged(self) -> bool:
        """Whether the receiver took responsibility, success or a warning, at least once."""
        return any(map(is_success, self.answers))

    @property
    def unknown(self) -> bool:
        """Whether nobody can say: never acknowledged, and once without an answer."""
        return not self.acknowledged and None in self.answers


def is_success(answer: int | None) -> bool:
    """Whether an answer takes responsibility: success or a warning."""
    return answer is not None and (answer == 0 or answer & 0xF000 == 0xB000)


class Facts(NamedTuple):
    """What the sender knows of a file: whose it is, and digests of its dataset and of its image."""

    uid: str
    study: str
    content: str
    image: str


def image_digest(dataset: Dataset) -> str:
    """Digest what de-identification leaves as it is: the number in the series and the pixels."""
    # Nothing is read lazily past this: every element is parsed.
    parsed = sum(1 for _ in dataset.iterall())
    pixels = dataset.get("PixelData", b"") if parsed else b""
    return hashlib.sha256(f"{dataset.get('InstanceNumber')}/".encode() + pixels).hexdigest()


def facts_of(item: Item) -> Facts:
    """Read a file that is to be sent."""
    data = item.path.read_bytes()
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    content = hashlib.sha256(data[item.dataset_offset :]).hexdigest()
    study = str(dataset.get("StudyInstanceUID", item.sop_instance_uid))
    return Facts(item.sop_instance_uid, study, content, image_digest(dataset))


class Ledger:
    """What was sent and answered, a file of lines; many threads write. `poison` are UIDs that must end as dead."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._lock = threading.Lock()
        self._path = path
        self.poison: set[str] = set()

    def note(self, facts: Facts, event: str, status: int | None = None) -> None:
        """Write a line and sync it."""
        line = json.dumps({**facts._asdict(), "at": time.time(), "event": event, "status": status})
        with self._lock:
            os.write(self._file, line.encode() + b"\n")
        os.fdatasync(self._file)

    def sent(self) -> list[Sent]:
        """Return every content that was ever tried, with its answers; an attempt without one is unknown."""
        answers: dict[Facts, list[int | None]] = {}
        for line in self._path.read_text().splitlines():
            found = json.loads(line)
            facts = Facts(*(found[name] for name in Facts._fields))
            if found["event"] == "attempt":
                answers.setdefault(facts, []).append(None)
            else:
                answers[facts].remove(None)
                answers[facts].append(found["status"])
        return [Sent(*facts, tuple(each)) for facts, each in answers.items()]


class Sender:
    """Sends files over several associations; `pace` is the pause after each answer, in seconds."""

    def __init__(
        self, ledger: Ledger, destination: Destination, associations: int = 4, pace: float = 0.0
    ) -> None:
        self.ledger, self.destination, self._pace = ledger, destination, pace
        self._associations = associations
        self._lock = threading.Lock()
        self._lanes: list[threading.Thread] = []
        self._files: Iterator[Path] = iter(())
        self._ended, self._until = False, 0.0
        #: monotonic time and status of every answer
        self.answers: list[tuple[float, int]] = []

    def start(self, paths: Iterable[Path], patience: float = 300.0) -> None:
        """Begin to send; what has no final answer `patience` seconds after the end is left as it is."""
        self._files, self._ended, self._patience = iter(paths), False, patience
        self._lanes = [threading.Thread(target=self._lane) for _ in range(self._associations)]
        for lane in self._lanes:
            lane.start()

    def end(self) -> int:
        """Take no more files, wait until what was begun is answered; return how many answers were final."""
        self._until = time.monotonic() + self._patience
        self._ended = True
        return self.finish()

    def finish(self) -> int:
        """Wait until all is sent."""
        for lane in self._lanes:
            lane.join()
        return sum(is_success(status) for _, status in self.answers)

    def statuses(self, since: float, until: float) -> list[int]:
        """Return the answers between two monotonic times."""
        return [status for at, status in self.answers if since <= at < until]

    def _next(self) -> tuple[Item, Facts] | None:
        with self._lock:
            path = None if self._ended else next(self._files, None)
        if path is None:
            return None
        item = inspect_file(path)
        assert isinstance(item, Item), item
        return item, facts_of(item)

    def _may_wait(self) -> bool:
        return not self._ended or time.monotonic() < self._until

    def _lane(self) -> None:
        association: Association | None = None
        contexts: dict[tuple[str, str], int] = {}
        while (found := self._next()) is not None:
            item, facts = found
            done = False
            while not done and self._may_wait():
                pair = (item.sop_class_uid, item.transfer_syntax_uid)
                if association is None or pair not in contexts:
                    contexts.setdefault(pair, 2 * len(contexts) + 1)
                    if association is not None:
                        association.release()
                    association = self._open(contexts)
                done = association is not None and self._store(association, item, facts)
                if not done:
                    if association is not None:
                        association.close()
                    association = None
                    time.sleep(PAUSE_SECONDS)
            time.sleep(self._pace)
        if association is not None:
            association.release()

    def _open(self, contexts: dict[tuple[str, str], int]) -> Association | None:
        try:
            return Association(self.destination, dict(contexts))
        except (Lost, AssociationRefused):
            return None

    def _store(self, association: Association, item: Item, facts: Facts) -> bool:
        self.ledger.note(facts, "attempt")
        try:
            status = association.store(item)
        except Lost:
            return False  # no answer: unknown until it is sent again
        self.ledger.note(facts, "answer", status)
        self.answers.append((time.monotonic(), status))
        return status & 0xFF00 != 0xA700
