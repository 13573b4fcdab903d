"""Every response follows the syncs that cover it, by system calls; builds that skip one are caught."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from loads import write_small
from order import STRACE, uncovered
from receivers import Receiver
from sender import Ledger, Sender

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is absent: make peers")


@pytest.mark.parametrize(
    ("plug", "said"),
    [
        ("", ""),
        ("answer_before_sync", "before its record was synced"),
        ("no_folder_sync", "before its segment's name was synced"),
    ],
)
def test_each_response_follows_the_syncs_that_cover_it(
    tmp_path: Path, scaled: Callable[[int, int], int], plug: str, said: str
) -> None:
    """Four associations at once, segments that fill up: all are covered; in a broken build most are not."""
    count = scaled(120, 1000)
    paths = write_small(tmp_path / "files", "order", count)
    under = (*STRACE, "-o", str(tmp_path / "trace"))
    small = {"PRODROME_SPOOL_SEGMENT_BYTES": 64 << 10}
    with Receiver(tmp_path / "home", plug=plug, under=under, **small) as receiver:
        sender = Sender(Ledger(tmp_path / "sent"), receiver.destination)
        sender.start(paths)
        assert sender.finish() == count
    answered, early = uncovered((tmp_path / "trace").read_text().splitlines())
    print(f"{answered} responses, {len(early)} early")
    assert answered == count
    # One that is answered early may be covered all the same, by the sync of another.
    assert len(early) > count / 2 if plug else early == []
    assert all(said in line for line in early)
