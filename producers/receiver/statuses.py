"""What the receiver can answer: every status and every refusal, with its cause, as tables.

docs/conformance is generated from these, and the metrics carry their reason words.
"""

from typing import Final, NamedTuple


class Answer(NamedTuple):
    """One C-STORE response.

    `reason` is a word of `schemas.reasons`, empty where nothing was refused, and the response's Error Comment;
    `offending` are its Offending Elements.
    """

    status: int
    reason: str
    stored: bool
    cause: str
    offending: tuple[int, ...] = ()


class Rejection(NamedTuple):
    """One A-ASSOCIATE-RJ: result, source and diagnostic of PS3.8 9.3.4."""

    result: int
    source: int
    diagnostic: int
    reason: str
    cause: str


_SOP_CLASS_UID, _SOP_INSTANCE_UID = 0x00080016, 0x00080018

STORED: Final = Answer(0x0000, "", True, "Stored whole and synced; judged later.")
MISMATCH: Final = Answer(
    0xB007, "", True, "Stored and synced; SOP class or instance UID of dataset and command differ: quarantined."
)  # fmt: skip
NO_SPACE: Final = Answer(
    0xA700, "no_space", False, "The spool is over 95 % of its limit, or the disk is full."
)
SYNC_ERROR: Final = Answer(0xA700, "sync_error", False, "Writing or syncing the spool failed.")
EDGE_FAILED: Final = Answer(
    0xA700, "edge_failed", False, "An unexpected error before the instance was durable; come again."
)
DENIED: Final = Answer(0x0122, "sop_class_denied", False, "The SOP class is on the deny-list.")
NOT_AUTHORISED: Final = Answer(0x0124, "not_authorised", False, "The association was admitted to no source.")
NO_UID: Final = Answer(
    0x0117, "no_usable_uid", False, "The command names no SOP Instance UID of digits and dots, at most 64."
)
STRICT_MISMATCH: Final = Answer(
    0xA900,
    "strict_mismatch",
    False,
    "Strict source: UIDs of dataset and command differ.",
    (_SOP_CLASS_UID, _SOP_INSTANCE_UID),
)
STRICT_UNREADABLE: Final = Answer(
    0xC000,
    "strict_mismatch",
    False,
    "Strict source: the dataset shows no SOP Instance UID.",
    (_SOP_INSTANCE_UID,),
)

ANSWERS: Final = (
    STORED, MISMATCH, NO_SPACE, SYNC_ERROR, EDGE_FAILED, DENIED, NOT_AUTHORISED, NO_UID, STRICT_MISMATCH,
    STRICT_UNREADABLE,
)  # fmt: skip
#: A `Refused` of the spool becomes this answer.
BY_REASON: Final = {answer.reason: answer for answer in (NO_SPACE, SYNC_ERROR)}

UNKNOWN_CALLER: Final = Rejection(
    1,
    1,
    3,
    "not_authorised",
    "No source admits this calling AE title from this address, with this certificate.",
)
UNKNOWN_CALLED: Final = Rejection(1, 1, 7, "unknown_called_ae", "The called AE title is not ours.")
LOCAL_LIMIT: Final = Rejection(
    2, 3, 2, "local_limit", "All associations are in use, or the role is stopping."
)
SPOOL_HIGH: Final = Rejection(2, 3, 2, "no_space", "The spool is over 85 % of its limit.")
DRAINING: Final = Rejection(2, 3, 2, "draining", "An operator drains the system: come again.")
REJECTIONS: Final = (UNKNOWN_CALLER, UNKNOWN_CALLED, LOCAL_LIMIT, SPOOL_HIGH, DRAINING)

#: Not an answer: the association is aborted, since waiting for the end would hold a slot for as long as a
#: sender likes.
ABORTS: Final = (
    ("too_large", "The object is over the size limit (8 GB by default)."),
    ("local_limit", "A command set of more than 64 kB, a PDU over the size limit or no PDU of PS3.8 at all."),
    (
        "local_limit",
        "A PDU not complete within 20 s, or a message slower than 64 kbit/s after its first minute.",
    ),
)
