"""The bench's sender: a process of its own that keeps a rate, whatever the receiver does.

1. Instance k is due at `begin + k / rate`; lanes take turns, a study and an association at a time.
2. A store that is late is sent at once: the schedule is kept, and how far the sender fell behind is told.
3. Milliseconds from the first byte to the response are kept for each instance, and for sampled studies the
   time of the response, so that somebody else can say when an instance arrived where.

It knows nothing of what is measured behind the door.
"""

import io
import resource
import threading
import time
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Final

from infra.stamped import Stamped
from producers.send import Association, AssociationRefused, Destination, Lost
from schemas.errors import ProdromeError

#: Of a receiver that refuses or dies: a bench that cannot send has nothing to measure.
LOST_LIMIT: Final = 100


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to send, and when.

    Parameters
    ----------
    destination : Destination
        The door.
    seed : str
        UIDs differ between seeds.
    rate : float
        Instances a second, over all lanes.
    instances : int
        How many in all; whole studies are sent.
    associations : int
        Lanes: associations at once.
    a_study : int
        Instances a study, one association each.
    side : int
        Pixels a side of the MR, 16 bits each.
    sample : int
        Every so manieth study has its times of response kept.
    """

    destination: Destination
    seed: str
    rate: float
    instances: int
    associations: int = 4
    a_study: int = 100
    side: int = 320
    sample: int = 10

    @property
    def studies(self) -> int:
        """Whole studies; each lane has as many."""
        return -(-self.instances // self.a_study // self.associations) * self.associations


@dataclass(frozen=True, kw_only=True)
class Sent:
    """How it went.

    `answered` holds the monotonic time of response by (study, number) of the sampled studies; `behind` is the
    most seconds that an instance was sent after it was due.
    """

    count: int
    seconds: float
    cpu_seconds: float
    behind: float
    lost: int
    ack_ms: list[float] = field(repr=False)
    answered: dict[tuple[int, int], float] = field(repr=False)


class Sender:
    """The process; `count` may be read while it runs."""

    def __init__(self, plan: Plan) -> None:
        context = get_context("spawn")
        self._count: Any = context.Value("q", 0, lock=False)
        self._receiving, sending = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(plan, self._count, sending), daemon=True)
        self._process.start()
        sending.close()

    @property
    def count(self) -> int:
        """Instances acknowledged so far."""
        return int(self._count.value)

    @property
    def running(self) -> bool:
        """Whether it still sends."""
        return not self._receiving.poll()

    def wait(self, seconds: float) -> None:
        """Return after some time, or when it has ended."""
        self._receiving.poll(seconds)

    def result(self) -> Sent:
        """Wait for the end and return how it went."""
        try:
            found: Sent | str = self._receiving.recv()
        except EOFError:
            found = "it died"
        self._process.join()
        if isinstance(found, str):
            raise ProdromeError(f"the sender gave up: {found}")
        return found


class _Lanes:
    """The lanes of one process and what they have in common."""

    def __init__(self, plan: Plan, count: Any) -> None:
        self.plan, self.count = plan, count
        self.stamped = Stamped(plan.seed, plan.side)
        self.lock = threading.Lock()
        self.ack_ms: list[float] = []
        self.answered: dict[tuple[int, int], float] = {}
        self.behind, self.lost = 0.0, 0
        self.failure = ""
        self.begin = time.monotonic() + 0.1

    def run(self, lane: int) -> None:
        try:
            for study in range(lane, self.plan.studies, self.plan.associations):
                self._send_study(lane, study)
        except Exception as error:  # of a thread: told at the end
            self.failure = f"{type(error).__name__}: {error}"

    def _send_study(self, lane: int, study: int) -> None:
        number = 0
        while number < self.plan.a_study and not self.failure:
            try:
                number = self._send_from(lane, study, number)
            except Lost:
                with self.lock:
                    self.lost += 1
                    if self.lost > LOST_LIMIT:
                        self.failure = f"{self.lost} associations lost or refused for the moment"
                time.sleep(0.1)
            except AssociationRefused as error:
                self.failure = str(error)

    def _send_from(self, lane: int, study: int, number: int) -> int:
        plan, stamped = self.plan, self.stamped
        pair = (stamped.sop_class_uid, stamped.transfer_syntax_uid)
        association = Association(plan.destination, {pair: 1})
        try:
            while number < plan.a_study:
                data = stamped.dataset(study, number)
                place = (study // plan.associations * plan.a_study + number) * plan.associations + lane
                due = self.begin + place / plan.rate
                while (wait := due - time.monotonic()) > 0:
                    time.sleep(wait)
                self._store(association, study, number, data, due)
                number += 1
            association.release()
        finally:
            association.close()
        return number

    def _store(self, association: Association, study: int, number: int, data: bytearray, due: float) -> None:
        begin = time.monotonic()
        uid, of = self.stamped.instance_uid(study, number), self.stamped
        status = association.store_from(io.BytesIO(data).read, of.sop_class_uid, uid, of.transfer_syntax_uid)
        now = time.monotonic()
        if status != 0:
            raise ProdromeError(f"expected status 0000, came {status:04X}")
        with self.lock:
            self.ack_ms.append(1000 * (now - begin))
            self.behind = max(self.behind, begin - due)
            self.count.value += 1
            if study % self.plan.sample == 0:
                self.answered[study, number] = now


def _run(plan: Plan, count: Any, told: Connection) -> None:
    lanes = _Lanes(plan, count)
    threads = [threading.Thread(target=lanes.run, args=(n,)) for n in range(plan.associations)]
    before = resource.getrusage(resource.RUSAGE_SELF)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if lanes.failure:
        told.send(lanes.failure)
        return
    told.send(
        Sent(
            count=count.value,
            seconds=time.monotonic() - lanes.begin,
            cpu_seconds=cpu,
            behind=lanes.behind,
            lost=lanes.lost,
            ack_ms=lanes.ack_ms,
            answered=lanes.answered,
        )
    )
