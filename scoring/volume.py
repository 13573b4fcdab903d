"""A volume of voxels in the patient's space, and how the slices of a series make one. Pure numpy.

1. `order_slices`: along the normal of the one orientation that all slices share.
2. `Lattice`: the grid that they lie on, or why they lie on none: what is lost, doubled, turned or shifted.
3. `assemble`: decoded slices to one `Volume`.

Coordinates are DICOM's (PS3.3 C.7.6.2.1.1): millimetres, x to the left hand, y to the back, z to the head. It
knows no pixel before `assemble`, and nothing of what the image shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

#: Two orientations are one where no direction cosine differs by more: files round them to some five digits.
ORIENTATION_TOLERANCE: Final = 1e-3
#: Of the distance between slices; positions are rounded too, a lost slice moves the next one by a whole distance.
POSITION_TOLERANCE: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Where one slice lies, as its header says.

    Attributes
    ----------
    position : tuple of float
        ImagePositionPatient: centre of the first pixel, mm.
    orientation : tuple of float
        ImageOrientationPatient: directions of a row (growing column index), then of a column.
    spacing : tuple of float
        PixelSpacing: between rows, then between columns, mm.
    """

    position: tuple[float, float, float]
    orientation: tuple[float, float, float, float, float, float]
    spacing: tuple[float, float]
    rows: int
    columns: int

    @property
    def normal(self) -> Matrix:
        """Unit vector across the slice."""
        return np.cross(self.orientation[:3], self.orientation[3:])


class NoLattice(Exception):
    """The slices lie on no grid; `word` says why.

    ``position``: numbers that are none, or place nothing. ``orientation``, ``size``: not all alike. ``shifted``:
    positions do not follow the normal. ``doubled``: two at one position. ``gap``: a distance that is not the common
    one.
    """

    def __init__(self, word: str, detail: str) -> None:
        self.word, self.detail = word, detail
        super().__init__(f"{word}: {detail}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Lattice:
    """A grid in the patient's space.

    Attributes
    ----------
    size : tuple of int
        Columns, rows, slices.
    origin : (3,)
        Centre of the first voxel, mm.
    spacing : (3,)
        From column to column, row to row, slice to slice, mm.
    direction : (3, 3)
        Unit vectors of those three steps, as columns.
    """

    size: tuple[int, int, int]
    origin: Matrix
    spacing: Matrix
    direction: Matrix

    @property
    def extent(self) -> Matrix:
        """Covered length along columns, rows and slices, mm: half a voxel beyond the outer centres."""
        return np.asarray(self.size) * self.spacing

    @property
    def to_patient(self) -> Matrix:
        """(4, 4) matrix from indices (column, row, slice, 1) to mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.direction * self.spacing
        matrix[:3, 3] = self.origin
        return matrix


@dataclass(frozen=True, kw_only=True, eq=False)
class Volume:
    """Voxels on a lattice."""

    voxels: NDArray[np.float32]  # (slices, rows, columns), unit of the modality LUT
    lattice: Lattice

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.lattice.spacing)) / 1000


def order_slices(planes: Sequence[Plane]) -> list[int]:
    """Return the indices of `planes` in their order along the normal of the first.

    Raises
    ------
    NoLattice
        Where one lies nowhere, or orientation, spacing or size are not those of the first.
    """
    first = planes[0]
    for plane in planes:
        numbers = (*plane.position, *plane.orientation, *plane.spacing)
        if (
            not np.isfinite(numbers).all()
            or min(plane.spacing) <= 0
            or not 0.99 < np.linalg.norm(plane.normal) < 1.01
        ):
            raise NoLattice("position", "expected numbers that place a slice, found others")
        turned = np.abs(np.subtract(plane.orientation, first.orientation)).max()
        if not turned <= ORIENTATION_TOLERANCE:
            raise NoLattice(
                "orientation", f"expected one orientation, found one that differs by {turned:.4f}"
            )
        shape = (plane.rows, plane.columns, *plane.spacing)
        if shape != (first.rows, first.columns, *first.spacing):
            raise NoLattice("size", "expected one size and one pixel spacing, found several")
    along = [float(np.dot(plane.position, first.normal)) for plane in planes]
    return sorted(range(len(planes)), key=lambda i: (along[i], i))


def lattice_of(planes: Sequence[Plane]) -> Lattice:
    """Return the lattice of at least two slices in order.

    The distance between slices comes from their positions: SpacingBetweenSlices and SliceThickness may be
    absent, and differ from it where slices overlap. The common distance is the median, so that a gap is seen
    as one.

    Raises
    ------
    NoLattice
        With what was expected and what came.
    """
    first, last = planes[0], planes[-1]
    positions = np.array([plane.position for plane in planes])  # (slices, 3) mm
    steps = np.diff(positions, axis=0) @ first.normal  # (slices - 1,) mm
    step = float(np.median(steps))
    if steps.min() <= POSITION_TOLERANCE * step:
        raise NoLattice("doubled", "expected one slice at each position, found two")
    off = np.abs(steps / step - 1).max()
    if off > POSITION_TOLERANCE:
        lost = int(np.rint(steps / step - 1).clip(min=0).sum())
        raise NoLattice("gap", f"expected slices {step:.3f} mm apart, found a gap: {lost} lost")
    across = (positions[-1] - positions[0]) / (len(planes) - 1)  # mm a slice
    sheared = float(np.linalg.norm(across - first.normal * np.dot(across, first.normal)))
    if sheared > POSITION_TOLERANCE * step:
        raise NoLattice(
            "shifted", f"expected slices along their normal, found {sheared:.3f} mm beside it each"
        )
    row, column = np.asarray(first.orientation[:3]), np.asarray(first.orientation[3:])
    length = float(np.linalg.norm(np.subtract(last.position, first.position)))
    return Lattice(
        size=(first.columns, first.rows, len(planes)),
        origin=positions[0],
        spacing=np.array([first.spacing[1], first.spacing[0], length / (len(planes) - 1)]),
        direction=np.column_stack([row, column, first.normal]),
    )


def assemble(lattice: Lattice, slices: Sequence[NDArray[Any]]) -> Volume:
    """Return the volume of decoded slices, each (rows, columns), in the order of the lattice."""
    columns, rows, count = lattice.size
    voxels = np.empty((count, rows, columns), np.float32)
    for index, image in enumerate(slices):
        voxels[index] = image  # (rows, columns)
    return Volume(voxels=voxels, lattice=lattice)
