"""The only door to SimpleITK: sampling a volume on another lattice, and fitting one volume onto another.

One thread and a fixed seed, so that the same volumes give the same numbers. A transform is a (4, 4) matrix that
takes millimetres of the target to millimetres of the source, both as DICOM counts them.
"""

from typing import Any, Final

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from scoring.volume import Lattice, Matrix, Volume

SEED: Final = 20220614
#: Share of the fixed volume's voxels that are drawn at a level, by its shrinking. A tenth everywhere diverged on 4 of
#: 24 turned and scaled heads, since at the coarsest level that is a thousand voxels for 2,500 cells of a histogram.
SAMPLED: Final = {4: 0.8, 2: 0.3, 1: 0.1}
BINS: Final = 50
#: What is fitted one after the other: transform, shrinking and smoothing (mm) of its levels, most steps a level.
STAGES: Final = (
    (SimpleITK.Euler3DTransform, (4,), (4.0,), 60),
    (SimpleITK.Similarity3DTransform, (4, 2), (4.0, 2.0), 60),
    (SimpleITK.AffineTransform, (4, 2, 1), (4.0, 2.0, 0.0), 40),
)
#: mm. The first step of the optimiser, and the one at which it rests.
STEPS: Final = (1.0, 1e-2)

SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


class FitFailed(Exception):
    """The optimiser gave up: the volumes do not overlap, or one of them is flat."""


def resample(volume: Volume, target: Lattice, transform: Matrix | None = None) -> NDArray[np.float32]:
    """Return the voxels of a volume on another lattice, linearly; zero outside of it.

    Returns
    -------
    (slices, rows, columns) float32
        Of the target.
    """
    sampler = SimpleITK.ResampleImageFilter()
    sampler.SetReferenceImage(_empty(target))
    sampler.SetInterpolator(SimpleITK.sitkLinear)
    sampler.SetDefaultPixelValue(0.0)
    if transform is not None:
        sampler.SetTransform(_affine(transform))
    return np.asarray(SimpleITK.GetArrayFromImage(sampler.Execute(_image(volume))))


def fit(fixed: Volume, moving: Volume) -> tuple[Matrix, float]:
    """Fit a volume onto another: turned and shifted, then scaled, then sheared, by Mattes' mutual information.

    Returns
    -------
    transform : (4, 4)
        From mm of `fixed` to mm of `moving`.
    information : float
        Negative mutual information of the two, in nats: lower is better.

    Raises
    ------
    FitFailed
        Where there is no answer.

    References
    ----------
    Mattes et al., PET-CT image registration in the chest using free-form deformations. IEEE TMI 22 (2003) 120.
    """
    target, source = _image(fixed), _image(moving)
    try:
        found: Any = SimpleITK.CenteredTransformInitializer(
            target, source, SimpleITK.Euler3DTransform(), SimpleITK.CenteredTransformInitializerFilter.MOMENTS
        )
        information = 0.0
        for kind, shrink, smooth, most in STAGES:
            start = kind(3) if kind is SimpleITK.AffineTransform else kind()
            start.SetCenter(found.GetCenter())
            start.SetMatrix(found.GetMatrix())
            start.SetTranslation(found.GetTranslation())
            found, information = start, _fit(target, source, start, shrink, smooth, most)
    except RuntimeError as error:  # whatever ITK says of volumes it cannot fit; its text holds addresses
        raise FitFailed("expected two volumes that overlap, the registration found none") from error
    return _matrix(found), information


def _fit(
    target: Any, source: Any, transform: Any, shrink: tuple[int, ...], smooth: tuple[float, ...], most: int
) -> float:
    method = SimpleITK.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentagePerLevel([SAMPLED[level] for level in shrink], SEED)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(*STEPS, numberOfIterations=most)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(shrink)
    method.SetSmoothingSigmasPerLevel(smooth)
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetNumberOfThreads(1)
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(target, source)
    return float(method.GetMetricValue())


def _empty(lattice: Lattice) -> Any:
    image = SimpleITK.Image([int(n) for n in lattice.size], SimpleITK.sitkUInt8)
    return _placed(image, lattice)


def _image(volume: Volume) -> Any:
    return _placed(SimpleITK.GetImageFromArray(volume.voxels), volume.lattice)


def _placed(image: Any, lattice: Lattice) -> Any:
    image.SetOrigin(lattice.origin.tolist())
    image.SetSpacing(lattice.spacing.tolist())
    image.SetDirection(lattice.direction.ravel().tolist())
    return image


def _affine(transform: Matrix) -> Any:
    affine = SimpleITK.AffineTransform(3)
    affine.SetMatrix(transform[:3, :3].ravel().tolist())
    affine.SetTranslation(transform[:3, 3].tolist())
    return affine


def _matrix(transform: Any) -> Matrix:
    linear = np.array(transform.GetMatrix()).reshape(3, 3)
    centre, shift = np.array(transform.GetCenter()), np.array(transform.GetTranslation())
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = shift + centre - linear @ centre
    return matrix
