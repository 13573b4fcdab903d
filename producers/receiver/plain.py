"""pynetdicom's own way with a C-STORE, for a pynetdicom whose inside is another than `takeover` knows.

It writes the fragments of a message to a file object and answers with a dataset; both are given here. Slower, and
the same in all else: one test suite runs on both.
"""

from io import BytesIO
from typing import Final

from pydicom import Dataset

from producers.receiver.intake import Intake
from producers.receiver.statuses import Answer

#: Stands in for a SOP Instance UID that pynetdicom would not answer at all; the answer is 0117.
NO_UID: Final = "0.0"


class MessageFile(BytesIO):
    """What pynetdicom writes a message's dataset to; nobody reads it as a file."""

    def __init__(self, intake: Intake) -> None:
        super().__init__()
        self.intake = intake
        self.usable_uid = True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Take one fragment; raise `Refused("too_large")` past the limit."""
        self.intake.add(data)
        return len(data)

    def close(self) -> None:
        """Discard; also called when an association that died takes its last message along."""
        if not self.closed:
            self.intake.discard()
        super().close()


def response(answer: Answer) -> Dataset:
    """Return the status with what says why, as pynetdicom takes it from a handler."""
    found = Dataset()
    found.Status = answer.status
    if answer.offending:
        found.OffendingElement = list(answer.offending)
    if answer.reason:
        found.ErrorComment = answer.reason
    return found
