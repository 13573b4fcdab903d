"""The answer to a stored instance, encoded here: five numbers and two UIDs.

pynetdicom builds each response as a pydicom dataset and encodes it twice, which costs as much as all else that
it does for an instance. What is no plain C-STORE response goes its way.
"""

from typing import Any, Final

from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA

from producers.upper_layer import store_response_command

#: A P-DATA value's control byte: command, last fragment (PS3.8 E.2).
_COMMAND_LAST: Final = b"\x03"


def answer_from_template(assoc: Any, statuses: frozenset[int]) -> None:
    """Let the responses with one of these statuses be encoded here; called before an association starts."""
    dimse = assoc.dimse
    send = dimse.send_msg

    def send_msg(primitive: Any, context_id: int) -> None:
        if not isinstance(primitive, C_STORE) or primitive.Status not in statuses:
            send(primitive, context_id)
            return
        command = store_response_command(
            primitive.MessageIDBeingRespondedTo,
            str(primitive.AffectedSOPClassUID),
            str(primitive.AffectedSOPInstanceUID),
            primitive.Status,
        )
        data = P_DATA()
        data.presentation_data_value_list.append((context_id, _COMMAND_LAST + command))
        assoc.dul.send_pdu(data)

    dimse.send_msg = send_msg
