"""The Kubernetes manifests: valid by strict schemas, current, and in agreement with the project's tables."""

import copy
import gzip
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from containers import IMAGES, command
from jsonschema import Draft202012Validator

from commands.deploy.manifests import FOLDER, manifests
from commands.deploy.workloads import (
    ARGUMENTS,
    BUCKETS,
    DOOR,
    OF_BUCKETS,
    STAGES,
    WORKLOADS,
    principal_of,
    reads_buckets,
    secrets_of,
    settings_of,
)
from commands.status import GROUPS
from infra.settings import load, rows
from prodrome import COMMANDS
from schemas import access
from schemas.topics import BY_NAME

DATA = Path(__file__).parents[2] / "data"
KEDA = json.loads(gzip.decompress((DATA / "keda-2.17.2.json.gz").read_bytes()))
FILES: dict[str, list[dict[str, Any]]] = {
    name: list(yaml.safe_load_all(text))
    for name, text in manifests().items()
    if not name.endswith("kustomization.yaml")
}
DOCUMENTS = [document for documents in FILES.values() for document in documents]
OF_COMPONENT = [d for name, documents in FILES.items() if name.startswith("buckets/") for d in documents]
IDS = [f"{d['kind']} {d['metadata'].get('namespace', '')}/{d['metadata']['name']}" for d in DOCUMENTS]


def strict(schema: Any) -> Any:
    """The schema of a custom resource, closed: the server would drop an unknown field silently."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: strict(value) for name, value in schema.items()}
    if isinstance(closed.get("properties"), dict) and "type" in closed and closed is not schema:
        closed.setdefault("additionalProperties", False)
    return closed


def errors(document: dict[str, Any]) -> list[str]:
    """What a document's own schema says against it."""
    if document["apiVersion"].startswith("keda.sh/"):
        schema = strict(KEDA[document["kind"]])
        schema["properties"]["metadata"] = {"type": "object"}
        return [error.message for error in Draft202012Validator(schema).iter_errors(document)]
    try:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        return [error.message]
    return []


def pods() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every document with a pod, and the pod."""
    return [(d, d["spec"]["template"]["spec"]) for d in DOCUMENTS if "template" in d.get("spec", {})]


def containers() -> dict[str, tuple[str, dict[str, Any]]]:
    """Role to its namespace and container."""
    return {c["name"]: (d["metadata"]["namespace"], c) for d, pod in pods() for c in pod["containers"]}


def named(kind: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Documents of a kind by namespace and name."""
    return {(d["metadata"]["namespace"], d["metadata"]["name"]): d for d in DOCUMENTS if d["kind"] == kind}


def test_the_written_manifests_are_current() -> None:
    """After a change of a table: `make docs`."""
    assert {str(path.relative_to(FOLDER)): path.read_text() for path in FOLDER.rglob("*.yaml")} == manifests()


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_a_manifest_is_valid_and_a_misspelt_one_is_not(document: dict[str, Any]) -> None:
    """By the strict schemas of Kubernetes and KEDA: no unknown field at any level that is checked."""
    assert errors(document) == []
    spoilt = copy.deepcopy(document)
    inner = spoilt.get("spec") or spoilt["metadata"]
    inner["replicaz"] = 1
    assert errors(spoilt)


def test_every_role_has_one_container_that_runs_it() -> None:
    """Its image is a target of the container file, its arguments those of the one-machine stack."""
    assert set(containers()) == {*ARGUMENTS, "migrate"}
    for role, (_, container) in containers().items():
        image = container["image"].removeprefix("prodrome/").partition(":")[0]
        assert image in IMAGES
        assert container["args"][0] in COMMANDS
        assert role == "migrate" or container["args"] == list(ARGUMENTS[role])
        assert image == "operator" or container["args"][:1] == command(image)


def test_every_setting_is_one_and_every_role_loads_them() -> None:
    """An unknown setting would end the role; a value of another type too."""
    known = {row.name for row in rows()}
    for role, (namespace, container) in containers().items():
        given = environment(namespace, container)
        assert set(given) <= known, role
        assert load(given)
    with pytest.raises(Exception, match="unknown setting"):
        load({"PRODROME_NONSENSE": "1"})


def environment(namespace: str, container: dict[str, Any]) -> dict[str, str]:
    """The environment that a container starts with."""
    maps = named("ConfigMap")
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        found |= maps[namespace, source["configMapRef"]["name"]]["data"]
    return found | {item["name"]: item["value"] for item in container["env"]}


