"""Checks an ONNX graph before the runtime sees it: declared operators only, weights inside,
nothing else.

ONNX is protocol buffers. `MESSAGES` is the part of its schema (onnx.proto3) that can hold operators or
tensors, so that the walk finds them wherever they are nested; everything else is skipped by its length.
It does not check shapes or types: the runtime does, and a refusal there is a refusal too.
"""

from collections.abc import Iterator
from typing import Final

from schemas.errors import ProdromeError

#: message -> {field number: (field name, message of the field or None for a leaf that is looked at)}
MESSAGES: Final[dict[str, dict[int, tuple[str, str | None]]]] = {
    "Model": {
        7: ("graph", "Graph"),
        8: ("opset_import", "Opset"),
        20: ("training_info", None),
        25: ("functions", None),
    },
    "Opset": {1: ("opset_domain", None), 2: ("opset_version", None)},
    "Graph": {1: ("node", "Node"), 5: ("initializer", "Tensor"), 15: ("sparse_initializer", "Sparse")},
    "Node": {4: ("op_type", None), 5: ("attribute", "Attribute"), 7: ("node_domain", None)},
    "Attribute": {
        5: ("t", "Tensor"),
        6: ("g", "Graph"),
        10: ("tensors", "Tensor"),
        11: ("graphs", "Graph"),
        22: ("sparse_tensor", "Sparse"),
        23: ("sparse_tensors", "Sparse"),
    },
    "Sparse": {1: ("values", "Tensor"), 2: ("indices", "Tensor")},
    "Tensor": {13: ("external_data", None), 14: ("data_location", None)},
}

MAX_DEPTH: Final = 32  # of nested graphs; protocol buffers themselves stop at 100
STANDARD_DOMAINS: Final = (b"", b"ai.onnx")

Leaf = bytes | int


class GraphRefused(ProdromeError):
    """The ONNX graph holds what a model package may not hold."""


def check_graph(data: bytes, operators: tuple[str, ...], opset: int) -> None:
    """Refuse a graph with external data, custom domains, functions or an operator that is not declared.

    Parameters
    ----------
    data : bytes
        A serialised ONNX ModelProto.
    operators : tuple of str
        The operators that the card declares.
    opset : int
        The version of the operators that the card declares.
    """
    try:
        leaves = list(_walk(data, "Model", 0))
    except (IndexError, ValueError) as error:
        raise GraphRefused(f"expected an ONNX graph, found bytes that end or break ({error})") from error
    allowed = {name.encode() for name in operators}
    for name, value in leaves:
        if name in ("external_data", "training_info", "functions") or (
            name == "data_location" and value != 0
        ):
            raise GraphRefused(f"expected weights and operators inside the graph, found {name}")
        if name in ("opset_domain", "node_domain") and value not in STANDARD_DOMAINS:
            raise GraphRefused(f"expected the standard ONNX domain only, found {value!r}")
        if name == "opset_version" and value != opset:
            raise GraphRefused(f"expected operators of version {opset}, found version {value!r}")
        if name == "op_type" and value not in allowed:
            raise GraphRefused(f"expected operators of {sorted(operators)}, found {value!r}")
    if not any(name == "op_type" for name, _ in leaves):
        raise GraphRefused("expected an ONNX graph with operators, found none")


def _walk(data: bytes, message: str, depth: int) -> Iterator[tuple[str, Leaf]]:
    if depth > MAX_DEPTH:
        raise GraphRefused(f"expected at most {MAX_DEPTH} nested messages, found more")
    known = MESSAGES[message]
    for number, value in _fields(data):
        if number not in known:
            continue
        name, inner = known[number]
        if inner is None:
            yield name, value
        elif isinstance(value, bytes):
            yield from _walk(value, inner, depth + 1)
        else:
            raise ValueError(f"{message}.{name} is no message")


def _fields(data: bytes) -> Iterator[tuple[int, Leaf]]:
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire == 2:
            length, position = _varint(data, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if length > len(data) - position:
            raise ValueError("a field is longer than its message")
        yield number, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
    raise ValueError("a number is longer than ten bytes")
