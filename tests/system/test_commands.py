"""The commands that people run, each as a process, over one exam that was scored."""

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from house import House, eventually, exams, stored, study_of, write_exam

from commands.stack import roles
from infra.demo import Exam, Pixels
from infra.settings import load
from schemas.topics import TOPICS

pytestmark = pytest.mark.stack

#: Of the session's stack, which has a gateway; that serves no metrics.
ROLES = set(
    roles(load({"PRODROME_STACK_S3": "true", "PRODROME_STACK_IMAGES": "true", "PRODROME_ENV_FILE": ""}))
)


class Known(NamedTuple):
    """A house, one exam in it, the exam's files, and what it is called inside."""

    house: House
    exam: Exam
    files: dict[str, Path]
    study: str
    prediction: dict[str, Any]


@pytest.fixture(scope="module")
def known(house: House, images: Mapping[str, Pixels], tmp_path_factory: pytest.TempPathFactory) -> Known:
    """An exam that `prodrome send` has sent, with its prediction."""
    (exam,) = exams(images, "commands")
    folder = tmp_path_factory.mktemp("commands")
    files = write_exam(exam, folder)
    done = house.prodrome("send", folder)
    assert (done.returncode, done.stdout.strip()) == (0, "4 stored, 0 not"), done.stderr
    study = house.keys().pseudonymous_uid(study_of(exam))
    prediction = eventually(lambda: house.predictions_of(study), "prediction")[0]
    return Known(house, exam, files, study, prediction)


def test_status(known: Known) -> None:
    """`status --json`: every program runs, every address is there, the balance adds up, nothing is in error."""
    found = known.house.json("status", "--json")
    assert {p["name"] for p in found["programs"]} == ROLES | {"kafka", "cassandra"}
    assert {p["state"] for p in found["programs"]} == {"running"}
    assert set(found["addresses"]["metrics"]) == ROLES - {"gateway"}
    assert set(found["topics"]) == {topic.name for topic in TOPICS}
    assert found["errors"] == []
    balance = found["balance"]
    assert balance.pop("acknowledged") == sum(balance.values()) > 0


def test_status_as_tables(known: Known) -> None:
    """`status` for people names the programs and the balance."""
    shown = known.house.prodrome("status").stdout
    assert all(word in shown for word in (*ROLES, "acknowledged", "in_flight"))


def test_query_goes_from_patient_to_prediction(known: Known) -> None:
    """`query`: a pseudonymous patient's studies, a study's instances, an instance, a study's predictions."""
    ask, prediction = known.house.json, known.prediction
    studies = ask("query", "--json", "patient", prediction["patient_id"])
    assert [(s["study"], s["revision"]) for s in studies] == [(known.study, 1)]
    instances = ask("query", "--json", "study", known.study)
    assert {i["sop"] for i in instances} == {i["sop_instance_uid"] for i in prediction["inputs"]}
    (instance,) = ask("query", "--json", "instance", instances[0]["sop"])
    assert instance == {"study": known.study, **instances[0]}
    (effective,) = ask("query", "--json", "predictions", known.study)
    assert effective == {"effective": True, **prediction}


def test_query_shows_the_whole_clean_metadata(known: Known) -> None:
    """`query instance --metadata`: DICOM JSON under the pseudonym, pixels left out."""
    sop = known.prediction["inputs"][0]["sop_instance_uid"]
    (found,) = known.house.json("query", "--json", "instance", sop, "--metadata", "--manifest")
    assert found["manifest"]["profile"] == "basic"
    assert found["manifest"]["actions"]["00100010"] == "own"
    metadata = found["metadata"]
    assert metadata["00100020"]["Value"] == [known.prediction["patient_id"]]
    assert metadata["00080018"]["Value"] == [sop]
    assert "Value" not in metadata.get("7FE00010", {})


def test_query_says_what_it_cannot(known: Known) -> None:
    """A query that finds nothing says which attributes the profile took away."""
    shown = known.house.prodrome("query", "patient", "nobody").stdout
    assert "nothing found" in shown
    assert "accession numbers" in shown