def test_a_role_is_told_nothing_of_a_zone_that_is_not_its_own() -> None:
    """Neither an address nor a login; and the clean namespace has no word of the trusted zone."""
    for role, (namespace, container) in containers().items():
        told = " ".join(environment(namespace, container))
        for zone in ("trusted", "clean"):
            used = (access.uses_kafka, access.uses_cassandra, access.uses_store)
            mine = role == "migrate" or any(uses(principal_of(role), zone) for uses in used)
            assert mine or f"_{zone.upper()}_" not in told
    clean = [d for d in DOCUMENTS if d["metadata"].get("namespace") == "prodrome-clean"]
    assert clean
    assert "TRUSTED" not in json.dumps(clean)


def test_secrets_are_files_that_are_mounted() -> None:
    """Each file that a setting names lies in a volume of its container, and none is a value."""
    for document, pod in pods():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        volumes |= {c["metadata"]["name"]: c for c in document["spec"].get("volumeClaimTemplates", ())}
        for container in pod["containers"]:
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert set(mounts.values()) <= set(volumes)
            for item in container["env"]:
                if item["value"].startswith(("/run/secrets", "/etc/prodrome")):
                    assert any(item["value"].startswith(f"{path}/") for path in mounts), item
                assert item["name"].endswith("_FILE") or "PASSWORD" not in item["name"]


def test_who_looks_a_source_up_knows_the_senders() -> None:
    """Whose images they are is asked at both doors; issuers and quiet times at the boundary."""
    told = {role for role, found in containers().items() if "PRODROME_RECEIVE_SOURCES" in environment(*found)}
    assert told == {"receive", "bridge", "lister", "deidentify", "deidentify-bulk"}


def test_nobody_may_more_than_it_needs() -> None:
    """No root, no privilege, a root to be read, limits on everything, no account of the cluster."""
    for _, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])


def test_probes_ask_ports_that_are_there() -> None:
    """By name, on the port where the role serves its metrics; two roles of a pod have two."""
    for role in ARGUMENTS:
        namespace, container = containers()[role]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            port = ports[container[probe]["httpGet"]["port"]]
            assert str(port) == environment(namespace, container).get("PRODROME_ROLE_METRICS_PORT", "9464")
    for _, pod in pods():
        ports = [p["containerPort"] for c in pod["containers"] for p in c.get("ports", ())]
        assert len(set(ports)) == len(ports)


def test_members_follow_the_lag_of_their_group_and_never_outnumber_partitions() -> None:
    """A member more than partitions would wait for ever."""
    scaled = named("ScaledObject")
    assert {name for _, name in scaled} == {workload.role for workload in STAGES}
    # Events of buckets come by a queue as well, whose length Kafka does not know; few sites need the other.
    assert {workload.group for workload in STAGES} == set(GROUPS) - {
        "prodrome-bridge",
        "prodrome-score-images",
    }
    for workload in STAGES:
        spec = scaled[f"prodrome-{workload.zone}", workload.role]["spec"]
        topics = [trigger["metadata"]["topic"] for trigger in spec["triggers"]]
        assert topics == list(GROUPS[workload.group])
        assert spec["minReplicaCount"] <= spec["maxReplicaCount"]
        assert spec["maxReplicaCount"] == min(BY_NAME[topic].partitions for topic in topics) == 12
        env = environment(*containers()[workload.role])
        for trigger in spec["triggers"]:
            assert trigger["metadata"]["bootstrapServersFromEnv"] in env
            assert trigger["metadata"]["consumerGroup"].startswith(
                access.group_prefixes(principal_of(workload.role))
            )
        login = named("TriggerAuthentication")[f"prodrome-{workload.zone}", workload.role]["spec"]
        assert login["env"][0]["name"] in env


