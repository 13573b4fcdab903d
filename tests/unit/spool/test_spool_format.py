"""The bytes of a spool: what is written is read, and nothing else is taken for a record."""

import pytest

from infra.spool import format as fmt
from infra.spool.segment import new_header


def _prefix(header: bytes, seed: int = 7) -> bytes:
    return fmt.encode_prefix(fmt.Kind.INSTANCE, header, number=3, segment=9, length=100, payload=5, seed=seed)


def test_a_prefix_reads_back() -> None:
    """What a prefix says is what was written, and its check holds."""
    head = _prefix(b"{}") + b"{}"
    prefix = fmt.decode_prefix(head, 9)
    assert prefix is not None
    assert prefix[:6] == (fmt.Kind.INSTANCE, 2, 3, 9, 100, 5)
    assert fmt.verify_head(prefix, head, 7)


@pytest.mark.parametrize("place", range(fmt.PREFIX_BYTES + 2))
def test_a_changed_byte_is_noticed(place: int) -> None:
    """No byte of prefix or header can change without the check failing."""
    head = bytearray(_prefix(b"{}") + b"{}")
    head[place] ^= 1
    prefix = fmt.decode_prefix(bytes(head), 9)
    assert prefix is None or not fmt.verify_head(prefix, bytes(head), 7)


def test_a_record_of_another_seed_is_none() -> None:
    """Bytes that a sender made up, or that an earlier use left, fail the check: they lack the seed."""
    head = _prefix(b"{}", seed=8) + b"{}"
    prefix = fmt.decode_prefix(head, 9)
    assert prefix is not None
    assert not fmt.verify_head(prefix, head, 7)


def test_a_segment_header_reads_back_and_is_checked() -> None:
    """A segment header is read whole, or is none."""
    header = new_header("spool", 4, "run", 1.0)
    data = fmt.encode_segment_header(header)
    assert len(data) == fmt.SEGMENT_HEADER_BYTES
    assert fmt.decode_segment_header(data) == header
    assert fmt.decode_segment_header(data[:40] + b"X" + data[41:]) is None


def test_another_version_is_refused_and_not_guessed() -> None:
    """A segment of a later version raises: this program must not touch it."""
    data = bytearray(fmt.encode_segment_header(new_header("spool", 4, "run", 1.0)))
    data[8] = 2
    with pytest.raises(ValueError, match="version 2"):
        fmt.decode_segment_header(bytes(data))


def test_unknown_header_fields_are_ignored() -> None:
    """A field that a later writer adds does not disturb this reader."""
    head = bytes(fmt.PREFIX_BYTES) + b'{"instances": 3, "reason": "full", "later": [1]}'
    assert fmt.decode_header(fmt.Kind.SEALED, head) == fmt.SealedHeader(instances=3, reason="full")
