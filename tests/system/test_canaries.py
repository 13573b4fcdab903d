"""Two hundred thousand canaries through the running system: none is in any byte on the clean side, or in a log.

The instances are those of `bench-deid`: each class of identifiers in each carrier, under many SOP classes and
syntaxes. Every canary is of a form that nothing else has, so that the search is one pass over all there is, however
many were planted: plain, in wide characters, reversed, and in base64. `RUN_SLOW=1` for all; else a tenth.
"""

import base64
import os
import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import places
import pytest
from house import House, stored
from places import Place

from commands.benching.deid_canaries import Made, patients

pytestmark = pytest.mark.stack

INSTANCES: Final = 384 if os.environ.get("RUN_SLOW") else 48
PROJECT: Final = "admit"
#: the words; UIDs as sent; who the patient was; numbers, and dates of the years planted, but not inside
#: a digest or a UID of ours. One each, and each begins with what stands there: ten times as fast as in one.
FORMS: Final = [
    re.compile(form)
    for form in (
        rb"qz[a-z]{7}x",
        rb"1\.2\.826\.0\.1\.(?:1924\d{8}|3680043\.7[789]\.[\d.]+)",
        rb"q0\d{6}p",
        rb"9(?<![\da-f.]9)\d{8}(?!\d)",
        rb"19(?<![\da-f.]19)(?:0[3-9]|1\d|2[0-3])(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])(?=101112|\D|$)",
    )
]
BASE64: Final = re.compile(rb"[A-Za-z0-9+/]{12,}")


class Sent(NamedTuple):
    """What went through the door, and every canary in lower case."""

    made: list[Made]
    planted: frozenset[bytes]


def seen(data: bytes) -> set[bytes]:
    """What has the form of a canary, in any disguise."""
    plain = data.lower()
    each = (plain, plain.replace(b"\x00", b""), plain[::-1], *unpacked(data))
    return {hit for disguised in each for form in FORMS for hit in form.findall(disguised)}


def unpacked(data: bytes) -> Iterator[bytes]:
    """What runs of base64 hold, wherever a text in them began."""
    for run in BASE64.findall(data):
        for phase in range(4):
            letters = run[phase : phase + (len(run) - phase) // 4 * 4]
            yield base64.b64decode(letters).lower()


def search(sent: Sent, some: Iterable[Place]) -> dict[str, set[bytes]]:
    """Canaries by place: what was planted, and any UID or PatientID as sent; a word's form alone comes by chance."""
    found, size = {}, 0
    for place in some:
        size += len(place.data)
        hits = {hit for hit in seen(place.data) if hit in sent.planted or hit.startswith((b"1.2.", b"q0"))}
        if hits:
            found[place.name] = hits
    print(f"{sum(len(one.canaries) for one in sent.made):,} canaries in {size / 1e6:.1f} MB")
    assert size
    return found


@pytest.fixture(scope="module")
def sent(house: House, tmp_path_factory: pytest.TempPathFactory) -> Sent:
    """Sent to a door that admits every class, and settled."""
    folder, made = tmp_path_factory.mktemp("canaries"), list(patients(INSTANCES))
    files = []
    for number, one in enumerate(made):
        files.append(folder / f"{number:04d}.dcm")
        files[-1].write_bytes(one.file)
    before = house.balance()
    assert stored(house.send(files, "ADMIT"))
    assert house.gained(before) == {"acknowledged": INSTANCES, "clean": INSTANCES}
    return Sent(made, frozenset(canary.value.lower() for one in made for canary in one.canaries))


def test_the_search_finds_every_canary(sent: Sent) -> None:
    """In what was sent, so that none is looked for in vain: each by its own bytes, and a word in each disguise."""
    dates = seen_dates = 0
    for one in sent.made[:48]:
        found = {hit for place in places.of_file("sent", one.file) for hit in seen(place.data)}
        missed = {c.value.lower() for c in one.canaries} - found
        assert all(value.isdigit() and len(value) == 8 for value in missed)
        dates += sum(c.kind == "C date" for c in one.canaries)
        seen_dates += sum(c.kind == "C date" and c.value in found for c in one.canaries)
    assert seen_dates > 0.8 * dates  # some stand before a tag that looks like a digit
    word = next(c.value for c in sent.made[0].canaries if c.value.startswith(b"qz"))
    text = b"before " + word.upper() + b" behind"
    disguises = (
        text,
        text.decode().encode("utf-16-le"),
        text.decode().encode("utf-16-be"),
        text.lower()[::-1],
    )
    for disguised in (
        *disguises,
        *(b"{" + base64.b64encode(bytes(n) + text.lower()) + b"}" for n in range(3)),
    ):
        assert word in seen(disguised) or word[::-1] in seen(disguised), disguised


def test_no_canary_on_the_clean_side(house: House, sent: Sent) -> None:
    """Objects and their names, messages with their keys and headers, rows."""
    assert search(sent, places.clean_files(house)) == {}
    assert search(sent, places.topics(house, "clean")) == {}
    assert search(sent, places.tables(house, "clean")) == {}


def test_no_canary_in_logs_metrics_or_what_is_sealed(house: House, sent: Sent) -> None:
    """Of the trusted side neither: it holds them in the spool, in values of trusted topics, and sealed."""
    assert search(sent, [*places.logs_and_work(house), *places.metrics(house)]) == {}
    assert search(sent, places.sealed(house)) == {}
    outside = search(sent, places.topics(house, "trusted", values=False))
    assert all(name.startswith("instance.received.") and name.endswith(" key") for name in outside)
    assert all(hit.startswith(b"1.2.826.0.1.3680043.78.") for hits in outside.values() for hit in hits)


def test_the_trusted_side_holds_them(house: House, sent: Sent) -> None:
    """The same search over the spool finds what was planted."""
    found = {hit for place in places.spool(house, PROJECT) for hit in seen(place.data)}
    words = {value for value in sent.planted if value.startswith(b"qz")}
    assert len(found & words) > 0.6 * len(words)  # a third was deflated
