"""A dataset while it arrives: bytes kept, memory bounded, refusals remembered."""

from pathlib import Path

import pytest

from infra.clock import ManualClock
from infra.spool import Spool, SpoolLimits, SpoolReader, SpoolStore, pointer_to
from producers.receiver import intake as intake_room
from producers.receiver.admission import Caller, Session
from producers.receiver.intake import Budget, Intake
from producers.receiver.statuses import NO_SPACE, NO_UID, STORED, STRICT_UNREADABLE, Answer
from producers.receiver.store import StoreRequest, store
from schemas.errors import Refused
from schemas.sources import Source

_REQUEST = StoreRequest(
    sop_class_uid="1.2", sop_instance_uid="1.3", transfer_syntax_uid="1.2.840.10008.1.2.1"
)


def _session(*, strict: bool = False) -> Session:
    caller = Caller(calling="A", called="B", address="127.0.0.1")
    return Session(caller=caller, source=Source(name="local", strict=strict))


def _store(intake: Intake, session: Session, request: StoreRequest = _REQUEST) -> Answer:
    return store(request, intake, session, deny=frozenset(), clock=ManualClock())


def _read(folder: Path) -> list[bytes]:
    reader, spools = SpoolReader(folder), SpoolStore.of(folder)
    found = (record for number in reader.segments() for record in reader.records(number))
    return [spools.read(pointer_to(reader.id, record)) for record in found if record.kind == 1]


@pytest.mark.parametrize("pieces", [1, 3, 200])
def test_a_dataset_over_the_memory_bound_is_streamed(
    tmp_path: Path, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small and large datasets are stored byte for byte; a large one leaves memory when it is moved."""
    monkeypatch.setattr(intake_room, "MEMORY_BYTES", 10_000)
    monkeypatch.setattr(intake_room, "SHARE_BYTES", 1000)
    spool = Spool(tmp_path)
    intake = Intake(spool, Budget(), 1 << 30)
    for piece in range(pieces):
        intake.add(bytes([piece]) * 1000)
        assert intake._held <= 11_000
    assert _store(intake, _session()) == STORED
    spool.close()
    assert _read(tmp_path) == [b"".join(bytes([piece]) * 1000 for piece in range(pieces))]


def test_the_budget_of_all_moves_the_large_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the common budget a dataset goes to the spool early, and gives its memory back."""
    monkeypatch.setattr(intake_room, "SHARE_BYTES", 1000)
    spool, budget = Spool(tmp_path), Budget(5000)
    first, second = Intake(spool, budget, 1 << 30), Intake(spool, budget, 1 << 30)
    first.add(bytes(4000))
    second.add(bytes(2000))
    assert second._large is not None
    assert first._large is None
    assert budget.add(0)
    second.discard()
    first.discard()
    assert budget.add(5000)
    spool.close()
    assert not list(tmp_path.glob("*.part"))


def test_too_large_ends_at_once(tmp_path: Path) -> None:
    """Past the size limit the fragment is refused, and nothing is kept."""
    spool = Spool(tmp_path)
    intake = Intake(spool, Budget(), 1500)
    intake.add(bytes(1000))
    with pytest.raises(Refused, match="too_large"):
        intake.add(bytes(1000))
    assert intake._held == 0
    spool.close()


def test_a_full_spool_is_answered_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lack of space while a dataset arrives becomes A700, after its last fragment."""
    monkeypatch.setattr(intake_room, "MEMORY_BYTES", 10_000)
    monkeypatch.setattr(intake_room, "SHARE_BYTES", 1000)
    spool = Spool(tmp_path, SpoolLimits(limit_bytes=100_000))
    intake = Intake(spool, Budget(), 1 << 30)
    for _ in range(20):
        intake.add(bytes(10_000))
    session = _session()
    assert _store(intake, session) == NO_SPACE
    assert session.ordinal == 0
    assert not list(tmp_path.glob("*.part"))
    spool.close()


def test_statuses_without_a_wire(tmp_path: Path) -> None:
    """No usable UID is 0117, an unreadable dataset is C000 in strict mode only."""
    spool = Spool(tmp_path)

    def arrived(data: bytes) -> Intake:
        intake = Intake(spool, Budget(), 1 << 30)
        intake.add(data)
        return intake

    hostile = StoreRequest(
        sop_class_uid="1.2", sop_instance_uid="../x", transfer_syntax_uid="1.2.840.10008.1.2.1"
    )
    assert _store(arrived(b"garbage"), _session(), hostile) == NO_UID
    assert _store(arrived(b"garbage"), _session(strict=True)) == STRICT_UNREADABLE
    assert _store(arrived(b"garbage"), _session()) == STORED
    spool.close()
    assert _read(tmp_path) == [b"garbage"]


def test_an_unexpected_error_is_a_failure_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect of ours is answered as a passing failure, never as Success, and ends no association."""
    spool = Spool(tmp_path)
    monkeypatch.setattr(spool, "store", lambda *_: 1 / 0)
    intake = Intake(spool, Budget(), 1 << 30)
    intake.add(b"x")
    assert _store(intake, _session()).status == 0xA700
    spool.close()
