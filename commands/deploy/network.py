"""The network policies: nothing is open but what the table of access needs. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final, get_args

from commands.deploy.pods import PART_OF, Manifest, labels, meta, tcp
from commands.deploy.workloads import (
    DICOM_PORT,
    DOOR,
    OF_BUCKETS,
    READER_PORT,
    STAGES,
    WORKLOADS,
    metrics_port,
    ports_of,
    reads_buckets,
)
from schemas.topics import Zone

#: On the namespaces where a zone's Kafka and Cassandra run; for parts outside the cluster an overlay says where.
SERVES: Final = "prodrome.org/serves-"
#: On the namespace from which metrics are read.
MONITORS: Final = "prodrome.org/monitors"
#: Addresses that nobody has (RFC 5737): until a site says where its buckets and queues are, the way is closed.
NOWHERE: Final = "192.0.2.0/24"
HTTPS_PORT: Final = 443


def policies() -> Iterator[Manifest]:
    """Yield them all."""
    endpoints = sorted({metrics_port(workload.role) for workload in WORKLOADS})
    for zone in get_args(Zone):
        yield _policy(zone, "nothing", {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
        dns = {"ports": [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]}
        yield _policy(zone, "names", {"podSelector": {}, "policyTypes": ["Egress"], "egress": [dns]})
        monitors = {"namespaceSelector": {"matchLabels": {MONITORS: "true"}}}
        scrape = {"from": [monitors], "ports": [tcp(number) for number in endpoints]}
        yield _policy(zone, "metrics", {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [scrape]})
    yield _policy("trusted", "dicom", _into_door({"ports": [tcp(DICOM_PORT)]}))
    readers = [_pods(workload.role) for workload in STAGES if workload.image == "deidentify"]
    yield _policy("trusted", "raw", _into_door({"from": readers, "ports": [tcp(READER_PORT)]}))
    yield _policy("trusted", "door-out", _out("door", DOOR))
    for workload in STAGES:
        yield _policy(workload.zone, f"{workload.role}-out", _out(workload.role, (workload.role,)))


def bucket_policies() -> Iterator[Manifest]:
    """Yield what sites need besides that read buckets; the address of their store is patched by an overlay."""
    for workload in OF_BUCKETS:
        yield _policy(workload.zone, f"{workload.role}-out", _out(workload.role, (workload.role,)))
    readers = [workload.role for workload in WORKLOADS if reads_buckets(workload.role)]
    who = {"matchExpressions": [{"key": "app.kubernetes.io/name", "operator": "In", "values": readers}]}
    to = {"to": [{"ipBlock": {"cidr": NOWHERE}}], "ports": [tcp(HTTPS_PORT)]}
    yield _policy("trusted", "buckets", {"podSelector": who, "policyTypes": ["Egress"], "egress": [to]})


def _out(name: str, roles: Sequence[str]) -> Manifest:
    egress: list[Manifest] = []
    for zone in get_args(Zone):
        if ports := sorted({port for role in roles for port in ports_of(role, zone)}):
            to = {"namespaceSelector": {"matchLabels": {f"{SERVES}{zone}": "true"}}}
            egress.append({"to": [to], "ports": [tcp(number) for number in ports]})
    if name.startswith("deidentify"):
        egress.append({"to": [_pods("door")], "ports": [tcp(READER_PORT)]})
    return {**_pods(name), "policyTypes": ["Egress"], "egress": egress}


def _into_door(rule: Manifest) -> Manifest:
    return {**_pods("door"), "policyTypes": ["Ingress"], "ingress": [rule]}


def _pods(name: str) -> Manifest:
    return {"podSelector": {"matchLabels": labels(name)}}


def _policy(zone: Zone, name: str, spec: Manifest) -> Manifest:
    metadata = {**meta(zone, name), "labels": PART_OF}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}
