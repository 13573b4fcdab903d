"""The secret that seals vault and quarantine is exchanged, and nothing that it sealed is lost."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deid_door import Door
from pydicom.dataset import Dataset

from commands.backup import key_goes_back, records
from commands.keys import add_secret, seal_again, take_out
from consumers.deid.keys import ProjectKeys
from consumers.kept import Kept
from consumers.sealed import Sealed, sealed_values
from consumers.vault import Vault
from infra.backup import write
from infra.cassandra import Statement
from infra.settings import sealing_secrets
from schemas.errors import SettingsError
from schemas.events import Intake, Pointer

pytestmark = pytest.mark.stack
ALL = {"vault_studies": 1, "vault_instances": 3, "quarantine events": 1, "quarantine objects": 1}
PASSPHRASE = "correct horse battery staple"


class Bench:
    """Three clean views and a doubtful one, sealed, and the one who holds the key file."""

    def __init__(self, door: Door, views: list[Dataset]) -> None:
        self.door, self.views = door, views
        views[0].BurnedInAnnotation = "YES"
        door.take(door.store(*views))

    @property
    def vault(self) -> Vault:
        found = self.door.settings
        return Vault(self.door.tables, sealing_secrets(found), found.deidentify.key_id)

    def values(self) -> Iterator[Sealed]:
        every = sealed_values(self.door.tables, self.vault, Kept(self.door.settings))
        return (one for one in every if one.project == self.door.project)

    def under(self) -> dict[int, dict[str, int]]:
        """How much is sealed under each secret."""
        found: dict[int, Counter[str]] = {}
        for one in self.values():
            found.setdefault(one.number, Counter())[one.kept] += 1
        return {number: dict(counts) for number, counts in found.items()}

    def rewrap(self, tables: Any = None) -> tuple[dict[str, int], dict[str, int]]:
        newest = max(sealing_secrets(self.door.settings))
        done, shut = seal_again(tables or self.door.tables, self.values(), newest)
        return dict(done), dict(shut)

    def opens(self) -> None:
        """The way back from the pseudonyms, and the bytes that wait."""
        keys = ProjectKeys.derive(
            sealing_secrets(self.door.settings)[1],
            self.door.project,
            self.door.settings.deidentify.key_id,
        )
        study = keys.pseudonymous_uid(self.views[0].StudyInstanceUID)
        found = self.vault.study(self.door.project, study)
        assert found is not None
        assert found["study_instance_uid"] == self.views[0].StudyInstanceUID
        for view in self.views[1:]:
            kept = self.vault.instance(self.door.project, study, keys.pseudonymous_uid(view.SOPInstanceUID))
            assert kept is not None
            assert kept["sop_instance_uid"] == view.SOPInstanceUID
        row = self.waiting()
        kept_bytes = Kept(self.door.settings)
        pointer = Pointer(uri=row.object, offset=0, length=row.length)
        raw = kept_bytes.bytes_of(self.door.project, Intake.parse(row.intake), pointer)
        assert self.views[0].PatientID.encode() in raw
        event = kept_bytes.event_of(self.door.project, Intake.parse(row.intake), row.received)
        assert event.study_instance_uid == self.views[0].StudyInstanceUID

    def waiting(self) -> Any:
        """The row of what waits."""
        tables, project = self.door.tables, self.door.project
        [day] = tables.run("SELECT day FROM quarantine_days WHERE project = ?", (project,))
        [row] = tables.run("SELECT * FROM quarantine WHERE project = ? AND day = ?", (project, day.day))
        return row


@pytest.fixture
def bench(door: Door, views: list[Dataset]) -> Bench:
    """Before any rotation."""
    return Bench(door, views)


def test_a_secret_is_exchanged(bench: Bench) -> None:
    """Rotated twice, sealed anew, the one between retired; everything opens at each step."""
    door = bench.door
    assert bench.under() == {1: ALL}
    assert add_secret(door.settings) == 2
    bench.opens()
    assert bench.rewrap() == (ALL, {})
    assert bench.rewrap() == ({}, {})
    assert bench.under() == {2: ALL}
    bench.opens()

    assert add_secret(door.settings) == 3
    with pytest.raises(SettingsError, match=r"secret 2 still seals 1 quarantine events.*rewrap"):
        take_out(door.settings, 2, bench.values())
    door.start()  # a process that knows the latest
    bench.views[1].AccessionNumber = "OTHER"
    door.take(door.store(bench.views[1]))
    assert bench.under()[3] == {"vault_studies": 1, "vault_instances": 1}
    bench.rewrap()
    take_out(door.settings, 2, bench.values())
    assert sorted(sealing_secrets(door.settings)) == [1, 3]
    assert set(bench.under()) == {3}
    bench.opens()


def test_secrets_that_stay_are_not_taken_out(bench: Bench) -> None:
    """The master, the latest, and one that is not there."""
    add_secret(bench.door.settings)
    for number, expected in ((1, "is the master"), (2, "before the latest"), (7, "came 7")):
        with pytest.raises(SettingsError, match=expected):
            take_out(bench.door.settings, number, iter(()))


def test_what_is_written_meanwhile_stays(bench: Bench) -> None:
    """A deletion and a newer row come between the reading of values and their writing."""
    door, vault = bench.door, bench.vault
    add_secret(door.settings)

    class Meanwhile:
        """Others write first."""

        newer: tuple[Any, ...] = ()

        def run_all(self, statements: Any) -> None:
            waiting: list[Statement] = list(statements)
            study, instance = (
                next(tuple(values[2:]) for cql, values in waiting if f"UPDATE {name}" in cql)
                for name in ("vault_studies", "vault_instances")
            )
            door.tables.run("DELETE FROM vault_studies WHERE project = ? AND study = ?", study)
            door.tables.run(
                "UPDATE vault_instances SET sealed = ? WHERE project = ? AND study = ? AND sop = ?",
                (vault._seal(door.project, {"newer": True}, " ".join(map(str, instance))), *instance),
            )
            self.newer = instance
            door.tables.run_all(waiting)

    meanwhile = Meanwhile()
    bench.rewrap(meanwhile)
    assert "vault_studies" not in {one.kept for one in bench.values()}
    assert bench.vault.instance(*meanwhile.newer) == {"newer": True}
    assert bench.under()[1] == {
        "vault_instances": 1
    }  # by one who had not been restarted: the next run takes it
    assert bench.rewrap() == ({"vault_instances": 1}, {})


def test_a_damaged_value_does_not_stop_the_others(bench: Bench) -> None:
    """It is counted, and stays as it is."""
    add_secret(bench.door.settings)
    row = bench.waiting()
    damaged = row.received[:-1] + bytes([row.received[-1] ^ 1])
    where = (row.project, row.day, row.intake)
    bench.door.tables.run(
        "UPDATE quarantine SET received = ? WHERE project = ? AND day = ? AND intake = ?", (damaged, *where)
    )
    done, shut = bench.rewrap()
    assert shut == {"quarantine events": 1}
    assert sum(done.values()) == 5
    assert bench.waiting().received == damaged


def test_a_backup_from_before_goes_beside_what_came_after(bench: Bench, tmp_path: Path) -> None:
    """It brings back a secret that was retired, and takes none away."""
    settings, file = bench.door.settings, tmp_path / "backup"
    add_secret(settings)
    write(file, PASSPHRASE, records(settings, None))
    add_secret(settings)
    all_three = sealing_secrets(settings)
    bench.rewrap()
    take_out(settings, 2, bench.values())
    assert 2 not in sealing_secrets(settings)
    key_goes_back(settings, file, PASSPHRASE, force=False)
    assert sealing_secrets(settings) == all_three
