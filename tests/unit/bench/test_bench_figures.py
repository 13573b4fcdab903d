"""The bench's arithmetic, page and picture, on values made up here."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from commands.benching.figures import BOUNDS_MS, Quantiles, Sample, WholeWay, slope
from commands.benching.gauges import Gauge, Usage, machine_cpu, usage
from commands.benching.growth import Size, sizes
from commands.benching.machine import this_machine
from commands.benching.peers import Door, Header, measure_header
from commands.benching.plot import draw
from commands.benching.report import Results, tables, write

USED = Usage(cpu_ms=2.0, compile_ms=0.5, written_kb=206.0, read_kb=0.0, rss_mb=100.0)


def run(**changes: object) -> WholeWay:
    """A run of a minute at 100/s with 50 on their way all the time."""
    samples = tuple(
        Sample(at=5.0 * n, sent=500 * n, in_flight=50, memory={"receive": 10_000_000}) for n in range(13)
    )
    plain = WholeWay(
        rate=100.0, seconds=60.0, instances=6000, bytes_each=206_000, a_study=100, associations=4,
        behind_seconds=0.1, sender_cpu_ms=0.4, cores_ours=1.0, cores_others=0.0,
        programs={"receive": USED, "<kafka>": USED}, ack=Quantiles.of([1.0, 3.0]), clean=Quantiles.of([100.0]),
        samples=samples,
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


def rising(per_second: float) -> tuple[Sample, ...]:
    return tuple(replace(s, in_flight=int(50 + per_second * s.at)) for s in run().samples)


def test_quantiles_and_bars() -> None:
    """A value on a bound is inside it; the last bar takes the rest; nothing is left out."""
    found = Quantiles.of([*range(1, 101), 1e9])
    assert (found.p50_ms, found.p90_ms, found.p99_ms, found.max_ms) == (51, 91, 100, 1e9)
    assert found.bars[:3] == (1, 1, 2)
    assert found.bars[-1] == 1
    assert sum(found.bars) == found.count == 101
    assert Quantiles.of([]).bars == (0,) * (len(BOUNDS_MS) + 1)


def test_slope() -> None:
    """Of a line it is the line's own; of less than two points nothing."""
    assert slope([0, 1, 2], [5.0, 7.0, 9.0]) == pytest.approx(2.0)
    assert slope([1, 1], [5.0, 7.0]) == slope([1], [5.0]) == 0.0


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "stable"),
        ({"behind_seconds": 3.0}, "not kept"),
        ({"samples": rising(20.0)}, "lagging"),
        ({"samples": rising(8.0)}, "piling up"),
        ({"samples": rising(1.0)}, "stable"),
        ({"samples": ()}, "stable"),
    ],
)
def test_the_verdict_on_a_rate(changes: dict[str, object], verdict: str) -> None:
    """A sender that fell behind, a lag of many seconds and one that grows are each told; a steady lag is fine."""
    assert run(**changes).verdict.startswith(verdict)


def test_usage_is_the_difference_by_instance() -> None:
    """Most CPU first; a program that began meanwhile counts from its first reading."""
    zero = Gauge(cpu_seconds=0.0, compile_seconds=0.0, rss_bytes=0, written_bytes=0, read_bytes=0)
    now = Gauge(cpu_seconds=2.0, compile_seconds=1.0, rss_bytes=5_000_000, written_bytes=1000, read_bytes=0)
    found = usage({"a": zero, "b": now}, {"b": now, "a": now, "new": now}, instances=10)
    assert next(iter(found)) == "a"
    assert found["a"] == Usage(cpu_ms=200.0, compile_ms=100.0, written_kb=0.1, read_kb=0.0, rss_mb=5.0)
    assert found["new"].cpu_ms == found["b"].cpu_ms == 0.0


def test_the_machine_is_named_by_its_properties() -> None:
    """Cores, memory and commit are there, and busy seconds are among all seconds."""
    machine = this_machine()
    assert machine.cores > 0
    assert machine.memory_gib > 0.1
    assert machine.commit
    busy, total = machine_cpu()
    assert 0 < busy <= total


def test_sizes_rise_to_the_last() -> None:
    """Two a decade, the asked one last."""
    assert sizes(100_000) == [1000, 3000, 10_000, 32_000, 100_000]
    assert sizes(20) == [20]


def results() -> Results:
    some = Quantiles.of([1.0])
    return Results(
        day="2026-01-01",
        machine=this_machine(),
        whole=[run(), run(rate=115.0, behind_seconds=9.0, cores_others=0.5)],
        sizes=[Size(instances=1000, rate=50.0, ack=some, clean=some, by_uid=some, study=some)],
        doors=[Door(name=name, rate=100.0, cpu_ms=2.0, ack=some) for name in ("ours", "peer")],
        header=Header(ours_ms=1.0, pydicom_ms=4.0),
        ack=some,
        predictions=[1.0, 2.0],
    )


def test_the_page_has_every_table_and_the_picture(tmp_path: Path) -> None:
    """Each table's rows are as wide as its head; others at work are told of."""
    page = write(results(), tmp_path, "today").read_text()
    made = tables(results())
    assert len(made) == 8
    assert all(f"## {title}" in page for title, _ in made)
    assert all(len(row) == len(rows[0]) for _, rows in made for row in rows)
    assert "Others kept 0.5" in page
    assert "today.svg" in page
    assert tables(Results(day="2026-01-01", machine=this_machine())) == []


def test_the_picture_is_well_formed(tmp_path: Path) -> None:
    """XML, whatever a program is called, and also of a run that was too short to have samples."""
    for one in (run(), run(samples=(), ack=Quantiles.of([]))):
        picture = ElementTree.fromstring(draw(one, "a < b"))
        assert picture.tag.endswith("svg")
        assert "<kafka>" in "".join(picture.itertext())


def test_the_header_is_measured_on_both_sides() -> None:
    """Both did something."""
    found = measure_header(1, 8)
    assert min(found.ours_ms, found.pydicom_ms) > 0