@pytest.mark.parametrize("by", ["StudyInstanceUID", "SOPInstanceUID", "AccessionNumber"])
def test_trace(known: Known, by: str) -> None:
    """`trace` by a Study or SOP Instance UID as sent, or an accession number: intakes, revision, prediction."""
    what = str(known.exam.datasets["R-CC"][by].value)
    (found,) = known.house.json("trace", what, "--json")
    assert (found["pseudonymous_study"], found["revision"]) == (known.study, 1)
    assert [i["outcome"] for i in found["intakes"]] == ["clean"] * 4
    assert [p["prediction_id"] for p in found["predictions"]] == [known.prediction["prediction_id"]]
    assert known.study in known.house.prodrome("trace", what).stdout


def test_trace_of_a_patient_an_intake_and_a_pseudonym(known: Known) -> None:
    """`trace --patient` with the issuer, or what a log or a topic names: the same study."""
    dataset = known.exam.datasets["R-CC"]
    (found,) = known.house.json("trace", study_of(known.exam), "--json")
    for arguments in (
        ("--patient", dataset.PatientID, "--issuer", dataset.get("IssuerOfPatientID", "")),
        (found["intakes"][0]["intake"],),
        (known.study,),
    ):
        assert known.house.json("trace", *arguments, "--json") == [found]


def test_trace_of_what_is_on_its_way(house: House, images: Mapping[str, Pixels], tmp_path: Path) -> None:
    """While nothing is de-identified, an image is found in the spool; afterwards as ever."""
    (exam,) = exams(images, "on its way", patients=1)
    assert house.prodrome("pause", "deidentify").returncode == 0
    try:
        stands = 'prodrome_stage_paused{stage="deidentify"} 1.0'
        eventually(lambda: stands in house.metrics()["deidentify"], "pause")
        assert stored(house.send(write_exam(exam, tmp_path).values()))
        sop = str(exam.datasets["L-CC"].SOPInstanceUID)
        for what in (study_of(exam), sop):
            (found,) = house.json("trace", what, "--json")
            assert [i["ledger"] for i in found["intakes"]] == ["in flight"] * 4
            assert sop in {i["sop"] for i in found["intakes"]}
    finally:
        assert house.prodrome("resume", "deidentify").returncode == 0
    eventually(lambda: house.json("trace", study_of(exam), "--json")[0]["revision"], "revision")


def test_trace_of_nobody(known: Known) -> None:
    """`trace` of what was never sent says so."""
    assert "not known" in known.house.prodrome("trace", "1.2.3.4").stdout


def test_reidentify(known: Known) -> None:
    """`reidentify` by the pseudonym of a patient, a study or an instance: who it was, and an entry in the trail."""
    dataset, patient = known.exam.datasets["R-CC"], known.prediction["patient_id"]
    instance = known.house.keys().pseudonymous_uid(str(dataset.SOPInstanceUID))
    who = {"PatientID": str(dataset.PatientID), "PatientName": str(dataset.PatientName)}
    for pseudonym in (patient, known.study, instance):
        answer = known.house.json("reidentify", pseudonym, "--json")
        assert answer.items() >= who.items()
    assert answer["SOPInstanceUID"] == str(dataset.SOPInstanceUID)
    assert answer["StudyInstanceUID"] == study_of(known.exam)
    assert str(dataset.PatientName) in known.house.prodrome("reidentify", patient).stdout
    shown = known.house.prodrome("audit", "list", "--action", "reidentify").stdout
    assert all(pseudonym in shown for pseudonym in (patient, known.study, instance))
    assert not any(value in shown for value in who.values())


def test_reidentify_of_nobody(known: Known) -> None:
    """What is not known, and what is no pseudonym, is answered without a word of it, in the trail neither."""
    original = study_of(known.exam)
    for asked in ("0" * 24, "2.25.4711", original):
        done = known.house.prodrome("reidentify", asked)
        assert done.returncode == 1
        assert done.stdout == ""
        assert asked not in done.stderr
    assert original not in known.house.prodrome("audit", "list", "--action", "reidentify").stdout


def test_watch(known: Known) -> None:
    """`watch --json --no-follow`: one JSON document a line, key, headers and the whole body."""
    done = known.house.prodrome("watch", "prediction", "--from-start", "--no-follow", "--json")
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    (mine,) = [m for m in messages if m["value"]["study_instance_uid"] == known.study]
    assert mine["value"] == known.prediction
    assert mine["headers"]["ce_type"] == "org.prodrome.imaging.prediction.created.v1"
    assert mine["headers"]["ce_subject"] == known.study


