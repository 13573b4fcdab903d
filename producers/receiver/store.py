"""One C-STORE: from a complete dataset to a status, durable before Success.

1. Refuse what cannot be keyed or is on the deny-list.
2. Scan the first kilobytes: the study, and whether the dataset is what its command says.
3. Store; only what is durable is answered with Success or a warning.

This is the one place where errors become statuses.
"""

import logging
import os
from typing import Final, NamedTuple

from infra.clock import Clock
from infra.spool import InstanceHeader
from producers.receiver.admission import Session
from producers.receiver.intake import Intake
from producers.receiver.statuses import (
    BY_REASON,
    DENIED,
    EDGE_FAILED,
    MISMATCH,
    NO_UID,
    STORED,
    STRICT_MISMATCH,
    STRICT_UNREADABLE,
    Answer,
)
from schemas.dicom_reader import Found
from schemas.errors import Refused
from schemas.ids import valid_uid

_log = logging.getLogger(__name__)
_TRACE_BYTES: Final = 16  # W3C trace context


class StoreRequest(NamedTuple):
    """What the command of a C-STORE says, and the syntax its context agreed on."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


def store(
    request: StoreRequest, intake: Intake, session: Session, *, deny: frozenset[str], clock: Clock
) -> Answer:
    """Make an instance durable and return what to answer; never raises, may block for a sync.

    Parameters
    ----------
    request : StoreRequest
        From the command set.
    intake : Intake
        The dataset, complete.
    session : Session
        The association it came on.
    deny : frozenset of str
        SOP classes that are refused.
    clock : Clock
        For the time of receipt.
    """
    try:
        return _store(request, intake, session, deny, clock)
    except Refused as refusal:
        return BY_REASON.get(refusal.reason, EDGE_FAILED)
    except Exception as error:
        # Not durable for a reason of ours: the sender is told to come again.
        _log.error("association %s: store failed: %s", session.association, type(error).__name__)
        return EDGE_FAILED
    finally:
        intake.discard()


def _store(
    request: StoreRequest, intake: Intake, session: Session, deny: frozenset[str], clock: Clock
) -> Answer:
    if not valid_uid(request.sop_instance_uid):
        return NO_UID
    if request.sop_class_uid in deny:
        return DENIED
    found = intake.look(request.transfer_syntax_uid)
    mismatch = _differs(request, found)
    if session.source.strict and mismatch:
        return STRICT_MISMATCH
    if session.source.strict and found.sop_instance_uid is None:
        return STRICT_UNREADABLE
    intake.store(_header(request, found, session, mismatch, clock))
    session.ordinal += 1
    return MISMATCH if mismatch else STORED


def _differs(request: StoreRequest, found: Found) -> bool:
    # What the scan did not reach is no difference; what is there and is no UID is one.
    return (
        found.sop_class_uid not in (None, request.sop_class_uid)
        or found.sop_instance_uid not in (None, request.sop_instance_uid)
        or not {"sop_class_uid", "sop_instance_uid"}.isdisjoint(found.invalid)
    )


def _header(
    request: StoreRequest, found: Found, session: Session, mismatch: bool, clock: Clock
) -> InstanceHeader:
    return InstanceHeader(
        project=session.source.project,
        source=session.source.name,
        association=session.association,
        ordinal=session.ordinal,
        calling_ae_title=session.caller.calling,
        called_ae_title=session.caller.called,
        address=session.caller.address,
        trace=os.urandom(_TRACE_BYTES).hex(),
        received_at=clock.now(),
        sop_class_uid=request.sop_class_uid,
        sop_instance_uid=request.sop_instance_uid,
        transfer_syntax_uid=request.transfer_syntax_uid,
        study_instance_uid=found.study_instance_uid,
        dataset_mismatch=mismatch,
    )
