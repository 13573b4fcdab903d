"""One image a role, each with what the role needs and no more: the container file read as data."""

import re
import tomllib
from pathlib import Path

import pytest
from containers import CHECKOUT, IMAGES, STAGES, command, lock, parse, rooms

from commands.deploy.workloads import ARGUMENTS
from prodrome import COMMANDS

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;]+)", re.MULTILINE)
#: image -> what must not be in it
WITHOUT = {
    "receive": {"onnxruntime", "numpy", "confluent-kafka", "faust-streaming", "cryptography"},
    "relay": {"onnxruntime", "numpy", "pynetdicom", "faust-streaming"},
    "bridge": {"onnxruntime", "numpy", "pynetdicom", "faust-streaming", "cryptography"},
    "lister": {"onnxruntime", "numpy", "pynetdicom", "faust-streaming", "cryptography"},
    "exporter": {"onnxruntime", "numpy", "pynetdicom", "faust-streaming"},
    "deidentify": {"onnxruntime", "pynetdicom"},
    "catalog": {"onnxruntime", "pynetdicom", "cryptography"},
    "ledger": {"onnxruntime", "pynetdicom", "cryptography"},
    "score": {"pynetdicom", "cryptography"},
}


def pins(path: Path) -> set[tuple[str, str]]:
    """Packages with their versions; one may have several, by version of Python."""
    return set(PINNED.findall(path.read_text()))


def wanted(group: str) -> set[str]:
    """The packages of a dependency group, with those that it includes."""
    found = set()
    for item in PROJECT["dependency-groups"][group]:
        found |= wanted(item["include-group"]) if isinstance(item, dict) else {item}
    return found


def test_every_role_has_an_image_that_runs_it() -> None:
    """And `operator` is the one image besides, for people and jobs."""
    assert {arguments[0] for arguments in ARGUMENTS.values()} | {"operator"} == set(IMAGES)
    for image in set(IMAGES) - {"operator"}:
        assert command(image) == [image]
        assert image in COMMANDS
    assert STAGES["role"].of("ENTRYPOINT") == ['["python", "-m", "prodrome"]']


def test_everything_that_is_copied_is_there() -> None:
    """From the checkout, and from a stage of this file; and the build context holds it."""
    allowed = {line[1:] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    for stage in STAGES.values():
        assert stage.base in {"${BASE}", *STAGES}
        for origin, sources, _ in stage.copies():
            assert not origin or origin in STAGES
            for source in sources if not origin else ():
                assert (CHECKOUT / source).exists(), source
                assert source.split("/")[0] in allowed


@pytest.mark.parametrize("image", sorted(WITHOUT))
def test_an_image_has_neither_the_libraries_nor_the_rooms_of_others(image: str) -> None:
    """The receiver has no model runtime, the scorer no DICOM network, and no code of the other."""
    assert not WITHOUT[image] & {name for name, _ in pins(lock(image))}
    assert ("producers" in rooms(image)) == (image in ("receive", "relay", "bridge", "lister"))
    assert ("scoring" in rooms(image)) == (image == "score")
    assert "tests" not in rooms(image)


@pytest.mark.parametrize("image", sorted(IMAGES))
def test_a_lock_pins_what_its_group_names_as_the_project_does(image: str) -> None:
    """Same versions as everywhere, each file by its hash, and no address of a registry."""
    found, text = pins(lock(image)), lock(image).read_text()
    assert found <= pins(CHECKOUT / "requirements.lock")
    entries = [entry for entry in re.split(r"\n(?=\S)", text.strip()) if not entry.startswith("#")]
    assert len(found) == len(entries)
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
    if image != "operator":
        assert wanted(lock(image).stem) <= {name for name, _ in found}


def test_groups_name_dependencies_of_the_project() -> None:
    """A name that the project does not depend on would have a version of its own."""
    names = {re.split(r"[=>]", text)[0] for text in PROJECT["project"]["dependencies"]}
    for group in PROJECT["dependency-groups"]:
        assert wanted(group) <= names


def test_nobody_is_root_and_nothing_is_secret() -> None:
    """A user by number, a stop signal, a health check on the port that is exposed, no secret in any layer."""
    role = STAGES["role"]
    assert role.of("USER") == ["10001:10001"]
    assert role.of("STOPSIGNAL") == ["SIGTERM"]
    assert "9464/ready" in role.of("HEALTHCHECK")[0]
    assert "9464" in role.of("EXPOSE")
    for stage in STAGES.values():
        assert not stage.of("ADD")
        said = " ".join(stage.of("ENV") + stage.of("ARG") + stage.of("RUN"))
        assert not re.search(r"(?i)password|token|secret|_key\b", said)
        assert stage.name == "role" or not stage.of("USER")


def test_the_installer_takes_wheels_by_hash_alone() -> None:
    """No source is built, nothing unpinned comes in."""
    runs = [run for name, stage in STAGES.items() if name.startswith("wheels-") for run in stage.of("RUN")]
    assert len(runs) == len({lock(image) for image in IMAGES})
    assert all("--require-hashes --only-binary :all: -r /requirements.lock" in run for run in runs)


def test_the_reader_of_container_files_reads_them() -> None:
    """Continuations, comments and stages: what the tests above stand on."""
    found = parse(
        "ARG A=1\nFROM x AS one\n# no\nRUN a \\\n    && b\nFROM one AS two\nCOPY --from=one /a b c/\n"
    )
    assert found["one"].of("RUN") == ["a && b"]
    assert found["two"].copies() == [("one", ["/a", "b"], "c/")]
