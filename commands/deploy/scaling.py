"""Members by consumer lag, by KEDA: it asks Kafka itself, with the login that the role has anyway. Pure.

Never more members than a topic has partitions: a further one would wait for ever.
"""

from collections.abc import Iterator
from typing import Final

from commands.deploy.pods import Manifest, meta
from commands.deploy.workloads import STAGES, Workload, principal_of
from commands.status import GROUPS
from schemas.topics import BY_NAME

#: Messages that wait, a member: above it there is one more.
LAG_A_MEMBER: Final = 200
#: A rebalance costs seconds, so members go slowly.
CALM_SECONDS: Final = 600


def scaling() -> Iterator[Manifest]:
    """Yield what scales every stage, and as whom."""
    for workload in STAGES:
        yield _scaled(workload)
        yield _login(workload)


def _scaled(workload: Workload) -> Manifest:
    topics = GROUPS[workload.group]
    calm = {"behavior": {"scaleDown": {"stabilizationWindowSeconds": CALM_SECONDS}}}
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": meta(workload.zone, workload.role),
        "spec": {
            "scaleTargetRef": {"name": workload.role, "envSourceContainerName": workload.role},
            "minReplicaCount": workload.members,
            "maxReplicaCount": min(BY_NAME[topic].partitions for topic in topics),
            "pollingInterval": 15,
            "cooldownPeriod": CALM_SECONDS,
            "advanced": {"horizontalPodAutoscalerConfig": calm},
            "triggers": [
                {
                    "type": "kafka",
                    "metadata": {
                        "bootstrapServersFromEnv": f"PRODROME_{workload.zone.upper()}_KAFKA",
                        "consumerGroup": workload.group,
                        "topic": topic,
                        "lagThreshold": str(LAG_A_MEMBER),
                        "offsetResetPolicy": "earliest",
                        "sasl": "scram_sha512",
                        "tls": "enable",
                    },
                    "authenticationRef": {"name": workload.role},
                }
                for topic in topics
            ],
        },
    }


def _login(workload: Workload) -> Manifest:
    user = f"PRODROME_{workload.zone.upper()}_KAFKA_USERNAME"
    secret = principal_of(workload.role)
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "TriggerAuthentication",
        "metadata": meta(workload.zone, workload.role),
        "spec": {
            "env": [{"parameter": "username", "name": user, "containerName": workload.role}],
            "secretTargetRef": [{"parameter": "password", "name": secret, "key": "kafka"}],
            "configMapTargetRef": [{"parameter": "ca", "name": "ca", "key": "ca.crt"}],
        },
    }
