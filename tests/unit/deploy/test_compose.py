"""The compose file: valid by the specification's schema, and in agreement with the project's tables."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from containers import CHECKOUT, IMAGES, STAGES
from jsonschema import Draft202012Validator

from commands.deploy.workloads import (
    ARGUMENTS,
    BUCKETS,
    HOME,
    OF_BUCKETS,
    SECRETS,
    WORKLOADS,
    principal_of,
    reads_buckets,
    reads_sources,
    secrets_of,
    settings_of,
    stores_of,
    zones_of,
)
from commands.site_secrets import passwords, secrets, wanted
from infra.settings import load, rows
from prodrome import COMMANDS

FOLDER = CHECKOUT / "infra" / "deploy"
SCHEMA = json.loads(gzip.decompress((CHECKOUT / "tests" / "data" / "compose-spec.json.gz").read_bytes()))
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
#: Of other machines: here the spool is a volume that both see.
ELSEWHERE = ("PRODROME_READER_", "PRODROME_SPOOL_", "PRODROME_ROLE_METRICS_PORT")


def test_it_is_valid_by_the_specification() -> None:
    """And the schema bites: a misspelt key is refused."""
    assert [error.message for error in Draft202012Validator(SCHEMA).iter_errors(COMPOSE)] == []
    spoilt = json.loads(json.dumps(COMPOSE))
    spoilt["services"]["relay"]["imagee"] = "x"
    assert not Draft202012Validator(SCHEMA).is_valid(spoilt)


@pytest.mark.parametrize("role", sorted(ARGUMENTS))
def test_a_role_is_told_what_the_tables_say(role: str) -> None:
    """Its image, its arguments, its login; nothing of a zone that is not its own; all of it loads."""
    service, workload = SERVICES[role], next(w for w in WORKLOADS if w.role == role)
    assert service["image"].partition(":")[0] == f"prodrome/{workload.image}"
    default = json.loads(IMAGES[workload.image].of("CMD")[0])
    assert service.get("command", default) == list(ARGUMENTS[role])
    given = service["environment"]
    wanted = {k: v for k, v in settings_of(role).items() if not k.startswith(ELSEWHERE)}
    addresses = (
        {name for zone in zones_of(role) for name in COMPOSE[f"x-{zone}"]} if role != "receive" else set()
    )
    if reads_buckets(role):
        addresses |= set(COMPOSE["x-buckets"]) | ({"PRODROME_BRIDGE_EVENTS"} & set(given))
    assert set(given) == set(wanted) | addresses
    assert {name: given[name] for name in wanted} == wanted
    assert set(given) <= {row.name for row in rows()}
    assert load(given)


@pytest.mark.parametrize("role", sorted(ARGUMENTS))
def test_a_role_has_the_folders_and_networks_that_it_needs(role: str) -> None:
    """Its own secrets and no others, the stores of its table, the networks of its zones."""
    mounts = dict(volume.rsplit(":ro", 1)[0].rsplit(":", 1)[::-1] for volume in SERVICES[role]["volumes"])
    needed = {f"{HOME}/{zone}" for zone in stores_of(role)} | (
        {SECRETS} if secrets_of(settings_of(role)) else set()
    )
    assert needed <= set(mounts)
    assert not {f"{HOME}/trusted", f"{HOME}/clean", SECRETS} & set(mounts) - needed
    assert mounts.get(SECRETS, "").endswith(f"/{principal_of(role)}" if SECRETS in mounts else "")
    networks = ["door"] if role == "receive" else [*zones_of(role), *(["buckets"] * reads_buckets(role))]
    assert SERVICES[role]["networks"] == networks
    sources = "${SOURCES:-./sources.toml}"
    assert (sources in mounts.values()) == reads_sources(role)
    assert sources not in mounts.values() or mounts[settings_of(role)["PRODROME_RECEIVE_SOURCES"]] == sources
    named = {mount for mount in mounts.values() if not mount.startswith((".", "$"))}
    assert named <= set(COMPOSE["volumes"])


def test_who_reads_buckets_runs_where_a_site_says_so() -> None:
    """And is told everything that such a role is told; the way to the store is closed until then."""
    assert {role for role in ARGUMENTS if "profiles" in SERVICES[role]} == {w.role for w in OF_BUCKETS}
    assert set(SERVICES["bridge"]["environment"]) >= set(BUCKETS)
    assert COMPOSE["networks"]["buckets"] == {"internal": "${BUCKETS_CLOSED:-true}"}


def test_folders_of_volumes_belong_to_the_user_of_the_image() -> None:
    """A volume takes over the owner of the folder in the image; one that is not there would be root's."""
    made = STAGES["role"].of("RUN")[0].split()
    for role in ARGUMENTS:
        for volume in SERVICES[role]["volumes"]:
            path = volume.removesuffix(":ro").rpartition(":")[2]
            assert not path.startswith(HOME) or path in made


