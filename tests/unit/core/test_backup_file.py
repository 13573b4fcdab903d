"""The backup file: whole, or a clear error; never half of it."""

from pathlib import Path
from typing import Any

import pytest

from infra import backup
from infra.backup import BadBackup, read, write

PASSPHRASE = "correct horse battery staple"
RECORDS: list[Any] = [
    ["key", "k1", "00"],
    ["table", "t", ["a", "b"]],
    *(["row", [i, bytes(300)]] for i in range(20)),
    ["end", {"t": 20}],
]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A backup of several frames."""
    monkeypatch.setattr(backup, "FRAME_BYTES", 1000)
    monkeypatch.setattr(backup, "_COST", {"n": 2, "r": 8, "p": 1})
    path = tmp_path / "backup"
    write(path, PASSPHRASE, RECORDS)
    return path


def test_what_was_written_is_read(file: Path) -> None:
    """Every record, in order, of a file that only its owner can read."""
    assert list(read(file, PASSPHRASE)) == RECORDS
    assert file.stat().st_mode & 0o777 == 0o600


def test_another_passphrase_does_not_open_it(file: Path) -> None:
    """And the message says so."""
    with pytest.raises(BadBackup, match="another passphrase"):
        list(read(file, PASSPHRASE + "r"))


def test_nothing_of_it_is_in_plain_text(file: Path) -> None:
    """Neither table names nor values."""
    assert b"row" not in file.read_bytes()


@pytest.mark.parametrize("where", [0.2, 0.5, 0.8, 0.99])
def test_a_changed_byte_is_found(file: Path, where: float) -> None:
    """Wherever it is."""
    data = bytearray(file.read_bytes())
    data[int(len(data) * where)] ^= 1
    file.write_bytes(data)
    with pytest.raises(BadBackup):
        list(read(file, PASSPHRASE))


def test_a_cut_file_is_found_at_any_length(file: Path) -> None:
    """Also where a whole number of frames is left."""
    whole = file.read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(BadBackup):
            list(read(file, PASSPHRASE))


def test_frames_cannot_change_places(file: Path) -> None:
    """The second and third frame in each other's place do not open, nor does a file without its last one."""
    head, frames = frames_of(file.read_bytes())
    assert len(frames) > 3
    swapped = [frames[0], frames[2], frames[1], *frames[3:]]
    for others in (swapped, frames[:-1], frames[1:]):
        file.write_bytes(head + b"".join(others))
        with pytest.raises(BadBackup):
            list(read(file, PASSPHRASE))


def test_a_foreign_cost_is_not_computed(file: Path) -> None:
    """A file that asks for hours of scrypt is refused at once."""
    file.write_bytes(file.read_bytes().replace(b'"n":2', b'"n":9'))
    with pytest.raises(BadBackup, match="cost"):
        list(read(file, PASSPHRASE))


def test_a_write_that_fails_leaves_the_old_file(file: Path) -> None:
    """A backup is there whole or not at all."""
    kept = file.read_bytes()

    def half() -> Any:
        yield RECORDS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(file, PASSPHRASE, half())
    assert file.read_bytes() == kept


def frames_of(data: bytes) -> tuple[bytes, list[bytes]]:
    """The plain head of a file, and its frames with their lengths."""
    start = data.index(b"\n", data.index(b"\n") + 1) + 1
    head, frames = data[:start], []
    while start < len(data):
        end = start + 4 + int.from_bytes(data[start : start + 4], "big")
        frames.append(data[start:end])
        start = end
    return head, frames
