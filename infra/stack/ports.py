"""Choose ports that nothing else listens on, and keep the choice.

1. A port that was chosen before is taken again if it is free.
2. Else the fixed default, so that a person finds Kafka where the documentation says.
3. Else a free one above it, in steps from a place of this home's own, below the range that the kernel
   hands to clients.

A chosen port is listened on seconds later, and not while its owner is restarted. So it is claimed for as
long as the stack is up, by an abstract unix socket of its name: by a `Reservation` during the choice, by
the supervisor from then on.
"""

import hashlib
import json
import os
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from infra.stack.layout import HOSTS, Addresses, Layout, StackError
from schemas.access import GATEWAY

DEFAULTS: Final[dict[str, int]] = {
    "kafka": 19092,
    "kafka_controller": 19093,
    "cassandra": 19042,
    "cassandra_storage": 19700,
    "dicom": 11112,
    "kafka_gateway": 19094,
    "s3": 19070,
}
FIRST_METRICS: Final = 19200
#: Who listens on a fixed port; a metrics port is its role's.
_OWNERS: Final[dict[str, str]] = {
    "kafka": "kafka",
    "kafka_controller": "kafka",
    "cassandra": "cassandra",
    "cassandra_storage": "cassandra",
    "dicom": "receive",
    "kafka_gateway": "kafka",
    "s3": GATEWAY,
}
#: A stack has fewer ports in a row than this, so that the next one starts on a fresh row.
_STEP: Final = 40
_TRIES: Final = 300


class Reservation(ExitStack):
    """Holds chosen ports until its end.

    Parameters
    ----------
    own : Collection[int]
        Ports that this stack's supervisor holds already.
    """

    def __init__(self, own: Collection[int] = ()) -> None:
        super().__init__()
        self._own = own

    def take(self, port: int) -> bool:
        """True if nobody listens on `port` and no other stack has chosen it."""
        if port in self._own:
            return is_free(port)
        claimed = claim(port)
        if claimed is None:
            return False
        if not is_free(port):
            claimed.close()
            return False
        self.enter_context(claimed)
        return True


def claim(port: int) -> socket.socket | None:
    """Tell the other stacks of this machine that `port` is chosen, until the result is closed."""
    claimed = socket.socket(socket.AF_UNIX)
    try:
        claimed.bind(f"\0prodrome-port-{port}")
    except OSError:
        claimed.close()
        return None
    return claimed


def is_free(port: int) -> bool:
    """True if a server could listen on `port` of the loopback addresses of all nodes now."""
    return all(_is_free(host, port) for host in HOSTS)


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        # As servers do it: what is left of closed connections does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def choose(
    layout: Layout, roles: Sequence[str], reservation: Reservation, running: Collection[str] = ()
) -> Addresses:
    """Choose and record a port for every part and role.

    Parameters
    ----------
    layout : Layout
        The stack.
    roles : Sequence[str]
        Names of the roles, each gets a metrics port.
    reservation : Reservation
        Holds what is chosen.
    running : Collection[str]
        Names of the programs of this stack that run: who listens on their ports is they themselves.
    """
    measured = [role for role in roles if role != GATEWAY]
    wanted = DEFAULTS | {_metrics(role): FIRST_METRICS + at for at, role in enumerate(measured)}
    recorded: dict[str, int] = read_state(layout).get("ports", {})
    chosen: dict[str, int] = {}
    for name, default in wanted.items():
        owner = _OWNERS.get(name, name.removeprefix("metrics:"))
        if owner in running and name in recorded:
            chosen[name] = recorded[name]
        else:
            chosen[name] = _first_free(name, recorded.get(name), default, layout.home, reservation)
    write_state(layout, ports=recorded | chosen, nodes=layout.nodes)
    return _addresses(chosen, layout.nodes)


def recorded_addresses(layout: Layout) -> Addresses | None:
    """The addresses of the last start, None before the first."""
    state = read_state(layout)
    return _addresses(state["ports"], state.get("nodes", 1)) if "ports" in state else None


def read_state(layout: Layout) -> dict[str, Any]:
    """What the stack wrote down about itself; empty before the first start."""
    try:
        state: dict[str, Any] = json.loads(layout.state.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StackError(
            f"{layout.state}: expected JSON ({error}); remove it to choose ports anew"
        ) from error
    return state


def write_state(layout: Layout, **changes: Any) -> None:
    """Replace keys of the stack's state; the file is its owner's alone."""
    text = json.dumps(read_state(layout) | changes, indent=1, sort_keys=True)
    new = layout.state.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text + "\n")
    new.replace(layout.state)


def _first_free(name: str, recorded: int | None, default: int, home: Path, reservation: Reservation) -> int:
    for port in _candidates(recorded, default, _row(home)):
        if reservation.take(port):
            return port
    raise StackError(f"no free port for {name}: tried {default} and {_TRIES} above it")


def _candidates(recorded: int | None, default: int, row: int) -> Iterator[int]:
    if recorded is not None:
        yield recorded
    yield default
    # A row of this home's own: a client that still looks for a stack which has ended does not find another.
    yield from (default + _STEP * (1 + (row + at) % _TRIES) for at in range(_TRIES))


def _row(home: Path) -> int:
    return int.from_bytes(hashlib.sha256(str(home).encode()).digest()[:4], "big") % _TRIES


def _metrics(role: str) -> str:
    return f"metrics:{role}"


def _addresses(ports: dict[str, int], nodes: int) -> Addresses:
    metrics = {
        name.removeprefix("metrics:"): port for name, port in ports.items() if name.startswith("metrics:")
    }
    return Addresses(
        metrics=metrics, nodes=nodes, **{name: ports.get(name, at) for name, at in DEFAULTS.items()}
    )
