"""From the slices of a head to a graded severity: geometry, gates, bounds under small changes, and what is refused.

The shipped head (hippodeep's example) everywhere; the shared series where it is there. `RUN_SLOW=1` damages the
shared series too, five minutes on one core.
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pydicom
import pytest
import SimpleITK

from infra.demo_brain import files_of, make_head, read_head
from scoring.brain import TEMPLATE, net_box
from scoring.encode import passes
from scoring.gate import Gate, Refused
from scoring.intake import Instance, Selected
from scoring.outcomes import OutOfDomain, Prepared, Scores
from scoring.score import MODELS, Model, Preparer, load, load_preparer
from scoring.volume import Volume

SHARED = Path(__file__).parents[4] / "shared" / "data" / "brain-mri" / "dicoms"
Spoil = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def model() -> Model:
    return load(MODELS / "dementia", threads=2)


@pytest.fixture(scope="module")
def preparer() -> Preparer:
    return load_preparer(MODELS / "dementia", threads=2)


class Head:
    """Slices in memory, as instances and as a reader of their bytes."""

    def __init__(self, files: list[bytes]) -> None:
        self.datasets = [pydicom.dcmread(pydicom.filebase.DicomBytesIO(data)) for data in files]
        self.files = {str(d.SOPInstanceUID): data for d, data in zip(self.datasets, files, strict=True)}
        self.instances = [instance_of(dataset) for dataset in self.datasets]

    def read(self, instance: Instance) -> bytes:
        return self.files[instance.sop_instance_uid]


def instance_of(d: pydicom.Dataset) -> Instance:
    """What the clean side would know of a slice under the Basic profile."""
    facts = {
        "sop_instance_uid": str(d.SOPInstanceUID), "series_instance_uid": str(d.SeriesInstanceUID),
        "sop_class_uid": str(d.SOPClassUID), "transfer_syntax_uid": str(d.file_meta.TransferSyntaxUID),
        "content_key": str(d.SOPInstanceUID), "pixel_key": "p", "modality": str(d.Modality), "rows": int(d.Rows),
        "columns": int(d.Columns), "bits_allocated": int(d.BitsAllocated),
        "photometric_interpretation": str(d.PhotometricInterpretation), "image_type": tuple(d.ImageType),
        "instance_number": int(d.InstanceNumber), "image_position": tuple(map(float, d.ImagePositionPatient)),
        "image_orientation": tuple(map(float, d.ImageOrientationPatient)),
        "pixel_spacing": tuple(map(float, d.PixelSpacing)), "sequence": "t1",
        "mr_acquisition_type": str(d.get("MRAcquisitionType", "")) or None,
    }  # fmt: skip
    return msgspec.convert(facts, Instance)


@pytest.fixture(scope="module")
def head() -> Head:
    """The shipped head as a sagittal series."""
    return Head(files_of(make_head(read_head(), "test")[0]))


@pytest.fixture(scope="module")
def shared() -> Head:
    """The shared series."""
    if not SHARED.is_dir():
        pytest.skip(f"needs {SHARED}, which is not on this machine")
    return Head([path.read_bytes() for path in sorted(SHARED.iterdir())])


def prepare(model: Model, preparer: Preparer, head: Head) -> Prepared | OutOfDomain:
    selected = model.select(head.instances)
    assert isinstance(selected, Selected)
    return preparer.prepare(selected, head.read)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def prepared(model: Model, preparer: Preparer, head: Head) -> Prepared:
    found = prepare(model, preparer, head)
    assert isinstance(found, Prepared), found
    return found


def cog(found: Scores) -> float:
    assert isinstance(found, Scores)
    return found.measurements[0].value


def test_the_shipped_head_is_scored(model: Model, prepared: Prepared) -> None:
    """A severity with its spread, every gate measured and passed; ADD is held back below the cut-off of dementia."""
    [found] = model.forward([prepared])
    assert cog(found) == pytest.approx(0.735, abs=0.03)
    assert found.category == "mild_impairment"
    assert [m.name for m in found.measurements] == ["cog"]
    assert found.measurements[0].low <= cog(found) <= found.measurements[0].high
    assert set(prepared.measured) == {check.measure for check in model.card.checks}
    assert 0 < found.score < 1


def test_it_is_the_same_to_the_last_bit_again(
    model: Model, preparer: Preparer, head: Head, prepared: Prepared
) -> None:
    """One thread and a fixed seed: the same slices in another order are the same volume and the same number."""
    turned = Head([head.files[i.sop_instance_uid] for i in head.instances[::-1]])
    again = prepare(model, preparer, turned)
    assert isinstance(again, Prepared)
    assert np.array_equal(again.features, prepared.features)
    assert again.measured == prepared.measured
    assert again.set_id == prepared.set_id


def test_small_shifts_move_it_a_little(model: Model, prepared: Prepared) -> None:
    """By 1 mm along any axis: within a tenth."""
    moved = passes(model.card, prepared.features)
    values = model.session.forward({"volume": moved})["cog"][:, 0]
    assert max(abs(value - values[0]) for value in values) < 0.1


def test_a_change_of_scale_moves_it_a_little(
    model: Model, preparer: Preparer, head: Head, prepared: Prepared
) -> None:
    """By 2 % of every length: within a tenth."""
    scaled = dataclasses.replace(spoilt(head, lambda v: v), factor=1.02)
    found = scaled.prepare(model, preparer)
    assert isinstance(found, Prepared)
    assert abs(cog(model.forward([found])[0]) - cog(model.forward([prepared])[0])) < 0.1


@dataclasses.dataclass(frozen=True)
class Spoilt:
    """A head whose voxels were changed, on the lattice that its slices had."""

    volume: Volume
    factor: float = 1.0

    def prepare(self, model: Model, preparer: Preparer) -> Prepared | OutOfDomain:
        """Run the preparation from the volume on."""
        lattice = dataclasses.replace(
            self.volume.lattice,
            size=self.volume.voxels.shape[::-1],
            spacing=self.volume.lattice.spacing * self.factor,
        )
        volume = Volume(voxels=np.ascontiguousarray(self.volume.voxels, np.float32), lattice=lattice)
        gate = Gate(model.card.checks)
        try:
            ready = preparer.preparation.from_volume(volume, gate)  # type: ignore[attr-defined]
        except Refused as error:
            return OutOfDomain(reason=error.refusal.word, detail=error.refusal.detail, measured=gate.measured)
        return Prepared(set_id="spoilt", features=ready.features, measured=gate.measured)


def spoilt(head: Head, spoil: Spoil) -> Spoilt:
    from scoring.brain import read_volume
    from scoring.series import plane_of
    from scoring.volume import order_slices

    order = order_slices([plane for i in head.instances if (plane := plane_of(i))])
    volume = read_volume([head.instances[i] for i in order], head.read)
    return Spoilt(Volume(voxels=spoil(volume.voxels), lattice=volume.lattice))


def ellipsoid(v: np.ndarray) -> np.ndarray:
    axes = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in v.shape)]
    inside = sum(a**2 / 0.45 for a in axes) < 1
    return np.where(inside, 500.0, 0.0) + np.random.default_rng(0).normal(0, 5, v.shape)


#: What is done to the voxels; by slice, row and column.
DAMAGES: dict[str, Spoil] = {
    "first axis turned": lambda v: v[::-1],
    "second axis turned": lambda v: v[:, ::-1],
    "axes swapped": lambda v: v.transpose(1, 0, 2),
    "slices shuffled": lambda v: v[np.random.default_rng(0).permutation(len(v))],
    "every second slice lost": lambda v: v[::2],
    "inverted": lambda v: v.max() - v,
    "noise": lambda v: np.random.default_rng(0).normal(100, 30, v.shape),
    "an ellipsoid": ellipsoid,
    "flat": np.zeros_like,
}
#: Of the shipped head, whose slices run from right to left: along its first axis a flip cannot be seen.
OF_THE_HEAD = {
    **{name: spoil for name, spoil in DAMAGES.items() if name != "first axis turned"},
    "third axis turned": lambda v: v[:, :, ::-1],
    "the lower half cut": lambda v: v[:, : int(0.55 * v.shape[1])],
    "the upper quarter cut": lambda v: v[:, int(0.35 * v.shape[1]) :],
}
OF_THE_SHARED = {
    **DAMAGES,
    "the lower part cut": lambda v: v[int(0.45 * len(v)) :],
    "the upper quarter cut": lambda v: v[: int(0.75 * len(v))],
}


@pytest.mark.parametrize("damage", OF_THE_HEAD)
def test_a_damaged_head_is_refused(model: Model, preparer: Preparer, head: Head, damage: str) -> None:
    """Each with a word, and with what was measured until then."""
    found = spoilt(head, OF_THE_HEAD[damage]).prepare(model, preparer)
    assert isinstance(found, OutOfDomain), found.measured
    assert found.detail


@pytest.mark.skipif("RUN_SLOW" not in os.environ, reason="five minutes: RUN_SLOW=1")
@pytest.mark.parametrize("damage", OF_THE_SHARED)
def test_the_damaged_shared_series_is_refused(
    model: Model, preparer: Preparer, shared: Head, damage: str
) -> None:
    """The same of a series with voxels of two thirds of a millimetre and much neck."""
    found = spoilt(shared, OF_THE_SHARED[damage]).prepare(model, preparer)
    assert isinstance(found, OutOfDomain), found.measured


def test_a_flip_from_left_to_right_is_not_seen(model: Model, preparer: Preparer, head: Head) -> None:
    """What the card says it cannot see: so nobody is surprised."""
    assert isinstance(spoilt(head, lambda v: v[::-1]).prepare(model, preparer), Prepared)


def test_the_shared_series_is_what_simpleitk_makes_of_it(shared: Head) -> None:
    """Every voxel, and where it lies."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(SHARED)))
    image = reader.Execute()
    found = spoilt(shared, lambda v: v).volume
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), found.voxels)
    assert found.lattice.origin == pytest.approx(image.GetOrigin(), abs=1e-6)
    assert found.lattice.spacing == pytest.approx(image.GetSpacing(), abs=1e-6)
    assert found.lattice.direction.ravel() == pytest.approx(image.GetDirection(), abs=1e-6)


