"""The response of a stored instance is byte for byte what pynetdicom would have sent."""

from types import SimpleNamespace
from typing import Any

import pytest
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_ECHO, C_STORE

from producers.receiver.answering import answer_from_template

MR = "1.2.840.10008.5.1.4.1.1.4"


def assoc() -> Any:
    """What pynetdicom's encoding needs of an association; `sent` holds the fragments that went out."""
    sent: list[tuple[int, bytes]] = []
    dul = SimpleNamespace(send_pdu=lambda primitive: sent.extend(primitive.presentation_data_value_list))
    user = SimpleNamespace(maximum_length=16384)
    found = SimpleNamespace(
        dul=dul, sent=sent, is_requestor=False, requestor=user, _handlers={}, get_handlers=lambda _: []
    )
    found.dimse = DIMSEServiceProvider(found)
    return found


def response(status: int, instance: str) -> C_STORE:
    answer = C_STORE()
    answer.MessageIDBeingRespondedTo = 7
    answer.AffectedSOPClassUID, answer.AffectedSOPInstanceUID = MR, instance
    answer.Status = status
    return answer


@pytest.mark.parametrize("instance", ["1.2.3", "1.2.34"])
@pytest.mark.parametrize("status", [0x0000, 0xB007])
def test_the_template_is_what_pynetdicom_sends(status: int, instance: str) -> None:
    """Same context, same fragment, for UIDs of odd and of even length."""
    stock, ours = assoc(), assoc()
    answer_from_template(ours, frozenset({0x0000, 0xB007}))
    for one in (stock, ours):
        one.dimse.send_msg(response(status, instance), 5)
    assert ours.sent == stock.sent
    assert ours.sent[0][1][0] == 3


def test_what_is_no_stored_instance_goes_its_own_way() -> None:
    """A refusal has a comment, and an echo is another command: both are pynetdicom's to encode."""
    stock, ours = assoc(), assoc()
    answer_from_template(ours, frozenset({0x0000}))
    refused, echo = response(0xA700, "1.2.3"), C_ECHO()
    refused.ErrorComment = "no_space"
    echo.MessageIDBeingRespondedTo, echo.Status = 8, 0x0000
    for one in (stock, ours):
        one.dimse.send_msg(refused, 5)
        one.dimse.send_msg(echo, 5)
    assert ours.sent == stock.sent
    assert len(ours.sent) == 2
