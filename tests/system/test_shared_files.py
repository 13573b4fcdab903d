"""The 801 DICOM files of the shared data through the door: each ends in one stated outcome.

`dcmsend` sends what it will (it writes most of them anew on the wire), the byte-exact sender the rest; then
the byte-exact sender sends all of them again.
"""

import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from house import CALLING, House, eventually, stored

from commands.releases import Wanted, waiting
from consumers.deid.triage import SOP_CLASSES
from infra.clock import SystemClock
from producers.send import Result

pytestmark = pytest.mark.stack

FILES: Final = 801
BRAIN: Final = 384
#: Said by the sender itself: there is nothing in them that a C-STORE could name.
UNSENDABLE: Final = {
    "empty_charset_LEI.dcm", "meta_missing_tsyntax.dcm", "nested_priv_SQ.dcm", "no_preamble_dicm_in_data",
}  # fmt: skip
#: Nothing may be in flight this long after the last answer.
SETTLED_SECONDS: Final = 60.0


class Sent(NamedTuple):
    """What was sent to a room, and what came of it."""

    house: House
    statuses: dict[Path, str]
    rest: list[Result]
    gained: dict[str, int]
    settling: float


@pytest.fixture(scope="session")
def dicom_files(shared: Callable[[str], Path]) -> list[Path]:
    """Every file of the shared data that has the DICM prefix."""

    def is_dicom(path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"

    return sorted(path for path in shared("").rglob("*") if path.is_file() and is_dicom(path))


def dcmsend(program: str, house: House, called: str, files: list[Path], report: Path) -> dict[Path, str]:
    """Send with dcmsend, never decompressing, never halting; returns the status that its report names."""
    here = house.settings.receive
    command = [program, "--no-halt", "--decompress-never", "-aet", CALLING, "-aec", called]
    command += ["--create-report-file", str(report), here.host, str(here.port), *map(str, files)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=600)
    assert report.exists(), done.stderr[-2000:]
    pattern = r"^Filename +: (.*)$(?:\n.+)*?\nDIMSE Status +: (.*)$"
    return {Path(name): said for name, said in re.findall(pattern, report.read_text(), re.MULTILINE)}


def send_all(program: str, house: House, called: str, files: list[Path], report: Path) -> Sent:
    """Send with dcmsend, what it did not bring over with the byte-exact sender, and wait for the outcomes."""
    before = house.balance()
    statuses = dcmsend(program, house, called, files, report)
    taken = {path for path, said in statuses.items() if said.startswith(("0x0000", "0xb"))}
    rest = house.send([path for path in files if path not in taken], called)
    answered = time.monotonic()
    gained = house.gained(before)
    return Sent(house, statuses, rest, gained, time.monotonic() - answered)


@pytest.fixture(scope="module")
def sent(
    house: House,
    peer: Callable[[str], str],
    dicom_files: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Sent:
    """All 801, sent once."""
    report = tmp_path_factory.mktemp("dcmsend") / "report.txt"
    return send_all(peer("dcmsend"), house, "FILES", dicom_files, report)


def acknowledged(sent: Sent) -> int:
    """How many files were answered with success or a warning."""
    return sum(said.startswith(("0x0000", "0xb")) for said in sent.statuses.values()) + sum(
        result.stored for result in sent.rest
    )


def outcomes(gained: Mapping[str, int]) -> int:
    """All outcomes together."""
    return sum(count for name, count in gained.items() if name not in ("acknowledged", "in_flight"))


def test_each_file_ends_in_one_stated_outcome(sent: Sent, dicom_files: list[Path]) -> None:
    """801 files: acknowledged by one sender or the other, or named by the sender as nothing to send."""
    assert len(dicom_files) == FILES
    print(Counter(re.sub(r" .*", "", said) for said in sent.statuses.values()), sent.gained)
    assert {result.path.name for result in sent.rest if not result.stored} == UNSENDABLE
    assert all(result.error.startswith("not sent") for result in sent.rest if not result.stored)
    assert acknowledged(sent) == FILES - len(UNSENDABLE)


def test_the_balance_is_exact(sent: Sent) -> None:
    """Acknowledged is the sum of the outcomes; nothing is in flight within a minute, nothing is dead."""
    print(f"settled {sent.settling:.1f} s after the last answer: {sent.gained}")
    assert sent.gained["acknowledged"] == acknowledged(sent) == outcomes(sent.gained)
    assert sent.settling < SETTLED_SECONDS
    assert "dead" not in sent.gained


def test_ledger_and_catalog_agree(sent: Sent) -> None:
    """`prodrome reconcile` finds indexed = clean + corrected, and ends with status 0."""
    done = []

    def agree() -> bool:  # a revision that is being published just now is one that is not published
        done[:] = [sent.house.prodrome("reconcile")]
        return (done[0].returncode, "they agree" in done[0].stdout) == (0, True)

    eventually(agree, "agreement")


def by_class(sent: Sent, project: str) -> Counter[tuple[str, str]]:
    """(SOP class, outcome) of everything that is indexed or waits in a project."""
    indexed = sent.house.clean.run("SELECT project, sop_class, conflict FROM study_instances")
    found = Counter(
        (r.sop_class, "conflict" if r.conflict else "admitted") for r in indexed if r.project == project
    )
    found.update(
        (row.sop_class, row.reason) for row in waiting(sent.house.trusted, Wanted(project), SystemClock())
    )
    return Counter({(_name(uid), outcome): n for (uid, outcome), n in found.items()})


def _name(uid: str) -> str:
    return SOP_CLASSES[uid].name if uid in SOP_CLASSES else f"unknown {uid}"


def test_by_sop_class(sent: Sent, tmp_path: Path) -> None:
    """Admitted and quarantined by SOP class, printed; CT, MR and mammograms pass, SC, US and CR wait."""
    table = by_class(sent, "files")
    print(*(f"{n:4} {name}: {outcome}" for (name, outcome), n in sorted(table.items())), sep="\n")
    admitted = {name.removesuffix(" Image Storage") for name, outcome in table if outcome == "admitted"}
    assert {"CT", "MR", "Enhanced CT"} <= admitted
    assert admitted.isdisjoint({"Secondary Capture", "Ultrasound", "Computed Radiography"})
    assert (
        sum(n for (_, outcome), n in table.items() if outcome not in ("admitted", "conflict"))
        == (sent.gained["quarantined"])
    )


def test_the_brain_series_and_the_mammogram_are_admitted(sent: Sent, shared: Callable[[str], Path]) -> None:
    """All 384 slices of the brain series are indexed, and the mammogram of mg-dicom."""
    table = by_class(sent, "files")
    assert table["MR Image Storage", "admitted"] >= BRAIN
    assert table["Digital Mammography X-Ray Image Storage - For Presentation", "admitted"] == 1
    rows = sent.house.clean.run("SELECT project, study, modality FROM study_instances")
    largest = Counter(row.study for row in rows if row.project == "files").most_common(1)
    assert largest[0][1] == BRAIN


def test_what_stands_beside_malformed_files_goes_on(sent: Sent, shared: Callable[[str], Path]) -> None:
    """Bad files and a good one over one association: the good one is stored and judged like any other."""
    bad = sorted(path for path in shared("malformed").rglob("*") if path.is_file() and path.name != "LICENSE")
    good = shared("brain-mri/dicoms/N2D_0001.dcm")
    before = sent.house.balance()
    results = {result.path: result for result in sent.house.send([*bad, good], "DEFECTS")}
    assert stored([results[good]])
    assert {path.name for path in bad if not results[path].stored} == {"no_preamble_dicm_in_data"}
    gained = sent.house.gained(before)
    print({path.name: results[path][1:] for path in bad}, gained)
    assert gained == {"acknowledged": 3, "clean": 1, "quarantined": 2}


def again(house: House, called: str, files: list[Path]) -> dict[str, int]:
    """What the balance gains when all are sent byte for byte, to a room that has them already."""
    before = house.balance()
    results = house.send(files, called, associations=2)
    gained = house.gained(before)
    print(Counter(result.status for result in results), gained)
    assert sum(result.stored for result in results) == gained["acknowledged"] == outcomes(gained)
    return gained


def test_the_same_bytes_another_way_are_duplicates(sent: Sent, dicom_files: list[Path]) -> None:
    """Sent again byte for byte, what dcmsend had re-encoded is a duplicate: no conflict, no correction."""
    gained = again(sent.house, "FILES", dicom_files)
    assert set(gained) == {"acknowledged", "duplicate", "quarantined"}
    assert gained["duplicate"] > BRAIN + 200
    assert gained["quarantined"] <= sent.gained["quarantined"]


def test_admitted_files_another_way_are_duplicates(
    house: House, peer: Callable[[str], str], dicom_files: list[Path], tmp_path: Path
) -> None:
    """The same with a source whose SC, US, CR and their like are admitted, so that they are compared too."""
    files = [path for path in dicom_files if "brain-mri" not in path.parts]
    first = send_all(peer("dcmsend"), house, "ADMIT", files, tmp_path / "report.txt")
    gained = again(house, "ADMIT", files)
    print(f"first {first.gained}")
    assert set(gained) == {"acknowledged", "duplicate", "quarantined"}
    assert gained["duplicate"] > 360
    assert gained["quarantined"] <= first.gained["quarantined"]
