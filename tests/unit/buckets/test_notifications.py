"""What stores say of their objects, in one form."""

import json
from pathlib import Path

import pytest

from producers.bridge.dialects import Sighting
from producers.bridge.notifications import EVENT_BYTES, sightings
from schemas.errors import BadMessage

EVENTS = Path(__file__).parents[2] / "data" / "events"

EXPECTED = {
    "aws-put": [Sighting("created", "dicom", 'a folder/50% +é".dcm', "096fKKXTRTtl3on89fVO.nfljtsv6qko")],
    "aws-removed": [Sighting("removed", "dicom", "a b.dcm")],
    "aws-test": [],
    "ministack-put": [Sighting("created", "dicom", 'a b+c%d/é".dcm')],
    "versitygw-put": [Sighting("created", "dicom", 'a b+c%d/é".dcm')],
    "versitygw-removed": [Sighting("removed", "dicom", 'a b+c%d/é".dcm')],
    "versitygw-test": [],
}


def _record(**changes: object) -> bytes:
    record = json.loads((EVENTS / "aws-put.json").read_text())["Records"][0]
    record["s3"]["object"] |= changes
    return json.dumps({"Records": [record]}).encode()


@pytest.mark.parametrize("name", sorted(path.stem for path in EVENTS.glob("*.json")))
def test_every_kept_event_says_what_is_written_here(name):
    """A dialect reads bucket, key as it is in the store, and version; each kept event is expected by name."""
    assert sightings((EVENTS / f"{name}.json").read_bytes()) == EXPECTED[name]


def test_an_event_behind_sns_is_the_same_event():
    """A topic between bucket and queue wraps the event as text."""
    inner = (EVENTS / "aws-put.json").read_text()
    outer = json.dumps({"Type": "Notification", "TopicArn": "arn:aws:sns:r:1:t", "Message": inner})
    assert sightings(outer.encode()) == EXPECTED["aws-put"]


def test_a_key_is_decoded_once():
    """What is encoded twice was meant to have a percent sign."""
    assert sightings(_record(key="a%252Fb"))[0].key == "a%2Fb"


def test_an_event_about_neither_coming_nor_going_says_nothing():
    """Tags and access rules change no image."""
    record = json.loads((EVENTS / "aws-put.json").read_text())
    record["Records"][0]["eventName"] = "ObjectTagging:Put"
    assert sightings(json.dumps(record).encode()) == []


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b'"Records"',
        b'{"Records": null}',
        b'{"Records": [null]}',
        b'{"Records": [{}]}',
        b'{"Records": [{"eventName": 7, "s3": {}}]}',
        b'{"Records": [{"eventName": "ObjectCreated:Put", "s3": {}}]}',
        b'{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "b"}, "object": {"key": null}}}]}',
        b'{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": [], "object": {"key": "k"}}}]}',
        b"[" * 100_000,
        b'{"Records": [' + b"{}," * 20_000 + b"{}]}",
        b" " * (EVENT_BYTES + 1),
        _record(key=""),
        _record(key="a" * 1025),
        _record(key="%ff%fe"),
        _record(key="a%00b"),
        _record(key=["a"]),
        _record(versionId={"a": 1}),
    ],
    ids=range(22),
)
def test_what_cannot_be_understood_is_refused_with_its_reason(message):
    """Whatever somebody puts into a queue ends as one dead letter, and quotes nothing of it."""
    with pytest.raises(BadMessage, match="malformed_message: expected"):
        sightings(message)
