"""The errors of prodrome, as a tree.

::

    ProdromeError
    ├── SlowDown                a dependency is down or late: retry without limit, lose nothing
    ├── BadMessage              this message is bad: dead letter with a reason word
    ├── Quarantine              this instance is doubtful: keep the bytes, pass nothing on
    ├── Refused                 at the edge: not acknowledged, the sender keeps it
    └── SettingsError           a setting is missing or wrong: say what was expected

Two of them steer a consumer: `SlowDown` and `BadMessage`. Messages say what was expected and what came,
never a value out of a dataset: exception texts end in logs, and logs are on the clean side.
"""

from schemas.reasons import kind_of


class ProdromeError(Exception):
    """Base of all errors raised by prodrome."""


class SlowDown(ProdromeError):
    """A dependency is down or late; the same work is tried again, without limit."""


class SettingsError(ProdromeError):
    """A setting is missing or wrong."""


class Reasoned(ProdromeError):
    """An error that carries a reason word.

    Parameters
    ----------
    reason : str
        A word of `schemas.reasons.REASONS`.
    detail : str
        What was expected and what came; no value out of a dataset.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        kind_of(reason)  # an unknown word is a defect, found here
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}" if detail else reason)

    def __reduce__(self) -> tuple[type["Reasoned"], tuple[str, str]]:
        # Errors cross process pools; the default pickling would pass the joined text as the reason.
        return type(self), (self.reason, self.detail)


class BadMessage(Reasoned):
    """This message cannot be worked on, now or later: it becomes a dead letter."""


class Quarantine(Reasoned):
    """This instance is doubtful: its bytes are kept, nothing of it passes the boundary."""


class Refused(Reasoned):
    """Refused at the edge: not acknowledged, the sender keeps it."""
