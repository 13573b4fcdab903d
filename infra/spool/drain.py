"""Whether a door is to take no new associations: a file in its spools, the one thing that both sides share.

The receiver needs no Kafka and no Cassandra, so an operator tells it through the spool's folder.
"""

from pathlib import Path
from typing import Final

from infra.spool import files

NAME: Final = "draining"


def draining(folder: Path) -> bool:
    """Whether the door of this spool turns new associations away; one look at the folder."""
    return (folder / NAME).exists()


def set_draining(folder: Path, on: bool) -> None:
    """Tell the door, from its next association on; telling twice is telling once.

    Raises
    ------
    FileNotFoundError
        There is no such spool on this machine.
    """
    for spool in files.spools(folder):
        if on:
            (spool / NAME).touch(mode=0o600)
        else:
            (spool / NAME).unlink(missing_ok=True)
