"""The receiver's fixture, for each way of reading."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from doors import Door

from infra.settings import Receive
from infra.spool import Spool, SpoolLimits
from producers.receiver import serve
from producers.send import Destination
from schemas.sources import Source


@pytest.fixture(params=["taken over", "plain"])
def open_door(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Door]]:
    """A maker of receivers on free ports, each way of reading; all have ended after the test."""
    doors: list[Door] = []

    def make(
        *sources: Source, limits: SpoolLimits | None = None, way: str = request.param, **settings: object
    ) -> Door:
        folder = tmp_path / f"spool{len(doors)}"
        spool = Spool(folder, limits)
        port: list[int] = []
        listening, ending = threading.Event(), threading.Event()

        def ready(number: int) -> None:
            port.append(number)
            listening.set()

        receive = Receive(port=0, take_over=way == "taken over", **settings)  # type: ignore[arg-type]
        known = sources or (Source(name="local"),)
        thread = threading.Thread(target=serve, args=(receive, known, spool, ending), kwargs={"ready": ready})
        thread.start()
        assert listening.wait(20)

        def stop() -> None:
            ending.set()
            thread.join(40)
            assert not thread.is_alive()

        doors.append(Door(Destination(host="127.0.0.1", port=port[0]), folder, spool, stop))
        return doors[-1]

    yield make
    for door in doors:
        door.stop()
        if door.spool._mark._map is not None and not door.spool._mark._map.closed:
            door.spool.close()
