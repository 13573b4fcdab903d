"""The parts of one machine: Kafka and Cassandra as plain processes, and the supervisor that keeps them.

`up`, `down` and `status` are the whole of it; a stack is where its `Layout` points.
"""

from infra.stack.layout import (
    Addresses,
    Layout,
    MissingPrerequisite,
    ProgramStatus,
    Role,
    StackError,
)
from infra.stack.lifecycle import down, status, up
from infra.stack.ports import recorded_addresses

__all__ = [
    "Addresses",
    "Layout",
    "MissingPrerequisite",
    "ProgramStatus",
    "Role",
    "StackError",
    "down",
    "recorded_addresses",
    "status",
    "up",
]