def test_every_service_may_little_and_has_a_limit() -> None:
    """A root to be read, no capability, no new privilege, memory bounded, time to stop."""
    for name, service in SERVICES.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["mem_limit"]
        assert not service.get("privileged")


def test_only_the_door_is_open() -> None:
    """One port is published; the zones' networks lead nowhere else."""
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"receive"}
    assert COMPOSE["networks"]["trusted"]["internal"]
    assert COMPOSE["networks"]["clean"]["internal"]


def test_files_and_secrets_that_it_mounts_are_there_or_made() -> None:
    """Files from beside it; folders of secrets from `prodrome secrets`."""
    folders = {name.partition("/")[0] for name, _ in wanted(FOLDER)}
    for service in SERVICES.values():
        for volume in service["volumes"]:
            source = volume.partition(":")[0] if not volume.startswith("$") else volume
            if source.startswith("./"):
                assert (FOLDER / source).is_file()
            if volume.startswith("${SECRETS:-./secrets}/"):
                assert volume.split("/")[2].partition(":")[0] in folders
    for role in ARGUMENTS:
        for name in secrets_of(settings_of(role)):
            assert f"{principal_of(role)}/{name}" in dict(wanted(FOLDER))


def test_secrets_are_made_once_and_fit_together(tmp_path: Path) -> None:
    """Each in a file for its owner alone; a second time nothing changes; the reader admits who has the token."""
    for _ in range(2):
        done = CliRunner().invoke(secrets, [str(tmp_path)])
        assert done.exit_code == 0, done.output
    assert done.output == ""
    made = {name: tmp_path / name for name, _ in wanted(tmp_path)}
    assert len({path.read_text() for path in made.values()}) == len(made) - 1
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in made.values())
    assert made["relay/reader-tokens"].read_text() == made["deidentify/reader-token"].read_text()
    assert set(passwords(tmp_path, "kafka")) > {"prodrome_admin", "prodrome_score"}


def test_commands_of_prodrome_are_commands() -> None:
    """Also the one of the job."""
    for name in [*ARGUMENTS, "migrate"]:
        assert SERVICES[name].get("command", [name])[0] in COMMANDS


def test_the_versions_of_kafka_and_cassandra_are_those_that_are_tested() -> None:
    """The images carry the versions of the jars that the tests run."""
    for name, artifact in (("kafka", "kafka_2.13"), ("cassandra", "cassandra-all")):
        pom = (CHECKOUT / "infra" / "stack" / "jars" / f"{name}.pom.xml").read_text()
        version = pom.partition(f"<artifactId>{artifact}</artifactId>")[2].split("<version>")[1].split("<")[0]
        assert SERVICES[name]["image"].rstrip("}").endswith(f":{version}")


def test_scripts_and_files_agree_on_their_paths() -> None:
    """What a script reads is mounted where it looks."""
    for name in ("kafka", "cassandra"):
        mounted = {volume.removesuffix(":ro").rpartition(":")[2] for volume in SERVICES[name]["volumes"]}
        for path in (FOLDER / "compose").glob(f"{name}.*"):
            assert f"/etc/prodrome/{path.name}" in mounted
        assert SERVICES[name]["entrypoint"] == ["/bin/bash", f"/etc/prodrome/{name}.sh"]
        assert f"settings=/etc/prodrome/{name}." in (FOLDER / "compose" / f"{name}.sh").read_text()
