"""The preparation of a T1 series of the head: brain, onto the template's grid, in units of its own mean.

1. `scoring.volume`: slices to a volume.
2. The head net, on 64 voxels a side, says where the brain is; sampled back it is the mask.
3. The affine net says where the template lies in it, from the tissues alone.
4. `scoring.space.fit`: the template is fitted onto the masked volume, at 2 mm.
5. Sampled once from the native grid onto the template's; divided by the mean of all voxels, cut at 8.

Between the steps the gate looks at what was found: `volume_ml`, `determinant`, `mutual_information`, `nets_mm`,
`dice`, `ncc`. None of them sees a flip from left to right, which only the header's orientation can tell.

References
----------
Thyreau et al., Segmentation of the hippocampus by transferring algorithmic knowledge. Med. Image Anal. 43 (2018)
214: the two nets. Qiu et al., Multimodal deep learning for Alzheimer's disease dementia assessment. Nat. Commun.
13 (2022) 3404: the network that is prepared for. Fonov et al., NeuroImage 47 (2009) S102: the template.
"""

from collections.abc import Sequence
from itertools import permutations
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from scoring.arrays import read_arrays
from scoring.decode import DecodeError, decode
from scoring.gate import Gate
from scoring.intake import Instance, Selected
from scoring.package import Package
from scoring.prepare import Features, Preparation, Read, Ready
from scoring.runtime import CPU, Session
from scoring.series import plane_of
from scoring.space import FitFailed, fit, resample
from scoring.volume import Lattice, Matrix, Volume, assemble, lattice_of

#: Axes of the nets and of the network, FSL's LAS order: to the left, to the front, to the head; in DICOM's terms.
LEFT_FRONT_HEAD: Final = np.diag([1.0, -1.0, 1.0])
#: The network's grid: MNI152, 1 mm.
TEMPLATE: Final = Lattice(
    size=(182, 218, 182),
    origin=np.array([-90.0, 126.0, -72.0]),
    spacing=np.ones(3),
    direction=LEFT_FRONT_HEAD,
)
#: The same space at 2 mm, for the fit.
COARSE: Final = Lattice(
    size=(91, 109, 91),
    origin=TEMPLATE.origin,
    spacing=np.full(3, 2.0),
    direction=LEFT_FRONT_HEAD,
)
#: The box in which the affine net counts: 64 points from edge to edge.
NET_SIDE: Final = 64
NET_BOX: Final = Lattice(
    size=(NET_SIDE,) * 3,
    origin=TEMPLATE.origin,
    spacing=np.array([180.0, 216.0, 180.0]) / (NET_SIDE - 1),
    direction=LEFT_FRONT_HEAD,
)
#: Share of the template's brightest voxel from which on a voxel belongs to the brain.
BRAIN_ABOVE: Final = 0.05
#: Of the tissues that the head net gives: the brain; those that the affine net is shown.
BRAIN: Final = 0
SHOWN: Final = [1, 3]
#: float32 voxels of 0.5 GB; a whole head at half a millimetre has 6e7.
MAX_VOXELS: Final = 2**27


class BrainToTemplate(Preparation):
    """See the module. Parameters of the card: ``mask_from``, the probability of brain; ``cut_at``, in means."""

    parameters: ClassVar = ("mask_from", "cut_at")

    def __init__(self, package: Package, threads: int) -> None:
        card = package.card
        self._mask_from = card.preparation.parameters["mask_from"]
        self._cut_at = card.preparation.parameters["cut_at"]
        self._head, self._affine = (
            Session(package.graph(name), card.graph(name), (CPU,), threads) for name in ("head", "affine")
        )
        for session, name in ((self._head, "head"), (self._affine, "affine")):
            session.warm_up(package.files[card.graph(name).example])
        voxels = read_arrays(package.files[card.preparation.files["template"]])["template"]
        template = Volume(voxels=voxels.astype(np.float32), lattice=TEMPLATE)
        self._template = template.voxels
        self._template_brain = self._template > BRAIN_ABOVE * self._template.max()  # (182, 218, 182) bool
        self._coarse = Volume(voxels=resample(template, COARSE), lattice=COARSE)

    def __call__(self, selected: Selected, read: Read, gate: Gate) -> Ready:
        """See `scoring.prepare.Preparation`; (1, 182, 218, 182) float32, x to the left, y to the front, z up."""
        return self.from_volume(read_volume(list(selected.instances.values()), read), gate)

    def from_volume(self, volume: Volume, gate: Gate) -> Ready:
        """Return what the network is given for a volume; raises `Refused`."""
        if not volume.voxels.max() > volume.voxels.min():
            gate.refuse("flat", "expected more than one grey level, found one")
        mask, by_net = self.find_brain(volume)
        gate.note("volume_ml", float(mask.sum()) * volume.voxel_ml)
        brain = Volume(voxels=volume.voxels * mask, lattice=volume.lattice)
        try:
            transform, information = fit(self._coarse, coarsened(brain))
        except FitFailed as error:
            gate.refuse("registration", str(error))
        gate.note("determinant", float(np.linalg.det(transform[:3, :3])))
        gate.note("mutual_information", information)
        gate.note("nets_mm", self._apart(transform, by_net))
        warped = resample(brain, TEMPLATE, transform)  # (182, 218, 182): z, y, x
        outline = resample(
            Volume(voxels=mask.astype(np.float32), lattice=volume.lattice), TEMPLATE, transform
        )
        gate.note("dice", dice(outline > 0.5, self._template_brain))
        gate.note("ncc", correlation(warped, self._template, self._template_brain))
        scaled = np.clip(warped / warped.mean(), 0, self._cut_at)  # unit: mean of all voxels
        features = np.ascontiguousarray(scaled.transpose(2, 1, 0)[np.newaxis], dtype=np.float32)
        return Ready(features, transform @ TEMPLATE.to_patient)

    def find_brain(self, volume: Volume) -> tuple[NDArray[np.bool_], Matrix]:
        """Return the brain's mask on the volume's own grid, and the affine net's transform.

        Returns
        -------
        mask : (slices, rows, columns) bool
        transform : (4, 4)
            From mm of the template to mm of the volume.
        """
        box = net_box(volume.lattice)
        standard = Volume(
            voxels=(volume.voxels - volume.voxels.mean()) / volume.voxels.std(), lattice=volume.lattice
        )
        head = resample(standard, box).transpose(2, 1, 0)[
            np.newaxis, np.newaxis
        ]  # (1, 1, 64, 64, 64): x, y, z
        tissues = self._head.forward({"head": np.ascontiguousarray(head)})["tissues"]  # (1, 4, 64, 64, 64)
        shown = tissues[:, SHOWN] * tissues[:, [BRAIN]]  # (1, 2, 64, 64, 64)
        added = self._affine.forward({"tissues": shown})["affine"][0].reshape(3, 4)
        within = np.eye(4)
        within[:3] += added  # from the template's box to the head's, both from -1 to 1
        transform = np.linalg.inv(_to_unit_box(box)) @ within @ _to_unit_box(NET_BOX)
        probability = np.ascontiguousarray(tissues[0, BRAIN].transpose(2, 1, 0))  # z, y, x
        mask = resample(Volume(voxels=probability, lattice=box), volume.lattice) > self._mask_from
        return mask, transform

    def _apart(self, first: Matrix, second: Matrix) -> float:
        """Return how far apart two transforms put the template's brain, on average, mm."""
        every = 8
        z, y, x = np.nonzero(self._template_brain[::every, ::every, ::every])
        points = TEMPLATE.to_patient @ np.stack(
            [every * x, every * y, every * z, np.ones_like(x)]
        )  # (4, points)
        return float(np.linalg.norm(((first - second) @ points)[:3], axis=0).mean())