@pytest.mark.parametrize("lost", [0, 192, 383])
def test_a_lost_slice_of_the_shared_series(model: Model, shared: Head, lost: int) -> None:
    """In the middle it is waited for; at an end nothing tells, and the rest is taken."""
    order = sorted(shared.instances, key=lambda i: i.instance_number or 0)
    found = model.select([*order[:lost], *order[lost + 1 :]])
    assert isinstance(found, Selected) == (lost != 192)


def test_the_shared_series_is_scored(model: Model, preparer: Preparer, shared: Head) -> None:
    """As measured when the package was made."""
    found = prepare(model, preparer, shared)
    assert isinstance(found, Prepared)
    assert found.measured["volume_ml"] == pytest.approx(1791, rel=0.01)
    assert cog(model.forward([found])[0]) == pytest.approx(0.864, abs=0.03)


def test_the_box_of_the_nets_is_turned_to_left_front_and_head(head: Head) -> None:
    """Whatever way the slices run, the box covers the volume from first to last centre."""
    lattice = spoilt(head, lambda v: v).volume.lattice
    box = net_box(lattice)
    assert np.allclose(np.diag(TEMPLATE.direction.T @ box.direction), 1)
    corners = {
        tuple(np.round((box.to_patient @ [*c, 1])[:3], 2))
        for c in np.ndindex(2, 2, 2)
        for c in [np.array(c) * 63]
    }
    own = np.array(lattice.size) - 1
    assert corners == {
        tuple(np.round((lattice.to_patient @ [*(np.array(c) * own), 1])[:3], 2)) for c in np.ndindex(2, 2, 2)
    }
