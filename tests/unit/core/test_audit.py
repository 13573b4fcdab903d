"""The audit trail: appended, chained, and no change to it stays unseen."""

import io
import os
import threading
from pathlib import Path
from xml.etree import ElementTree

import pytest
from pydicom.sr.codedict import codes

from commands.auditing import confirm
from infra.audit import Broken, Head, Trail
from infra.clock import ManualClock
from schemas.audit import ACTIONS, message


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    """A trail of five entries in two files."""
    made = Trail(tmp_path / "audit", ManualClock(), rotate_bytes=800)
    for number in range(5):
        made.record("pause", "success", "tester", {"stage": f"stage-{number}"})
    assert len(list((tmp_path / "audit").glob("*.jsonl"))) > 1
    return made


def lines_of(folder: Path) -> list[bytes]:
    """All lines, oldest first."""
    files = [*sorted(folder.glob("audit-*.jsonl")), folder / "audit.jsonl"]
    return [line for path in files for line in path.read_bytes().splitlines(keepends=True)]


def rewritten(folder: Path, lines: list[bytes]) -> None:
    """Put these lines in place of the trail."""
    for path in folder.glob("*.jsonl"):
        path.unlink()
    (folder / "audit.jsonl").write_bytes(b"".join(lines))


def test_a_whole_trail_verifies_across_files(trail: Trail) -> None:
    """A chain goes on from one file to the next, and its head counts all entries."""
    assert trail.verify().entries == 5
    assert [entry.sequence for entry in trail.entries()] == list(range(5))


@pytest.mark.parametrize("change", ["edited", "removed", "doubled", "swapped", "rehashed"])
def test_any_change_is_found(trail: Trail, tmp_path: Path, change: str) -> None:
    """An entry that is edited, removed, repeated or moved breaks the chain."""
    folder = tmp_path / "audit"
    lines = lines_of(folder)
    match change:
        case "edited":
            lines[2] = lines[2].replace(b"stage-2", b"stage-9")
        case "removed":
            del lines[2]
        case "doubled":
            lines.insert(2, lines[2])
        case "swapped":
            lines[2], lines[3] = lines[3], lines[2]
        case "rehashed":
            other = Trail(tmp_path / "other", ManualClock())
            for _ in range(3):
                other.record("pause", "success", "intruder", {})
            lines[2] = lines_of(tmp_path / "other")[2]
    rewritten(folder, lines)
    with pytest.raises(Broken):
        trail.verify()


def test_a_cut_end_is_found_against_a_head_that_was_kept(trail: Trail, tmp_path: Path) -> None:
    """Without its last entry the chain still holds; the head that was kept elsewhere tells."""
    head = trail.verify()
    rewritten(tmp_path / "audit", lines_of(tmp_path / "audit")[:-1])
    assert trail.verify().entries == 4
    with pytest.raises(Broken, match="cut off or rewritten"):
        trail.verify(head)


def test_an_older_head_still_verifies(trail: Trail) -> None:
    """A head that was kept before later entries came is still part of the chain."""
    head = trail.verify()
    trail.record("resume", "success", "tester", {})
    assert trail.verify(head).entries == 6
    with pytest.raises(Broken):
        trail.verify(Head(head.chain, head.entries, "0" * 64))


@pytest.mark.parametrize("left", range(0, 220, 20))
def test_a_torn_line_is_recorded_and_the_chain_goes_on(tmp_path: Path, left: int) -> None:
    """After a kill in the middle of a line, however long, the next entry says so and everything verifies."""
    trail = Trail(tmp_path, ManualClock())
    trail.record("pause", "success", "tester", {})
    whole = (tmp_path / "audit.jsonl").read_bytes()
    trail.record("resume", "success", "tester", {})
    os.truncate(tmp_path / "audit.jsonl", len(whole) + left)
    trail.record("drain", "success", "tester", {})
    actions = [entry.action for entry in trail.entries()]
    assert actions[-1] == "drain"
    assert ("torn" in actions) == (left > 0)
    assert trail.verify().entries == len(actions)


