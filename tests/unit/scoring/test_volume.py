"""Slices make a volume only where they lie on a grid; what they lack has a word."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoring.volume import NoLattice, Plane, assemble, lattice_of, order_slices

TURN = (0.999032, -0.021788, 0.038210, 0.026519, 0.991414, -0.128044)


def stack(count: int = 10, step: float = 0.7, orientation: tuple[float, ...] = TURN) -> list[Plane]:
    """Slices in order, at positions rounded as scanners round them."""
    normal = np.cross(orientation[:3], orientation[3:])
    return [
        Plane(
            position=tuple(round(float(v), 4) for v in normal * step * i + (-91.4, -160.1, -142.5)),
            orientation=orientation,
            spacing=(0.6, 0.5),
            rows=4,
            columns=3,
        )
        for i in range(count)
    ]


def ordered(planes: list[Plane]) -> list[Plane]:
    return [planes[i] for i in order_slices(planes)]


def test_the_lattice_is_where_the_headers_say() -> None:
    """PixelSpacing is (between rows, between columns): the order that is most often taken wrong."""
    found = lattice_of(stack())
    assert found.size == (3, 4, 10)
    assert found.spacing == pytest.approx([0.5, 0.6, 0.7], abs=1e-4)
    first, last = stack()[0], stack()[-1]
    assert found.to_patient @ [0, 0, 0, 1] == pytest.approx([*first.position, 1])
    assert found.to_patient @ [0, 0, 9, 1] == pytest.approx([*last.position, 1], abs=1e-3)
    assert found.to_patient @ [1, 0, 0, 1] == pytest.approx(
        [*(np.array(first.position) + 0.5 * np.array(TURN[:3])), 1], abs=1e-4
    )


@given(st.permutations(range(10)))
def test_order_of_arrival_changes_nothing(order: list[int]) -> None:
    """Positions order the slices, whatever order they came in."""
    planes = stack()
    assert ordered([planes[i] for i in order]) == planes


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda s: [*s[:4], *s[5:]], "gap"),
        (lambda s: [*s[:4], *s[7:]], "gap"),
        (lambda s: [*s, s[3]], "doubled"),
        (lambda s: [*s[:9], dataclasses.replace(s[9], orientation=(1, 0, 0, 0, 1, 0))], "orientation"),
        (lambda s: [*s[:9], dataclasses.replace(s[9], columns=5)], "size"),
        (lambda s: [*s[:9], dataclasses.replace(s[9], spacing=(0.6, 0.6))], "size"),
        (
            lambda s: [
                dataclasses.replace(p, position=(p.position[0] + 0.3 * i, *p.position[1:]))
                for i, p in enumerate(s)
            ],
            "shifted",
        ),
        (lambda s: [*s[:9], dataclasses.replace(s[9], position=(float("nan"),) * 3)], "position"),
        (lambda s: [dataclasses.replace(p, orientation=(float("nan"),) * 6) for p in s], "position"),
        (lambda s: [dataclasses.replace(p, orientation=(1, 0, 0, 1, 0, 0)) for p in s], "position"),
        (lambda s: [dataclasses.replace(p, spacing=(0.0, 1.0)) for p in s], "position"),
    ],
)
def test_what_is_no_grid_is_told_by_a_word(spoil, word: str) -> None:
    """Lost, doubled, turned, resized, sheared, and numbers that are none."""
    with pytest.raises(NoLattice) as error:
        lattice_of(ordered(spoil(stack())))
    assert error.value.word == word


def test_a_slice_lost_at_an_end_cannot_be_seen() -> None:
    """The rest is a grid of its own: only a count in the header tells."""
    assert lattice_of(stack()[1:]).size == (3, 4, 9)
    assert lattice_of(stack()[:-1]).size == (3, 4, 9)


def test_how_many_are_lost_is_told() -> None:
    """Two gaps of one and two slices are three slices."""
    planes = stack(20)
    with pytest.raises(NoLattice, match="3 lost"):
        lattice_of([*planes[:4], *planes[5:9], *planes[11:]])


def test_voxels_lie_in_the_order_of_the_lattice() -> None:
    """A slice is (rows, columns), a volume (slices, rows, columns)."""
    images = [np.full((4, 3), i) + np.arange(12).reshape(4, 3) / 100 for i in range(10)]
    made = assemble(lattice_of(stack()), images)
    assert made.voxels.shape == (10, 4, 3)
    assert made.voxels[7, 2, 1] == pytest.approx(7.07)
    assert made.voxel_ml == pytest.approx(0.5 * 0.6 * 0.7 / 1000, rel=1e-3)
