"""What lands in a bucket is taken in as what comes by C-STORE is: through events, through the lister, through both."""

import contextlib
import json
import os
import random
import signal
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from bucket import Bucket, Given, effective, intakes_of, lifecycle_of, odd_key, paused, settled, zipped
from house import House, eventually, exams, study_of

from commands.roles import taking_of
from commands.stack import layout
from infra.connections import kafka_of
from infra.demo import to_bytes
from infra.kafka import Producer
from infra.stack.lifecycle import status as programs
from producers.bridge.bridge import Bridge
from producers.send import Item, inspect_file
from schemas.codec import Message

pytestmark = [pytest.mark.stack, pytest.mark.slow]

SEED: Final = 7
KILLS: Final = 100 if os.environ.get("RUN_SLOW") else 3


@pytest.fixture(scope="module")
def bucket(house: House) -> Bucket:
    """The gateway's bucket."""
    return Bucket(house)


@pytest.fixture(scope="module")
def files(shared: Callable[[str], Path]) -> list[Path]:
    """Every file of the shared data that has the DICM prefix with RUN_SLOW=1; else some hundred of them."""

    def is_dicom(path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"

    found = sorted(path for path in shared("").rglob("*") if path.is_file() and is_dicom(path))
    if os.environ.get("RUN_SLOW"):
        return found
    brain = [path for path in found if "brain-mri" in path.parts]
    return [*brain[::40], *[path for path in found if path not in {*brain}][::4]]


def usable(files: list[Path]) -> int:
    """Return how many hold something that an intake can be keyed by; both doors refuse the others."""
    return sum(isinstance(inspect_file(path), Item) for path in files)


@pytest.fixture(scope="module")
def three_ways(house: House, bucket: Bucket, files: list[Path]) -> Iterator[dict[str, dict[str, int]]]:
    """All files through events alone, the lister alone, and both with events dropped, doubled and shuffled."""
    wanted = usable(files)
    with paused(house, "lister") as resume_lister:
        bucket.put_files("events/", files)
        found = {"events": settled(house, "buckets", wanted)}
        with paused(house, "bridge"):
            bucket.put_files("listed/", files)
            bucket.put_files("both/", files)
            events = eventually(
                lambda: some if len(some := bucket.events("both/")) >= len(files) else None, "events"
            )
            chance = random.Random(SEED)
            some = [event for event in events if chance.random() >= 0.2]
            some += [event for event in some if chance.random() < 0.2]
            chance.shuffle(some)
            _bridge(house, some)
            resume_lister()
            found["listed"] = settled(house, "buckets-listed", wanted)
            found["both"] = settled(house, "buckets-both", wanted)
    return found


def _bridge(house: House, events: list) -> Given:
    """Work on events here, as the role would."""
    stop = threading.Event()
    producer = Producer(kafka_of(house.settings.trusted), stop)
    _, _, tables, taking = taking_of(house.settings, "bridge", producer, stop)
    source = Given(events)
    bridge = Bridge(source, taking, producer)
    while batch := source.receive():
        bridge.handle(batch)
    taking.close()
    tables.close()
    return source


@pytest.mark.timeout(900)
def test_every_way_takes_the_same_instances_once(house: House, three_ways, files: list[Path]):
    """Objects under odd keys: the same set of versions, nothing in flight, nothing dead, whichever way."""
    sets = {project: effective(house, project) for project in ("buckets", "buckets-listed", "buckets-both")}
    assert len({frozenset(found) for found in sets.values()}) == 1
    assert len(next(iter(sets.values()))) > len(files) / 3
    for outcomes in three_ways.values():
        assert sum(outcomes.values()) == usable(files)
        assert "dead" not in outcomes


def test_events_of_what_the_lister_found_change_nothing(house: House, three_ways, bucket: Bucket):
    """The bridge was standing still; its events come late, and each is known already."""
    eventually(
        lambda: not house.json("status", "--json")["lags"]["prodrome-bridge"]["s3.events"], "empty queue"
    )
    assert intakes_of(house, "buckets-listed") == {**three_ways["listed"], "in_flight": 0}


@pytest.mark.timeout(900)
def test_the_same_files_by_c_store_are_duplicates(house: House, three_ways, files: list[Path]):
    """One instance through both doors is one instance: no version is new, nothing is effective twice."""
    versions, before = effective(house, "buckets"), house.balance()
    results = house.send(files, "BUCKETS")
    assert sum(result.stored for result in results) == usable(files)
    gained = house.gained(before)
    assert effective(house, "buckets") == versions
    assert not {"clean", "corrected", "conflict", "dead"} & {word for word, count in gained.items() if count}


def test_an_overwritten_key_is_a_new_version(house: House, bucket: Bucket, images):
    """Another image under the same key is another intake; the first stays what it was."""
    first, second = exams(images, "overwritten", patients=2)
    key = 'other/over "written".dcm'
    for exam in (first, second):
        bucket.put(key, to_bytes(next(iter(exam.datasets.values()))))
        eventually(
            lambda exam=exam: house.json("trace", "--json", "--project", "buckets-other", study_of(exam)),
            "trace",
        )
    for exam in (first, second):
        (traced,) = house.json("trace", "--json", "--project", "buckets-other", study_of(exam))
        assert [intake["outcome"] for intake in traced["intakes"]] == ["clean"]


def test_a_deleted_object_is_said_once_and_changes_nothing(house: House, bucket: Bucket, images):
    """Subscribers hear that the source is gone; what came of it stays."""
    (exam,) = exams(images, "deleted")
    before = len(lifecycle_of(house, "source_deleted"))
    key = bucket.put("other/to be deleted.dcm", to_bytes(next(iter(exam.datasets.values()))))
    study = house.keys("buckets-other").pseudonymous_uid(study_of(exam))
    eventually(lambda: house.clean.run("SELECT sop FROM study_instances WHERE project = ? AND study = ?",
                                       ("buckets-other", study)), "indexed instance")  # fmt: skip
    bucket.delete(key)
    said = eventually(lambda: lifecycle_of(house, "source_deleted")[before:], "lifecycle event")
    assert [one["study_instance_uid"] for one in said] == [study]
    assert house.clean.run(
        "SELECT sop FROM study_instances WHERE project = ? AND study = ?", ("buckets-other", study)
    )


def test_members_of_an_archive_are_instances(house: House, bucket: Bucket, images):
    """Good members pass, bad ones are refused alone, and the model runs on what came out of the archive."""
    (exam,) = exams(images, "zipped")
    members = {f"{view}.dcm": to_bytes(dataset) for view, dataset in exam.datasets.items()}
    broken = {
        "readme.txt": b"no image",
        "../up.dcm": next(iter(members.values())),
        "cut.dcm": b"\0" * 128 + b"DICM",
    }
    bucket.put("other/exam.zip", zipped({**broken, **members}))
    study = house.keys("buckets-other").pseudonymous_uid(study_of(exam))
    predictions = eventually(lambda: house.predictions_of(study), "prediction")
    assert predictions[0]["outcome"] == "predicted"
    (traced,) = house.json("trace", "--json", "--project", "buckets-other", study_of(exam))
    assert sorted(intake["outcome"] for intake in traced["intakes"]) == ["clean"] * len(members)


def test_an_archive_whose_members_are_stored_is_the_same(house: House, bucket: Bucket, images):
    """Compression is the archive's affair: the same instances again are duplicates."""
    (exam,) = exams(images, "zipped")
    members = {f"{view}.dcm": to_bytes(dataset) for view, dataset in exam.datasets.items()}
    bucket.put("other/exam stored.zip", zipped(members, zipfile.ZIP_STORED))

    def outcomes() -> list[str]:
        traced = house.json("trace", "--json", "--project", "buckets-other", study_of(exam))
        return sorted(intake["outcome"] for one in traced for intake in one["intakes"])

    wanted = sorted(["clean"] * len(members) + ["duplicate"] * len(members))
    eventually(lambda: outcomes() == wanted, "duplicates")


def test_what_is_no_image_is_refused_once(house: House, bucket: Bucket):
    """Its first kilobytes say it; the lister does not read it again and again."""
    rows = "SELECT state, reason FROM bucket_objects WHERE bucket = 'dicom' AND folder = 'other' AND part = ? AND key = ?"
    key = bucket.put("other/report.pdf", b"%PDF-1.7 " + bytes(100_000))
    found = eventually(
        lambda: [r for part in range(16) for r in house.trusted.run(rows, (part, key))], "refusal"
    )
    assert [(row.state, row.reason) for row in found] == [("refused", "not_dicom")]


def test_a_hostile_event_is_a_dead_letter_or_a_refusal(house: House, bucket: Bucket):
    """Other buckets, hosts and paths are not asked for; what is no event is a letter with its reason."""
    before = house.balance()
    events = [_event("elsewhere", "a"), _event("dicom", "../../etc/passwd"), _event("dicom", "none/such"),
              _event("169.254.169.254", "latest/meta-data"), b'{"Records": "<script>"}', b"\xff"]  # fmt: skip
    Producer(kafka_of(house.settings.trusted)).send(
        [Message(topic="s3.events", key=b"", value=value, headers=[]) for value in events]
    )

    def letters() -> list[dict]:
        listed = house.prodrome("deadletters", "list", "--stage", "bridge", "--json").stdout
        found = [letter for line in listed.splitlines() if "reason" in (letter := json.loads(line))]
        return found if len(found) >= 2 else []

    assert {letter["reason"] for letter in eventually(letters, "letters")} == {"malformed_message"}
    assert house.balance() == before


def _event(bucket: str, key: str) -> bytes:
    record = {"eventName": "ObjectCreated:Put", "endpoint": "http://169.254.169.254",
              "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}  # fmt: skip
    return json.dumps({"Records": [record]}).encode()


def test_a_backfill_takes_what_is_there_and_runs_again_for_nothing(house: House, bucket: Bucket, images):
    """A dry run counts; the run takes it in by the bulk lane; the next one finds everything known."""
    with paused(house, "bridge", "lister"):
        found = exams(images, "backfilled", patients=3)
        for number, exam in enumerate(found):
            for view, dataset in exam.datasets.items():
                bucket.put(f"other/archive/{number}/{view}.dcm", to_bytes(dataset))
        dry = house.prodrome("backfill", "s3://dicom/other/archive/", "--dry-run")
        assert "objects                          12" in dry.stdout, dry.stdout + dry.stderr
        done = house.prodrome("backfill", "s3://dicom/other/archive/")
        assert "taken                            12" in done.stdout, done.stdout + done.stderr
        for exam in found:
            study = house.keys("buckets-other").pseudonymous_uid(study_of(exam))
            eventually(lambda study=study: house.predictions_of(study), "prediction")
        again = house.prodrome("backfill", "s3://dicom/other/archive/")
        assert "taken" not in again.stdout, again.stdout


@pytest.mark.timeout(1800)
def test_nothing_is_lost_or_doubled_by_kill_9(house: House, bucket: Bucket, three_ways, files: list[Path]):
    """Bridge, lister and gateway are killed while objects come; each version is there once, the balance exact."""
    some, stop = files[::4], threading.Event()
    chance, killed = random.Random(SEED), []

    def kill() -> None:
        while not stop.wait(chance.uniform(0.5, 2.0)):
            killed.append(chance.choice(("bridge", "lister", "bridge", "gateway")))
            _kill(house, killed[-1])

    killer, rounds = threading.Thread(target=kill), 0
    killer.start()
    try:
        while not rounds or len(killed) < KILLS:
            for number, path in enumerate(some):
                _patiently(bucket, odd_key(f"killed/{rounds}/", number, path.name), path.read_bytes())
            rounds += 1
    finally:
        stop.set()
        killer.join()
    found = eventually(lambda: _all_of(house, rounds * usable(some)), "instances", 300.0)
    print(f"{len(killed)} kills, {rounds * len(some)} objects, {intakes_of(house, 'buckets-killed')}")
    assert found <= effective(house, "buckets")
    assert house.prodrome("reconcile").returncode == 0


def _all_of(house: House, wanted: int) -> set | None:
    outcomes = intakes_of(house, "buckets-killed")
    done = sum(count for word, count in outcomes.items() if word != "in_flight")
    return effective(house, "buckets-killed") if done >= wanted and not outcomes["in_flight"] else None


def _patiently(bucket: Bucket, key: str, data: bytes) -> None:
    while True:
        try:
            bucket.put(key, data)
            return
        except Exception:  # the gateway is dead just now: a client tries again
            time.sleep(0.2)


def _kill(house: House, role: str) -> None:
    pids = [one.pid for one in programs(layout(house.settings)) if one.name == role and one.pid]
    with contextlib.suppress(ProcessLookupError):
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