def read_volume(slices: Sequence[Instance], read: Read) -> Volume:
    """Read and decode the slices of a series, in the order of their lattice."""
    planes = [plane for instance in slices if (plane := plane_of(instance)) is not None]
    lattice = lattice_of(planes)
    if np.prod(lattice.size, dtype=np.int64) > MAX_VOXELS:
        raise DecodeError("over_limit", f"expected at most {MAX_VOXELS} voxels, found {lattice.size}")
    images = []
    for index, instance in enumerate(slices):
        image = decode(read(instance), where=f"{index:05d}")  # (rows, columns)
        if image.shape != (lattice.size[1], lattice.size[0]):
            raise DecodeError("undecodable", f"expected {lattice.size[1::-1]}, decoded {image.shape}")
        images.append(image)
    return assemble(lattice, images)


def net_box(lattice: Lattice) -> Lattice:
    """Return 64 points a side over a lattice, its axes turned to the nearest of left, front and head."""
    cosines = LEFT_FRONT_HEAD.T @ lattice.direction  # (3, 3): wanted axis, own axis
    order = max(permutations(range(3)), key=lambda p: sum(abs(cosines[i, p[i]]) for i in range(3)))
    signs = np.array([1.0 if cosines[i, own] >= 0 else -1.0 for i, own in enumerate(order)])
    own = list(order)
    reach = (np.asarray(lattice.size)[own] - 1) * lattice.spacing[own]  # mm, from first to last centre
    direction = lattice.direction[:, own]
    return Lattice(
        size=(NET_SIDE,) * 3,
        origin=lattice.origin + direction @ np.where(signs < 0, reach, 0.0),
        spacing=reach / (NET_SIDE - 1),
        direction=direction * signs,
    )


def coarsened(volume: Volume, least: float = 2.0) -> Volume:
    """Return a volume with voxels of at least `least` mm, for the fit."""
    spacing = np.maximum(volume.lattice.spacing, least)
    columns, rows, slices = (int(n) for n in np.ceil(volume.lattice.extent / spacing))
    lattice = Lattice(
        size=(columns, rows, slices),
        origin=volume.lattice.origin,
        spacing=spacing,
        direction=volume.lattice.direction,
    )
    return Volume(voxels=resample(volume, lattice), lattice=lattice)


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return the overlap of two masks, 0 to 1."""
    both = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / both if both else 0.0


def correlation(first: Features, second: Features, where: NDArray[np.bool_]) -> float:
    """Return the normalised cross-correlation of two volumes inside of a mask, -1 to 1; 0 where one is flat."""
    a, b = first[where].astype(np.float64), second[where].astype(np.float64)
    spread = float(a.std() * b.std())
    return float(((a - a.mean()) * (b - b.mean())).mean()) / spread if spread > 0 else 0.0


def _to_unit_box(lattice: Lattice) -> Matrix:
    """Return the (4, 4) matrix from mm to a box from -1 to 1, first centre to last."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag(2 / (np.asarray(lattice.size) - 1))
    matrix[:3, 3] = -1
    return matrix @ np.linalg.inv(lattice.to_patient)
