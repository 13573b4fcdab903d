"""The drill: key and vault are lost, and put back; a late image then meets its study, and the vault opens."""

from pathlib import Path

import pytest
from deid_door import Door
from pydicom.dataset import Dataset

from commands.backup import TABLES, check, key_goes_back, put_back, records
from consumers.vault import Vault
from infra.backup import write
from infra.settings import sealing_secrets
from schemas.errors import SettingsError
from schemas.events import InstanceDeidentified

pytestmark = pytest.mark.stack
PASSPHRASE = "correct horse battery staple"


def studies(door: Door) -> list[str]:
    """The pseudonymous study of each clean event."""
    events = door.outbox.of("instance.deidentified.v1")
    return [event.study_instance_uid for event in events if isinstance(event, InstanceDeidentified)]


def test_the_drill(door: Door, views: list[Dataset], tmp_path: Path) -> None:
    """Without the key nothing starts; with the backup the late view joins its study and nothing is doubled."""
    door.take(door.store(*views[:3]))
    file = tmp_path / "backup"
    write(file, PASSPHRASE, records(door.settings, door.tables))
    assert set(check(file, PASSPHRASE)) == set(TABLES)

    Path(door.settings.deidentify.master_key_file).unlink()
    for table in TABLES:
        door.tables.run(f"TRUNCATE {table}")
    with pytest.raises(SettingsError, match="restore your backup"):
        door.start()

    key_goes_back(door.settings, file, PASSPHRASE, force=False)
    for _ in range(2):  # a second time changes nothing
        assert put_back(door.tables, file, PASSPHRASE, 1) > 0
    door.start()
    door.take(door.store(views[3]))
    door.take(door.store(views[1]))
    assert len(studies(door)) == 2
    assert len(set(studies(door))) == 1
    assert list(door.settled().values()) == ["clean"] * 4 + ["duplicate"]
    vault = Vault(door.tables, sealing_secrets(door.settings), door.settings.deidentify.key_id)
    kept = vault.study(door.project, studies(door)[0])
    assert kept is not None
    assert kept["study_instance_uid"] == views[0].StudyInstanceUID


def test_without_the_backup_a_late_image_never_matches(door: Door, views: list[Dataset]) -> None:
    """A new key in the old one's place gives the late view another study: what the drill is for."""
    door.take(door.store(*views[:3]))
    Path(door.settings.deidentify.master_key_file).write_text("08" * 32)
    door.start()
    door.take(door.store(views[3]))
    assert len(set(studies(door))) == 2


def test_another_key_is_not_replaced_by_accident(door: Door, tmp_path: Path) -> None:
    """A key that differs stays unless it is forced."""
    file = tmp_path / "backup"
    write(file, PASSPHRASE, records(door.settings, None))
    path = Path(door.settings.deidentify.master_key_file)
    path.write_text("09" * 32)
    with pytest.raises(SettingsError, match="another master key"):
        key_goes_back(door.settings, file, PASSPHRASE, force=False)
    key_goes_back(door.settings, file, PASSPHRASE, force=True)
    assert path.read_text().strip() == "07" * 32
