"""How many associations are open, over all listener processes of one receiver.

A small mapped file in the first spool's folder, a row a process: connections, then open associations by source. A
process writes its own row and reads all. Who admits holds the file's lock meanwhile, so that caps hold exactly; the
kernel gives it back when a process dies. The file says nothing after a restart: each process begins with an empty row.
"""

import contextlib
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from schemas.sources import Source

NAME: Final = "slots"
_COUNT: Final = struct.Struct("<I")


class Slots:
    """The table, seen by one process.

    Parameters
    ----------
    folder : Path
        Of the first spool.
    sources : sequence of Source
        Columns, the same in all processes.
    process, processes : int
        Which process this is, from 1, and how many there are.
    """

    def __init__(self, folder: Path, sources: Sequence[Source], process: int = 1, processes: int = 1) -> None:
        self._names = [source.name for source in sources]
        self._width = _COUNT.size * (1 + len(self._names))
        self._own, self._processes = process - 1, processes
        self._file = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if process == 1:  # the others come later, and went with the last first one
            os.ftruncate(self._file, 0)
            os.ftruncate(self._file, self._width * processes)
        self._map = mmap.mmap(self._file, self._width * processes)
        self.put(0, {})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from admitting; threads of this one have a lock of their own."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def put(self, connections: int, associations: Mapping[str, int]) -> None:
        """Write this process' row."""
        counts = (connections, *(associations.get(name, 0) for name in self._names))
        row = b"".join(map(_COUNT.pack, counts))
        with contextlib.suppress(ValueError):  # closed: the receiver stops, and somebody leaves behind it
            self._map[self._own * self._width : (self._own + 1) * self._width] = row

    def associations(self) -> dict[str, int]:
        """Return the open associations of all processes, by source."""
        rows = [self._row(process) for process in range(self._processes)]
        return {name: sum(row[1 + at] for row in rows) for at, name in enumerate(self._names)}

    def busiest(self) -> bool:
        """Whether another process has fewer connections."""
        mine = self._row(self._own)[0]
        return any(self._row(process)[0] < mine for process in range(self._processes))

    def close(self) -> None:
        """Leave the file."""
        self._map.close()
        os.close(self._file)

    def _row(self, process: int) -> tuple[int, ...]:
        row = self._map[process * self._width : (process + 1) * self._width]
        return tuple(count for (count,) in _COUNT.iter_unpack(row))
