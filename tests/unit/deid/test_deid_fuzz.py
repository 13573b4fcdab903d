"""De-identification under datasets that nobody would send: a clean file or a reason, and the same one each time."""

import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Final

import pytest
from fuzzing import fuzz
from planting import CT, KEYS, base, context, nested, text

import consumers.deid.cleaning
import consumers.deid.dates
import consumers.deid.digest
import consumers.deid.dummies
import consumers.deid.elements
import consumers.deid.engine
import consumers.deid.header
import consumers.deid.jsonmodel
import consumers.deid.levels
import consumers.deid.pixels
import consumers.deid.private
import consumers.deid.residual
import consumers.deid.rules
import consumers.deid.structured
import consumers.deid.walk
import consumers.deid.words
import consumers.deid.writer
from consumers.deid.elements import Element
from consumers.deid.engine import Profile, basic_profile, deidentify, load_profile
from consumers.deid.levels import forget
from consumers.deid.syntaxes import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, SYNTAXES
from consumers.deid.writer import dataset_bytes
from schemas.errors import Quarantine

#: `make fuzz-deid` sets it; without it a few hundred runs.
SECONDS: Final = float(os.environ.get("PRODROME_FUZZ_SECONDS", "0"))
RUNS: Final = 300
LONGEST: Final = 1 << 16
PROFILES: Final = (basic_profile(), load_profile("research"))
#: The first byte of a stream says how the rest is encoded, and by which profile it is cleaned.
ENCODINGS: Final = (
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    EXPLICIT_BIG,
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.4.50",
)
ROOMS: Final = [
    Path(getattr(consumers.deid, name).__file__ or "")
    for name in (
        "cleaning", "dates", "digest", "dummies", "elements", "engine", "header", "jsonmodel", "levels", "pixels",
        "private", "residual", "rules", "structured", "walk", "words", "writer",
    )
]  # fmt: skip

outcomes: Counter[str] = Counter()


def _outcome(syntax: str, raw: bytes, profile: Profile) -> object:
    try:
        done = deidentify(raw, context(transfer_syntax_uid=syntax), profile, KEYS)
    except Quarantine as stopped:
        return str(stopped)
    return done, done.part10


def judge(stream: bytes, _: random.Random) -> None:
    """Fresh, with what was learned from earlier streams, and twice more: one outcome, and no error but a reason."""
    kind, raw = stream[0] if stream else 0, stream[1:LONGEST]
    syntax, profile = ENCODINGS[kind % len(ENCODINGS)], PROFILES[kind // len(ENCODINGS) % len(PROFILES)]
    first = _outcome(syntax, raw, profile)
    said = first if isinstance(first, str) else ""
    assert "deid_failed" not in said
    assert "Doe" not in said
    forget()
    assert [_outcome(syntax, raw, profile) for _ in range(3)] == [first] * 3
    outcomes[said.partition(":")[0] or "clean"] += 1


def seeds() -> list[bytes]:
    """Datasets of every kind, in every encoding."""
    implicit = dataset_bytes((Element(0x00091002, "LO", b"A1"),), SYNTAXES[IMPLICIT_LITTLE])
    hidden = b"\xfe\xff\x00\xe0" + len(implicit).to_bytes(4, "little") + implicit
    item = (text(0x0040A040, "TEXT"), text(0x0040A160, "words"), text(0x00080005, "ISO_IR 192"))
    fragments = (
        b"\xfe\xff\x00\xe0" + bytes(4) + b"\xfe\xff\x00\xe0\x04\0\0\0abcd" + b"\xfe\xff\xdd\xe0" + bytes(4)
    )
    datasets = [
        base(),
        base(CT, nested(text(0x00100010, "Doe^Jane"), text(0x00180024, "FSE"))),
        base(CT, text(0x00080005, "\\ISO 2022 IR 87"), Element(0x00081030, "LO", b"\x1b$B;3ED\x1b(B")),
        base(CT, Element(0x00091001, "UN", hidden), Element(0x00091010, "UN", b"x" * 600)),
        base("1.2.840.10008.5.1.4.1.1.88.11", Element(0x0040A730, "SQ", items=(item, item))),
        base(CT, Element(0x00280106, "US", b"\xff\xff"), Element(0x00280120, "US", b"\0\x80")),
        base(
            CT, text(0x00080020, "20240229"), text(0x0008002A, "20240229101112.5"), text(0x00101010, "097Y")
        ),
        base(CT, text(0x00081030, "CHEST 2024-02-29 Dr. Hand"), nested(text(0x00080022, "20240301"))),
        base(CT, Element(0x00190010, "LO", b"SIEMENS MR HEADER "), Element(0x0019100C, "IS", b"1000")),
    ]
    made = [
        bytes([n + len(ENCODINGS) * which]) + dataset_bytes(d, SYNTAXES[uid])
        for n, uid in enumerate(ENCODINGS[:4])
        for d in datasets
        for which in range(len(PROFILES))
    ]
    pixels = Element(0x7FE00010, "OB", fragments, fragments=(b"", b"abcd"))
    return [*made, b"\x04" + dataset_bytes(base(CT, pixels), SYNTAXES[ENCODINGS[4]])]


@pytest.mark.filterwarnings("error")  # one would quote a value: it fails the instance
def test_datasets_that_nobody_would_send() -> None:
    """No crash, no hang, no outcome that depends on what came before; the seed repeats it."""
    seed = os.environ.get("PRODROME_FUZZ_SEED", "prodrome")
    until = time.monotonic() + SECONDS
    found = fuzz(judge, seeds(), ROOMS, random.Random(seed), lambda n: n < RUNS or time.monotonic() < until)
    print(f"{found.runs} streams, {found.arcs} branches, {found.corpus} kept, seed {seed}; {dict(outcomes)}")
    assert found.corpus > len(seeds())
    assert outcomes["clean"] > 20
