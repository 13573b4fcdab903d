"""What stands in every pod: containers, their probes and limits, volumes, who may do what to whom. Pure."""

from collections.abc import Sequence
from typing import Any, Final

from commands.deploy.workloads import (
    ARGUMENTS,
    DICOM_PORT,
    DOOR,
    GRACE_SECONDS,
    READER_PORT,
    USER,
    Workload,
    metrics_port,
    settings_of,
    zones_of,
)
from schemas.generate import version
from schemas.topics import Zone

Manifest = dict[str, Any]

PART_OF: Final = {"app.kubernetes.io/part-of": "prodrome"}
#: What containers write to; everything else is mounted to be read.
WRITTEN: Final = ("home", "spool", "tmp", "clean-store", "trusted-store", "results-store")
_PORTS: Final = {"receive": (("dicom", DICOM_PORT),), "relay": (("reader", READER_PORT),)}


def labels(name: str) -> dict[str, str]:
    """Return the labels by which pods of a name are found."""
    return {"app.kubernetes.io/name": name, **PART_OF}


def meta(zone: Zone, name: str, of: str = "") -> Manifest:
    """Return the metadata of an object in a zone's namespace, labelled as part of `of`."""
    return {"name": name, "namespace": f"prodrome-{zone}", "labels": labels(of or name)}


def tcp(number: int) -> Manifest:
    """Return a port of a policy."""
    return {"port": number, "protocol": "TCP"}


def role_container(workload: Workload, mounts: Sequence[tuple[str, str]]) -> Manifest:
    """Return a role's container; `mounts` are (volume, path)."""
    role = workload.role
    ports = [(port_name(role), metrics_port(role)), *_PORTS.get(role, ())]
    settings = sorted(settings_of(role).items())
    return {
        **container(role, workload, ARGUMENTS[role], mounts),
        "envFrom": [settings_from(f"zone-{zone}") for zone in zones_of(role)],
        "env": [{"name": name, "value": value} for name, value in settings],
        "ports": [{"name": name, "containerPort": number} for name, number in ports],
        "startupProbe": {**_probe(role, "ready"), "periodSeconds": 2, "failureThreshold": 150},
        "readinessProbe": {**_probe(role, "ready"), "periodSeconds": 5},
        # A role that makes no progress ends itself; this is for a process that does not even answer.
        "livenessProbe": {**_probe(role, "live"), "periodSeconds": 10, "failureThreshold": 6},
    }


def container(
    name: str, workload: Workload, arguments: Sequence[str], mounts: Sequence[tuple[str, str]]
) -> Manifest:
    """Return a container that may do as little as it can."""
    return {
        "name": name,
        "image": f"prodrome/{workload.image}:{version()}",
        "args": list(arguments),
        "resources": {
            "requests": {"cpu": "250m", "memory": workload.memory},
            "limits": {"cpu": workload.cpu, "memory": workload.memory},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": volume, "mountPath": path, **({} if volume in WRITTEN else {"readOnly": True})}
            for volume, path in mounts
        ],
    }


def settings_from(name: str) -> Manifest:
    """Return how a container takes its settings from a ConfigMap."""
    return {"configMapRef": {"name": name}}


def port_name(role: str) -> str:
    """Return the name of a role's metrics port: the roles of one pod have one each."""
    return f"{role}-metrics" if role in DOOR[1:] else "metrics"


def _probe(role: str, path: str) -> Manifest:
    return {"httpGet": {"path": f"/{path}", "port": port_name(role)}, "timeoutSeconds": 3}


def pod(name: str, containers: Sequence[Manifest], volumes: Sequence[Manifest]) -> Manifest:
    """Return the template of a pod: nobody's account, no privilege, spread over the nodes."""
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels(name)},
    }
    return {
        "metadata": {"labels": labels(name)},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "topologySpreadConstraints": [spread],
            "containers": list(containers),
            "volumes": list(volumes),
        },
    }


def secret_volume(name: str, secret: str) -> Manifest:
    """Return a volume of a secret: root's, and readable by the group of the pod alone."""
    return {"name": name, "secret": {"secretName": secret, "defaultMode": 0o440}}


def ca_volume(name: str = "certificates") -> Manifest:
    """Return the volume with the CA of the site's servers."""
    return {"name": name, "configMap": {"name": "ca"}}


def sources_volume() -> Manifest:
    """Return the volume with the table of senders."""
    return {"name": "sources", "configMap": {"name": "sources"}}


def scratch(*names: str) -> list[Manifest]:
    """Return volumes that live as long as the pod."""
    return [{"name": name, "emptyDir": {"sizeLimit": "1Gi"}} for name in names]


def budget(zone: Zone, name: str) -> Manifest:
    """Return how many pods of a name may be taken away at once."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": meta(zone, name),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels(name)}},
    }
