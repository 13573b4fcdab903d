"""Reads and writes ``.npz``, the one form in which packages hold arrays; bounded, and never a pickle."""

import io
import zipfile
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ProdromeError

Arrays = dict[str, NDArray[Any]]

#: Of all arrays of a file together; the largest example of a package has 29 MB.
MAX_BYTES: Final = 2**28
KINDS: Final = "fiub"


class ArraysRefused(ProdromeError):
    """The bytes hold no arrays of numbers, or too many."""


def read_arrays(data: bytes) -> Arrays:
    """Return the arrays of an ``.npz`` by name.

    Raises
    ------
    ArraysRefused
        Before more than `MAX_BYTES` are inflated, and for anything that is no number.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            declared = sum(member.file_size for member in archive.infolist())
            if declared > MAX_BYTES:
                raise ArraysRefused(f"expected at most {MAX_BYTES} bytes of arrays, found {declared}")
            # zipfile reads no more of a member than it declares
            found = {m.filename.removesuffix(".npy"): _read(archive.read(m)) for m in archive.infolist()}
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise ArraysRefused(f"expected arrays in an .npz, found none: {type(error).__name__}") from error
    if wrong := [name for name, array in found.items() if array.dtype.kind not in KINDS]:
        raise ArraysRefused(f"expected arrays of numbers, found others: {wrong}")
    return found


def write_arrays(arrays: Arrays, level: int | None = None) -> bytes:
    """Return ``.npz`` bytes, compressed (1 to 9), with fixed times: the same arrays give the same bytes."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.save(member, arrays[name], allow_pickle=False)
            about = zipfile.ZipInfo(f"{name}.npy")
            about.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(about, member.getvalue(), compresslevel=level)
    return target.getvalue()


def _read(member: bytes) -> NDArray[Any]:
    return np.asarray(np.load(io.BytesIO(member), allow_pickle=False))
