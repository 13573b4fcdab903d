"""What an object is, from its first kilobytes: an instance, an archive of instances, or nothing for us.

`instance_of` finds the UIDs that an intake is keyed by. It judges no more than it must: the rest is
de-identification's work.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from schemas.dicom_reader import FIRST_BYTES, META_BYTES, SCAN_BYTES, DicomReadError, read_file_header, scan
from schemas.errors import Refused

#: Asked for first; with the file meta before it, enough for nearly every image.
BEGIN_BYTES: Final = FIRST_BYTES + 1024
#: Asked for where that was not enough.
MORE_BYTES: Final = SCAN_BYTES + META_BYTES
_ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06")


class Instance(NamedTuple):
    """What is known of an instance at the door; `study_instance_uid` is None where it says none."""

    dataset_offset: int
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str | None


def is_archive(begin: bytes) -> bool:
    """Whether these are the first bytes of a zip archive; a DICOM file may begin with anything, but says so."""
    return begin[:4] in _ZIP and begin[128:132] != b"DICM"


def instance_of(begin: bytes, size: int, more: Callable[[int], bytes]) -> Instance:
    """Return what a DICOM file says of itself.

    Parameters
    ----------
    begin : bytes
        Its first bytes, `BEGIN_BYTES` or all.
    size : int
        Bytes of the whole file.
    more : callable
        Returns so many of its first bytes, or all; asked at most once.

    Raises
    ------
    Refused
        `not_dicom`: it is none. `no_usable_uid`: there is nothing to key on.
    """
    data = begin
    while True:
        try:
            meta = read_file_header(data)
        except DicomReadError:
            raise Refused("not_dicom", "expected a DICOM file or a zip archive") from None
        found = scan(memoryview(data)[meta.dataset_offset :], meta.transfer_syntax_uid)
        if found.whole or len(data) >= min(size, MORE_BYTES):
            break
        data = more(min(size, MORE_BYTES))
    sop = found.sop_instance_uid or meta.sop_instance_uid
    if sop is None:
        named = data[128:132] == b"DICM"
        raise Refused("no_usable_uid" if named else "not_dicom", "expected a SOP Instance UID")
    return Instance(
        meta.dataset_offset,
        meta.transfer_syntax_uid,
        found.sop_class_uid or meta.sop_class_uid or "",
        sop,
        found.study_instance_uid,
    )
