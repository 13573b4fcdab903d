"""The bench on a few instances of a real system: it counts what it sent, and knows when all has come through."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from house import House

from commands import bench_receive
from commands.benching import growth
from commands.benching.kept import fill
from commands.benching.paced import run_paced
from commands.benching.peers import measure_doors
from commands.benching.sender import Plan
from infra.spool import Spool, readers
from producers.send import Destination

pytestmark = pytest.mark.stack


def plan(house: House, seed: str, **options: int | float) -> Plan:
    door = house.settings.receive
    where = Destination(host=door.host, port=door.port, called="PRODROME", calling="TESTS")
    small = {"rate": 40.0, "instances": 40, "associations": 2, "a_study": 10, "side": 8, "sample": 1}
    return Plan(destination=where, seed=seed, **(small | options))  # type: ignore[arg-type]


def test_a_stated_rate(house: House) -> None:
    """All are acknowledged and seen on the clean side, not faster than asked; every program has its figures."""
    run = run_paced(house.settings, plan(house, "bench paced"))
    assert run.instances == run.ack.count == run.clean.count == 40
    assert run.kept_rate <= 40.0 * 40 / 39  # forty have thirty-nine pauses
    assert {"receive", "deidentify", "catalog", "kafka", "cassandra"} <= set(run.programs)
    assert run.programs["deidentify"].cpu_ms > 0
    assert run.programs["receive"].rss_mb > 1
    assert run.samples
    assert run.samples[0].memory["cassandra"] > 0


def test_growth(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each size all probes were stored, came out, and were found."""
    monkeypatch.setattr(growth, "PROBES", 5)
    (size,) = growth.grow(house.settings, plan(house, "bench growth"), 12, lambda _: None)
    assert size.instances >= 12
    assert (size.ack.count, size.clean.count, size.by_uid.count) == (5, 5, 4)


def test_doors(tmp_path: Path) -> None:
    """Our receiver and its peers take the same instances; what they wrote is gone."""
    ours, *peers = measure_doors(tmp_path, 100, 2, 8)  # ended children of a peer are counted in ticks
    assert ours.name.startswith("prodrome")
    assert peers
    assert all(door.ack.count >= 100 and door.cpu_ms > 0 for door in (ours, *peers))
    assert {path.suffix for path in tmp_path.iterdir()} <= {".so"}


def test_doors_in_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every receiver has a row for each load, and a ratio of ours to itself is one."""
    monkeypatch.setitem(bench_receive.INSTANCES, "200kB", 12)
    asked = ["--repeats", "2", "--sizes", "200kB", "--associations", "1,2", "--only", "pynetdicom"]
    asked += ["--folder", str(tmp_path), "--write", str(tmp_path)]
    done = CliRunner().invoke(bench_receive.bench_receive, asked)
    assert done.exit_code == 0, done.output
    (page,) = tmp_path.glob("*.md")
    rows = [line.split("|")[1:-1] for line in page.read_text().splitlines() if line.startswith("| 200kB")]
    assert [(row[1].strip(), row[2].strip()) for row in rows] == [
        (count, name) for count in "12" for name in ("prodrome, synced", "pynetdicom storescp")
    ]
    assert [row[6].strip() for row in rows[::2]] == ["1.00", "1.00"]
    assert [path.name for path in tmp_path.iterdir()] == [page.name]
    wrong = CliRunner().invoke(bench_receive.bench_receive, ["--sizes", "1GB"])
    assert wrong.exit_code == 1
    assert "expected some of 200kB, 10MB" in wrong.output


def test_doors_over_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The instances that were kept before are records like any other, and the load comes in behind them."""
    monkeypatch.setattr(bench_receive, "KEPT_LOAD", 12)
    asked = ["--kept", "10,2000", "--repeats", "1", "--folder", str(tmp_path), "--write", str(tmp_path)]
    done = CliRunner().invoke(bench_receive.bench_receive, asked)
    assert done.exit_code == 0, done.output
    (page,) = tmp_path.glob("kept-*.md")
    rows = [line.split("|")[1:-1] for line in page.read_text().splitlines() if line[:3] in ("| 1", "| 2")]
    assert [row[0].strip() for row in rows] == ["10", "2,000"]
    assert all(float(row[2]) > 0 for row in rows)
    fill(tmp_path / "spool", 100, lambda _: None)
    Spool(tmp_path / "spool").close()
    (reader,) = readers(tmp_path / "spool").values()
    found = [record for number in reader.segments() for record in reader.records(number) if record.kind == 1]
    assert len(found) == 100


def test_doors_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the highest rate is kept up, and memory is seen meanwhile."""
    monkeypatch.setitem(bench_receive.INSTANCES, "200kB", 40)
    monkeypatch.setattr("commands.benching.soak.SAMPLE_SECONDS", 0.2)
    asked = ["--soak", "0.05", "--folder", str(tmp_path), "--write", str(tmp_path)]
    done = CliRunner().invoke(bench_receive.bench_receive, asked)
    assert done.exit_code == 0, done.output
    (page,) = tmp_path.glob("soak-*.md")
    (row,) = [line.split("|")[1:-1] for line in page.read_text().splitlines()[-1:]]
    assert float(row[0]) > 10
    assert int(row[2].replace(",", "")) >= 100  # whole studies of each lane
    assert "to" in row[5]