def test_what_may_be_taken_away_is_said_for_every_pod_that_stays() -> None:
    """One at a time: the other door receives, the other members take over."""
    budgets = named("PodDisruptionBudget")
    assert {name for _, name in budgets} == {"door", *(workload.role for workload in (*STAGES, *OF_BUCKETS))}
    for (namespace, name), budget in budgets.items():
        kind = "StatefulSet" if name == "door" else "Deployment"
        labels = named(kind)[namespace, name]["spec"]["template"]["metadata"]["labels"]
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_network_is_closed_but_for_what_the_table_of_access_says() -> None:
    """Everything is denied first; a role reaches the parts that it logs in to, and no other zone's."""
    policies = named("NetworkPolicy")
    for zone in ("trusted", "clean"):
        denied = policies[f"prodrome-{zone}", "nothing"]["spec"]
        assert denied == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, zone, roles in [
        ("door", "trusted", DOOR),
        *((w.role, w.zone, (w.role,)) for w in (*STAGES, *OF_BUCKETS)),
    ]:
        text = json.dumps(policies[f"prodrome-{zone}", f"{name}-out"]["spec"]["egress"])
        for other in ("trusted", "clean"):
            logs_in = (access.uses_kafka, access.uses_cassandra)
            reached = any(uses(principal_of(role), other) for role in roles for uses in logs_in)
            assert (f"serves-{other}" in text) == reached


def test_secrets_are_the_ones_the_guide_tells_to_make() -> None:
    """docs/deploying.md names every secret with its files."""
    page = (FOLDER.parents[2] / "docs" / "deploying.md").read_text()
    for workload in WORKLOADS:
        for name in secrets_of(settings_of(workload.role)):
            assert f"`{name}`" in page
    assert {d["spec"]["selector"]["app.kubernetes.io/name"] for d in named("Service").values()} == {"door"}


def test_a_site_without_buckets_has_nothing_of_them() -> None:
    """They are a component of their own; with it, who reads buckets is told of them, and the way is still closed."""
    component = yaml.safe_load(manifests()["buckets/kustomization.yaml"])
    assert {f"buckets/{name}" for name in component["resources"]} | {"buckets/kustomization.yaml"} == {
        name for name in manifests() if name.startswith("buckets/")
    }
    patched = {patch["target"]["name"]: json.loads(patch["patch"]) for patch in component["patches"]}
    readers = {workload.role for workload in WORKLOADS if reads_buckets(workload.role)}
    assert set(patched) == readers - {workload.role for workload in OF_BUCKETS}
    for role, [told] in patched.items():
        _, container = containers()[role]
        assert told["path"] == "/spec/template/spec/containers/0/envFrom/-"
        assert told["value"]["configMapRef"]["name"] == "buckets"
        assert load(environment("prodrome-trusted", {**container, "envFrom": [told["value"]]}))
    assert named("ConfigMap")["prodrome-trusted", "buckets"]["data"] == BUCKETS
    way = named("NetworkPolicy")["prodrome-trusted", "buckets"]["spec"]
    [who] = way["podSelector"]["matchExpressions"]
    assert set(who["values"]) == readers
    assert way["egress"][0]["to"] == [{"ipBlock": {"cidr": "192.0.2.0/24"}}]


def test_kustomize_takes_them_together() -> None:
    """Where kubectl is installed; the list of files holds either way."""
    [listed] = yaml.safe_load_all(manifests()["kustomization.yaml"])
    own = {name for name in manifests() if not name.startswith("buckets/")}
    assert {*listed["resources"], "kustomization.yaml", "migrate.yaml"} == own
    if kubectl := shutil.which("kubectl"):
        wanted = [d for d in DOCUMENTS if d["metadata"]["name"] != "migrate" and d not in OF_COMPONENT]
        assert _texts(kustomized(kubectl, FOLDER)) == _texts(wanted)


def test_kustomize_puts_the_component_of_buckets_in(tmp_path: Path) -> None:
    """An overlay that names it: everything of both, and deidentify is told of the buckets besides."""
    kubectl = shutil.which("kubectl") or pytest.skip("kubectl is not installed")
    base = tmp_path / "base"
    shutil.copytree(FOLDER, base)
    overlay = tmp_path / "site"
    overlay.mkdir()
    wanted = {"resources": ["../base"], "components": ["../base/buckets"]}
    (overlay / "kustomization.yaml").write_text(json.dumps(wanted))
    found = kustomized(kubectl, overlay)
    assert len(found) == len(DOCUMENTS) - 1
    for document in found:
        if document["kind"] == "Deployment":
            [container] = document["spec"]["template"]["spec"]["containers"]
            told = {"configMapRef": {"name": "buckets"}} in container["envFrom"]
            assert told == reads_buckets(document["metadata"]["name"])


def kustomized(kubectl: str, folder: Path) -> list[dict[str, Any]]:
    """What kustomize makes of a folder."""
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def _texts(documents: list[dict[str, Any]]) -> set[str]:
    return {json.dumps(document, sort_keys=True) for document in documents}
