"""Sealed values open for their owner with their key, and for nobody else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.seal import Sealer, number_of

MASTER = {1: bytes(range(32))}
OWNER = "default 1.2.3"


@pytest.fixture(scope="module")
def sealer() -> Sealer:
    return Sealer(MASTER, "default", "vault", "k1")


def test_what_is_sealed_opens_and_is_not_seen(sealer: Sealer) -> None:
    """Twice the same is two different seals: a reader of the table cannot compare."""
    first, again = (sealer.seal(b"DOE^JANE", OWNER) for _ in range(2))
    assert sealer.open(first, OWNER) == sealer.open(again, OWNER) == b"DOE^JANE"
    assert first != again
    assert b"DOE" not in first


def test_a_seal_of_another_row_does_not_open(sealer: Sealer) -> None:
    """Rows cannot be swapped."""
    with pytest.raises(ValueError, match="another key or owner"):
        sealer.open(sealer.seal(b"x", OWNER), "default 1.2.4")


@pytest.mark.parametrize(
    "other",
    [
        ({1: bytes(32)}, "default", "vault", "k1"),
        (MASTER, "other", "vault", "k1"),
        (MASTER, "default", "quarantine", "k1"),
        (MASTER, "default", "vault", "k2"),
    ],
    ids=["master", "project", "purpose", "key id"],
)
def test_another_key_does_not_open(sealer: Sealer, other: tuple[dict[int, bytes], str, str, str]) -> None:
    """Master, project, purpose and key id are all in the key."""
    with pytest.raises(ValueError, match="another key or owner"):
        Sealer(*other).open(sealer.seal(b"x", OWNER), OWNER)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_does_not_open(at: int, flip: int) -> None:
    """Wherever it is: format, nonce, text or tag."""
    sealer = Sealer(MASTER, "default", "vault", "k1")
    sealed = bytearray(sealer.seal(b"some bytes", OWNER))
    sealed[at % len(sealed)] ^= flip
    with pytest.raises(ValueError, match=r"another key or owner|sealed under secret"):
        sealer.open(bytes(sealed), OWNER)


@given(st.binary(max_size=60))
def test_garbage_does_not_open(data: bytes) -> None:
    """Nothing but `ValueError`, however short it is."""
    with pytest.raises(ValueError, match=r"another key or owner|sealed under secret|[Nn]once"):
        Sealer(MASTER, "default", "vault", "k1").open(data, OWNER)


def test_the_latest_seals_and_all_open() -> None:
    """Also what was sealed before there was a later one; in as many bytes."""
    before = Sealer(MASTER, "default", "vault", "k1").seal(b"x", OWNER)
    both = Sealer(MASTER | {2: bytes(32)}, "default", "vault", "k1")
    after = both.seal(b"x", OWNER)
    assert (number_of(before), number_of(after), number_of(b"")) == (1, 2, 0)
    assert both.open(before, OWNER) == both.open(after, OWNER) == b"x"
    assert len(before) == len(after)


def test_a_secret_that_is_not_known_is_named() -> None:
    """A process that began before the rotation says so."""
    later = Sealer(MASTER | {3: bytes(32)}, "default", "vault", "k1").seal(b"x", OWNER)
    with pytest.raises(ValueError, match="sealed under secret 3, known are 1; was the key file changed"):
        Sealer(MASTER, "default", "vault", "k1").open(later, OWNER)
