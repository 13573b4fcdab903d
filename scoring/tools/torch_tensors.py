"""Reads the tensors of a published torch file (format before 1.6), without torch and without running it.

::

    magic number | protocol | system | the object | storage keys | per key: count (int64), values

1. Unpickle with a class table of three names; every other name is refused before it is resolved.
2. The object refers to storages by key; they follow at the end of the file, as raw float32.
3. A tensor is a storage seen with size and stride. The stride matters: tensors converted from
   TensorFlow are stored transposed.

For developers only: pickle has no place at run time.
"""

import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

MAGIC: Final = 0x1950A86A20F9469CFC6C
PROTOCOL: Final = 1001


@dataclass(frozen=True)
class _View:
    """A tensor before its storage is read."""

    storage: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _FloatStorage:
    """Stands for ``torch.FloatStorage``, which only marks the type of a storage."""


def _rebuild_tensor(
    storage: str, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> _View:
    return _View(storage, offset, size, stride)


class _Reader(pickle.Unpickler):
    """Admits tensors, and nothing else."""

    admitted: Final[dict[tuple[str, str], Any]] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch", "FloatStorage"): _FloatStorage,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.admitted:
            raise pickle.UnpicklingError(f"expected tensors only, found {module}.{name}")
        return self.admitted[module, name]

    def persistent_load(self, pid: Any) -> str:
        kind, storage_type, key, location, _count, view = pid
        if (kind, storage_type, location, view) != ("storage", _FloatStorage, "cpu", None):
            raise pickle.UnpicklingError(f"expected float storages on the CPU, found {kind} on {location}")
        return str(key)


def read_tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read a torch state file.

    Parameters
    ----------
    path : Path
        The published file.

    Returns
    -------
    dict
        float32 arrays by parameter name, in C order.
    """
    with path.open("rb") as file:
        magic, protocol, _system, views, keys = (_Reader(file).load() for _ in range(5))
        if (magic, protocol) != (MAGIC, PROTOCOL):
            raise pickle.UnpicklingError(f"expected torch's format {PROTOCOL}, found {protocol}")
        storages = {key: _read_storage(file) for key in keys}
        if file.read(1):
            raise pickle.UnpicklingError("expected the file to end after its storages, found more bytes")
    return {name: _tensor(view, storages[view.storage]) for name, view in views.items()}


def _read_storage(file: BinaryIO) -> NDArray[np.float32]:
    count = int.from_bytes(file.read(8), "little")
    return np.frombuffer(file.read(4 * count), dtype="<f4", count=count)


def _tensor(view: _View, storage: NDArray[np.float32]) -> NDArray[np.float32]:
    last = view.offset + sum((n - 1) * step for n, step in zip(view.size, view.stride, strict=True))
    if min(view.offset, *view.stride, *view.size) < 0 or last >= storage.size:
        raise pickle.UnpicklingError(
            f"expected a view inside {storage.size} values, found one that ends at {last}"
        )
    strides = tuple(4 * step for step in view.stride)
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(storage[view.offset :], view.size, strides))