def test_quarantine(known: Known, shared: Callable[[str], Path]) -> None:
    """`quarantine` lists what waits, with its reason and SOP class, by reason where asked."""
    path = shared("dicom-mix/src/pydicom/data/test_files/SC_rgb_small_odd.dcm")
    before = known.house.balance()
    assert stored(known.house.send([path], "DEFECTS"))
    assert known.house.gained(before) == {"acknowledged": 1, "quarantined": 1}
    shown = known.house.prodrome(
        "quarantine", "list", "--project", "defects", "--reason", "burned_in_risk"
    ).stdout
    assert "1.2.840.10008.5.1.4.1.1.7" in shown
    assert shown.strip().endswith("1 in quarantine")


def test_models(known: Known) -> None:
    """`models` lists the package with the digest that predictions carry, and its licence."""
    shown = known.house.prodrome("models").stdout
    assert known.prediction["model"]["id"] in shown
    assert known.prediction["model"]["sha256"][:16] in shown
    assert "BSD-2-Clause" in shown


def test_deid(known: Known, shared: Callable[[str], Path], tmp_path: Path) -> None:
    """`deid IN OUT` writes the clean files of a folder by pseudonym, lists what is doubtful, and needs no stack."""
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(known.files["R-CC"], source)
    shutil.copy(shared("dicom-mix/src/pydicom/data/test_files/SC_rgb_small_odd.dcm"), source)
    done = known.house.prodrome("deid", source, tmp_path / "out")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "1 written, 1 doubtful and not written")
    assert "burned_in_risk" in done.stderr
    (clean,) = (path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert clean.stem == known.house.keys().pseudonymous_uid(str(known.exam.datasets["R-CC"].SOPInstanceUID))


def test_clean_mammograms_satisfy_the_iod(known: Known, peer: Callable[[str], str]) -> None:
    """dciodvfy finds no error in the sent files, nor in the clean objects that came of them."""
    objects = [
        pointer["uri"].removeprefix("clean://")
        for (text,) in known.house.clean.run("SELECT object FROM study_instances WHERE project = ? AND study = ?",
                                             ("default", known.study))
        if (pointer := json.loads(text))
    ]  # fmt: skip
    assert len(objects) == 4
    for path in (*known.files.values(), *(known.house.stored_under / "clean" / name for name in objects)):
        said = subprocess.run([peer("dciodvfy"), path], capture_output=True, check=False).stderr.decode(
            "latin-1"
        )
        assert [line for line in said.splitlines() if line.startswith("Error")] == []


def test_spool(known: Known, tmp_path: Path) -> None:
    """`spool ls`, `verify`, `extract`: segments, every checksum, and a dataset byte for byte as it was sent."""
    listed = known.house.prodrome("spool", "ls").stdout
    assert "segment" in listed
    verified = known.house.prodrome("spool", "verify")
    assert (verified.returncode, "whole" in verified.stdout) == (0, True)
    (found,) = known.house.json("trace", study_of(known.exam), "--json")
    sop = str(known.exam.datasets["R-CC"].SOPInstanceUID)
    _, segment, record = next(i["intake"] for i in found["intakes"] if i["sop"] == sop).split("/")
    done = known.house.prodrome("spool", "extract", segment, record, tmp_path / "dataset")
    assert done.returncode == 0, done.stderr
    assert known.files["R-CC"].read_bytes().endswith((tmp_path / "dataset").read_bytes())
    assert len((tmp_path / "dataset").read_bytes()) > len(known.exam.datasets["R-CC"].PixelData)


def test_up_again_changes_nothing(known: Known) -> None:
    """A second `up` finds everything running: no program is restarted; `migrate` finds nothing to make."""
    before = {p["name"]: p["pid"] for p in known.house.json("status", "--json")["programs"]}
    assert known.house.prodrome("up").returncode == 0
    assert {p["name"]: p["pid"] for p in known.house.json("status", "--json")["programs"]} == before
    assert known.house.prodrome("migrate").stdout == ""


def test_an_unknown_setting_is_named(known: Known) -> None:
    """A misspelt setting ends every command with one line that names it."""
    done = House(known.house.home, {"PRODROME_RECIEVE_PORT": "1"}).prodrome("status")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "PRODROME_RECIEVE_PORT" in done.stderr
