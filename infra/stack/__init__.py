"""The parts of one machine: Kafka and Cassandra as plain processes, and the supervisor that keeps them.

`lifecycle` has `up`, `down` and `status`, which are the whole of it. Here are the values they take and give;
the rest is not imported along, because supervisord loads this package too.
"""

from infra.stack.layout import Addresses, Layout, MissingPrerequisite, ProgramStatus, Role, StackError

__all__ = ["Addresses", "Layout", "MissingPrerequisite", "ProgramStatus", "Role", "StackError"]
