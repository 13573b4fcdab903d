"""Pictures cleaned in a child process with bounds on memory and time: a decoder that crashes, hangs or grows takes
its picture into quarantine, and nothing else.

`Child.clean` is called in a worker; the child is started at the first picture, kept while it answers, and ended
with the worker. Frames of pickled values go over a pipe between the two, both of our making.
"""

import resource
from typing import Final

from consumers.deid.picture import CleanedPixels, Picture
from consumers.pixeltext.cleaner import clean
from consumers.pixeltext.detector import Detector
from infra.worker import Worker, WorkerEnded
from schemas.errors import ProdromeError, Quarantine

#: Address space of the child: the models and their arena, numpy, and a picture several times over.
MEMORY_BYTES: Final = 6 << 30
#: For a picture: a first frame and its check, then what a frame of a million pixels takes, three times over.
FIRST_SECONDS: Final = 60.0
SECONDS_A_MEGAPIXEL: Final = 24.0
#: No picture may take longer; what would goes to a person.
LONGEST_SECONDS: Final = 900.0


class Child:
    """One child process, made when it is needed; not for two threads."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory = memory_bytes
        self._worker: Worker | None = None

    def clean(self, picture: Picture, seconds: float | None = None) -> CleanedPixels:
        """Clean a picture; see `cleaner.clean`.

        Raises
        ------
        schemas.errors.Quarantine
            What `cleaner.clean` raises; `burned_in_risk` too where the child ended or took too long.
        schemas.errors.ProdromeError
            The detector is not installed.
        """
        worker = self._running()
        try:
            worker.ask(picture)
            if not worker.connection.poll(seconds or budget_seconds(picture)):
                self.close()
                raise Quarantine("burned_in_risk", "the pixels took too long to search for text")
            answer = worker.receive()
        except WorkerEnded:
            self.close()
            raise Quarantine("burned_in_risk", "the process that searched the pixels ended") from None
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    @property
    def pid(self) -> int:
        """The process id of the child; 0 where none runs."""
        return self._worker.pid if self._worker is not None else 0

    def close(self) -> None:
        """End the child."""
        if self._worker is not None:
            self._worker.end()
        self._worker = None

    def _running(self) -> Worker:
        if self._worker is not None and self._worker.is_alive:
            return self._worker
        self.close()
        self._worker = Worker(_cleaned, _prepare, (self._memory,))
        try:
            self._worker.wait_until_ready()
        except (WorkerEnded, TimeoutError):
            self.close()
            raise Quarantine("burned_in_risk", "the process that searches the pixels did not start") from None
        return self._worker


def budget_seconds(picture: Picture) -> float:
    """Return how long a picture may take."""
    asked = FIRST_SECONDS + SECONDS_A_MEGAPIXEL * picture.rows * picture.columns * picture.frames / 1e6
    return min(asked, LONGEST_SECONDS)


_detector: Detector | ProdromeError | None = None


def _prepare(memory_bytes: int) -> None:
    global _detector
    try:
        _detector = Detector()
    except ProdromeError as error:
        _detector = error
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def _cleaned(picture: Picture) -> CleanedPixels:
    if not isinstance(_detector, Detector):
        raise _detector or RuntimeError("expected _prepare() before _cleaned()")
    try:
        return clean(picture, _detector)
    except Quarantine:
        raise
    except Exception as error:  # MemoryError among them; the text of a foreign error may quote the dataset
        raise Quarantine("burned_in_risk", f"the pixels could not be read: {type(error).__name__}") from None