def test_a_line_that_lacks_only_its_end_counts(tmp_path: Path) -> None:
    """An entry whose newline alone is missing was recorded."""
    trail = Trail(tmp_path, ManualClock())
    trail.record("pause", "success", "tester", {})
    path = tmp_path / "audit.jsonl"
    os.truncate(path, path.stat().st_size - 1)
    trail.record("resume", "success", "tester", {})
    assert [entry.action for entry in trail.entries()] == ["pause", "resume"]


def test_a_second_tear_is_recorded_too(tmp_path: Path) -> None:
    """A kill while the torn line was being recorded leaves nothing unexplained."""
    trail = Trail(tmp_path, ManualClock())
    trail.record("pause", "success", "tester", {})
    with (tmp_path / "audit.jsonl").open("ab") as file:
        file.write(b'{"chain": "to\n{"chai')
    trail.record("resume", "success", "tester", {})
    assert [entry.action for entry in trail.entries()] == ["pause", "torn", "resume"]


def test_a_line_behind_the_chain_that_nobody_recorded_is_found(trail: Trail, tmp_path: Path) -> None:
    """Text among the entries is found unless the trail itself recorded a tear there."""
    lines = lines_of(tmp_path / "audit")
    rewritten(tmp_path / "audit", [*lines[:2], b"nonsense\n", *lines[2:]])
    with pytest.raises(Broken, match="not recorded as torn"):
        trail.verify()


def test_entries_of_many_threads_make_one_chain(tmp_path: Path) -> None:
    """Appending at once leaves one chain without a gap."""
    trails = [Trail(tmp_path, ManualClock()) for _ in range(8)]
    threads = [threading.Thread(target=t.record, args=("pause", "success", "tester", {})) for t in trails]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trails[0].verify().entries == 8


def test_the_trail_is_private_and_knows_its_words(tmp_path: Path) -> None:
    """Files are of mode 600, and an action that is not in the table is refused."""
    trail = Trail(tmp_path / "audit", ManualClock())
    trail.record("pause", "success", "tester", {})
    assert (tmp_path / "audit" / "audit.jsonl").stat().st_mode & 0o777 == 0o600
    with pytest.raises(KeyError):
        trail.record("dance", "success", "tester", {})


def test_every_action_is_an_event_of_the_standard() -> None:
    """The codes of the table have the meanings that the DICOM terminology gives them."""
    named = (getattr(codes.DCM, name) for name in codes.DCM.dir())
    known = {code.value: code.meaning for code in named}
    for event in ACTIONS.values():
        assert known[event.code] == event.meaning
        if event.type_code:
            assert known[event.type_code] == event.type_meaning


def test_an_entry_is_said_as_an_audit_message(trail: Trail) -> None:
    """The XML has what PS3.15 A.5.1 asks of every message: event, time, outcome, participant, source, object."""
    root = ElementTree.fromstring(message(next(trail.entries())))
    event = root.find("EventIdentification")
    assert root.tag == "AuditMessage"
    assert event is not None
    assert event.attrib["EventActionCode"] == "E"
    assert event.attrib["EventOutcomeIndicator"] == "0"
    assert event.find("EventID").attrib["csd-code"] == "110113"  # type: ignore[union-attr]
    assert root.find("ActiveParticipant").attrib["UserID"] == "tester"  # type: ignore[union-attr]
    assert root.find("AuditSourceIdentification") is not None
    names = [o.attrib["ParticipantObjectID"] for o in root.findall("ParticipantObjectIdentification")]
    assert "stage-0" in names


def test_each_of_several_objects_is_a_participant(tmp_path: Path) -> None:
    """A message names every intake by itself (PS3.15 A.5.2)."""
    trail = Trail(tmp_path / "audit", ManualClock())
    trail.record("quarantine-purge", "begun", "tester", {"intakes": "s/1/2 s/1/3"})
    (entry,) = trail.entries()
    named = ElementTree.fromstring(message(entry)).findall("ParticipantObjectIdentification")
    assert [p.get("ParticipantObjectID") for p in named][:2] == ["s/1/2", "s/1/3"]


def test_what_cannot_be_undone_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that nobody watches has to say --yes."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y"))
    confirm("Delete 3 for good?", yes=True)
    with pytest.raises(SystemExit):
        confirm("Delete 3 for good?", yes=False)
