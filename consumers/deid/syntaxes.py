"""Transfer syntaxes as a table: how the elements are written, and whether pixel data come as fragments.

Syntaxes that are not listed by the standard (private ones) cannot be read for de-identification.
"""

from typing import Final, NamedTuple

from pydicom.uid import AllTransferSyntaxes

from schemas.errors import Quarantine


class Syntax(NamedTuple):
    """How a dataset is encoded."""

    uid: str
    explicit: bool = True
    big: bool = False
    deflated: bool = False
    encapsulated: bool = True


IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"
EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"
EXPLICIT_BIG: Final = "1.2.840.10008.1.2.2"

_NATIVE: Final = (
    Syntax(IMPLICIT_LITTLE, explicit=False, encapsulated=False),
    Syntax(EXPLICIT_LITTLE, encapsulated=False),
    Syntax("1.2.840.10008.1.2.1.99", deflated=True, encapsulated=False),
    Syntax(EXPLICIT_BIG, big=True, encapsulated=False),
)
# JPIP keeps the pixels elsewhere, SMPTE streams have no file form: neither can be judged here.
_ELSEWHERE: Final = ("1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.7.")
_DEFLATED_FRAMES: Final = "1.2.840.10008.1.2.8.1"  # younger than pydicom's list

SYNTAXES: Final[dict[str, Syntax]] = {
    str(uid): Syntax(str(uid))
    for uid in (*AllTransferSyntaxes, _DEFLATED_FRAMES)
    if not str(uid).startswith(_ELSEWHERE)
} | {syntax.uid: syntax for syntax in _NATIVE}


def syntax_of(uid: str) -> Syntax:
    """Return the encoding of a transfer syntax; quarantine for one that is not in the table."""
    try:
        return SYNTAXES[uid]
    except KeyError:
        raise Quarantine("unsupported_transfer_syntax", "not a transfer syntax of the table") from None
