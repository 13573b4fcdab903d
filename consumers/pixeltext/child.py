"""Pictures cleaned in a child process with bounds on memory and time: a decoder that crashes, hangs or grows takes
its picture into quarantine, and nothing else.

`Child.clean` is called in a worker; the child is started at the first picture, kept while it answers, and ended
with the worker. Frames of pickled values go over a pipe between the two, both of our making.
"""

import os
import resource
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Final

from consumers.deid.picture import CleanedPixels, Picture
from consumers.pixeltext.cleaner import clean
from consumers.pixeltext.detector import Detector
from infra import children
from schemas.errors import ProdromeError, Quarantine

#: Address space of the child: the models and their arena, numpy, and a picture several times over.
MEMORY_BYTES: Final = 6 << 30
#: To import, and to load the models, on a machine that does much else.
START_SECONDS: Final = 120.0
#: For a picture: a first frame and its check, then what a frame of a million pixels takes, three times over.
FIRST_SECONDS: Final = 60.0
SECONDS_A_MEGAPIXEL: Final = 24.0
#: No picture may take longer; what would goes to a person.
LONGEST_SECONDS: Final = 900.0


class Child:
    """One child process, made when it is needed; not for two threads."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory = memory_bytes
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def clean(self, picture: Picture, seconds: float | None = None) -> CleanedPixels:
        """Clean a picture; see `cleaner.clean`.

        Raises
        ------
        schemas.errors.Quarantine
            What `cleaner.clean` raises; `burned_in_risk` too where the child ended or took too long.
        schemas.errors.ProdromeError
            The detector is not installed.
        """
        pipe = self._running()
        pipe.send(picture)
        if not pipe.poll(seconds or budget_seconds(picture)):
            self.close()
            raise Quarantine("burned_in_risk", "the pixels took too long to search for text")
        try:
            answer = pipe.recv()
        except (EOFError, OSError):
            self.close()
            raise Quarantine("burned_in_risk", "the process that searched the pixels ended") from None
        if isinstance(answer, Quarantine):
            raise answer
        return answer  # type: ignore[no-any-return]

    @property
    def pid(self) -> int:
        """The process id of the child; 0 where none runs."""
        return self._process.pid or 0 if self._process is not None else 0

    def close(self) -> None:
        """End the child."""
        if self._process is not None and self._pipe is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = self._pipe = None

    def _running(self) -> Connection:
        if self._process is not None and self._pipe is not None and self._process.is_alive():
            return self._pipe
        self.close()
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, os.getpid(), self._memory), daemon=True)
        self._process.start()
        theirs.close()
        if not self._pipe.poll(START_SECONDS):
            self.close()
            raise Quarantine("burned_in_risk", "the process that searches the pixels did not start")
        try:
            failure = self._pipe.recv()
        except (EOFError, OSError):
            failure = "the process that searches the pixels ended as it started"
        if failure:
            self.close()
            raise ProdromeError(failure)
        return self._pipe


def budget_seconds(picture: Picture) -> float:
    """Return how long a picture may take."""
    asked = FIRST_SECONDS + SECONDS_A_MEGAPIXEL * picture.rows * picture.columns * picture.frames / 1e6
    return min(asked, LONGEST_SECONDS)


def _serve(pipe: Connection, parent: int, memory_bytes: int) -> None:
    children.end_with(parent)
    try:
        detector = Detector()
    except ProdromeError as error:
        pipe.send(str(error))
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    pipe.send("")
    while True:
        picture = pipe.recv()
        pipe.send(_cleaned(picture, detector))


def _cleaned(picture: Picture, detector: Detector) -> CleanedPixels | Quarantine:
    try:
        return clean(picture, detector)
    except Quarantine as doubt:
        return doubt
    except Exception as error:  # MemoryError among them; the text of a foreign error may quote the dataset
        return Quarantine("burned_in_risk", f"the pixels could not be read: {type(error).__name__}")
