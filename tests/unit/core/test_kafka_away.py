"""A Kafka that is not there: waited for, and said so."""

import pytest

from infra.connections import KafkaConnection
from infra.kafka import wait_ready
from schemas.errors import SlowDown


def test_a_cluster_that_is_away_is_slow_down() -> None:
    """A role that starts first waits for it; the message says for whom."""
    with pytest.raises(SlowDown, match=r"Kafka at 127\.0\.0\.1:1 did not answer"):
        wait_ready(KafkaConnection(servers="127.0.0.1:1"), 0)
