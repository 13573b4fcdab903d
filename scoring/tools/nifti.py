"""Reads a NIfTI-1 volume, as far as published templates and examples use it; for developers' tools and tests.

The header is 348 bytes (nifti1.h): dimensions, type, and where the voxels lie in millimetres, to the right, the
front and the head. DICOM counts to the left and the back.
"""

import gzip
import struct
from pathlib import Path
from typing import Final

import numpy as np

from scoring.volume import Lattice, Matrix, Volume

TYPES: Final = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8", 512: "<u2"}
TO_DICOM: Final = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_nifti(path: Path) -> Volume:
    """Return the volume of a little-endian NIfTI-1 file, plain or gzipped."""
    data = path.read_bytes()
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    size = struct.unpack_from("<8h", data, 40)[1:4]  # columns, rows, slices
    kind = TYPES[struct.unpack_from("<h", data, 70)[0]]
    start = int(struct.unpack_from("<f", data, 108)[0])
    voxels = np.frombuffer(data, kind, int(np.prod(size)), start).reshape(size[::-1])
    slope, intercept = struct.unpack_from("<2f", data, 112)
    scaled = voxels.astype(np.float32) * np.float32(slope or 1) + np.float32(intercept if slope else 0)
    matrix = TO_DICOM @ _to_world(data)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    lattice = Lattice(size=size, origin=matrix[:3, 3], spacing=spacing, direction=matrix[:3, :3] / spacing)
    return Volume(voxels=scaled, lattice=lattice)


def _to_world(data: bytes) -> Matrix:
    by_quaternion, by_matrix = struct.unpack_from("<2h", data, 252)
    matrix = np.eye(4)
    if by_matrix > 0:
        matrix[:3] = np.array(struct.unpack_from("<12f", data, 280)).reshape(3, 4)
        return matrix
    if by_quaternion <= 0:
        raise ValueError("expected a NIfTI file that says where its voxels lie, found none")
    handed, *steps = struct.unpack_from("<4f", data, 76)
    b, c, d, *shift = struct.unpack_from("<6f", data, 256)
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    turned = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
    matrix[:3, :3] = turned * np.array([steps[0], steps[1], steps[2] * (handed or 1)])
    matrix[:3, 3] = shift
    return matrix
