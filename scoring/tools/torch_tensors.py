"""Reads the tensors of a published torch file, without torch and without running it.

::

    before 1.6   magic number | protocol | system | the object | storage keys | per key: count (int64), values
    since        a zip: */data.pkl is the object, */data/<key> the values of a storage

1. Unpickle with a class table of a few names; every other name is refused before it is resolved.
2. The object refers to storages by key, float32 or int64, which are read as they lie.
3. A tensor is a storage seen with size and stride. The stride matters: tensors converted from
   TensorFlow are stored transposed.

For developers only: pickle has no place at run time.
"""

import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

MAGIC: Final = 0x1950A86A20F9469CFC6C
PROTOCOL: Final = 1001

Storages = dict[str, NDArray[Any]]  # by key


@dataclass(frozen=True)
class _View:
    """A tensor before its storage is read."""

    storage: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _FloatStorage:
    """Stands for ``torch.FloatStorage``, which only marks the type of a storage."""

    dtype: Final = "<f4"


class _LongStorage:
    """Stands for ``torch.LongStorage``."""

    dtype: Final = "<i8"


def _rebuild_tensor(
    storage: str, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> _View:
    return _View(storage, offset, size, stride)


class _Reader(pickle.Unpickler):
    """Admits tensors, and nothing else."""

    admitted: Final[dict[tuple[str, str], Any]] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch", "FloatStorage"): _FloatStorage,
        ("torch", "LongStorage"): _LongStorage,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.admitted:
            raise pickle.UnpicklingError(f"expected tensors only, found {module}.{name}")
        return self.admitted[module, name]

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, str] = {}  # dtype by key

    def persistent_load(self, pid: Any) -> str:
        # The device is where the tensor was when it was saved. Only the older format has a view behind the count.
        kind, storage_type, key, _device, _count, *view = pid
        if kind != "storage" or storage_type not in (_FloatStorage, _LongStorage) or any(view):
            raise pickle.UnpicklingError(f"expected storages of float32 or int64, found {kind}")
        self.storages[str(key)] = storage_type.dtype
        return str(key)


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Read a torch state file.

    Parameters
    ----------
    path : Path
        The published file.

    Returns
    -------
    dict
        Arrays by parameter name, float32 or int64, in C order.
    """
    views, storages = _read_zip(path) if zipfile.is_zipfile(path) else _read_stream(path)
    return {name: _tensor(view, storages[view.storage]) for name, view in views.items()}


def _read_stream(path: Path) -> tuple[dict[str, _View], Storages]:
    with path.open("rb") as file:
        magic, protocol, _system = (_Reader(file).load() for _ in range(3))
        if (magic, protocol) != (MAGIC, PROTOCOL):
            raise pickle.UnpicklingError(f"expected torch's format {PROTOCOL}, found {protocol}")
        reader = _Reader(file)
        views = reader.load()
        storages = {key: _read_storage(file, reader.storages[key]) for key in _Reader(file).load()}
        if file.read(1):
            raise pickle.UnpicklingError("expected the file to end after its storages, found more bytes")
    return views, storages


def _read_storage(file: BinaryIO, dtype: str) -> NDArray[Any]:
    count = int.from_bytes(file.read(8), "little")
    return np.frombuffer(file.read(np.dtype(dtype).itemsize * count), dtype=dtype, count=count)


def _read_zip(path: Path) -> tuple[dict[str, _View], Storages]:
    with zipfile.ZipFile(path) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        with archive.open(name) as file:
            reader = _Reader(file)  # type: ignore[arg-type]
            views = reader.load()
        folder = name.removesuffix(".pkl")
        return views, {
            key: np.frombuffer(archive.read(f"{folder}/{key}"), dtype=dtype)
            for key, dtype in reader.storages.items()
        }


def _tensor(view: _View, storage: NDArray[Any]) -> NDArray[Any]:
    last = view.offset + sum((n - 1) * step for n, step in zip(view.size, view.stride, strict=True))
    if min((view.offset, *view.stride, *view.size)) < 0 or last >= storage.size:
        raise pickle.UnpicklingError(
            f"expected a view inside {storage.size} values, found one that ends at {last}"
        )
    strides = tuple(storage.itemsize * step for step in view.stride)
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(storage[view.offset :], view.size, strides))
