"""Exams for the scoring tests: the demo's datasets, and what intake would know of them."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from infra.demo import Exam, make_exams, read_images, to_bytes
from scoring.intake import Instance
from scoring.score import MODELS, Model, Preparer, load, load_preparer

DENSITY = MODELS / "density"
SHARED = Path(__file__).parents[4] / "shared" / "data" / "model-density"


def instance_of(dataset: Dataset, **changes: object) -> Instance:
    """What the clean side would know of a dataset."""
    modifiers = dataset.ViewCodeSequence[0].get("ViewModifierCodeSequence") or []
    facts: dict[str, object] = {
        "sop_instance_uid": str(dataset.SOPInstanceUID),
        "series_instance_uid": str(dataset.SeriesInstanceUID),
        "sop_class_uid": str(dataset.SOPClassUID),
        "transfer_syntax_uid": str(dataset.file_meta.TransferSyntaxUID),
        "content_key": f"content of {dataset.SOPInstanceUID}",
        "pixel_key": hashlib.sha256(dataset.PixelData).hexdigest(),
        "modality": dataset.Modality,
        "rows": dataset.Rows,
        "columns": dataset.Columns,
        "bits_allocated": dataset.BitsAllocated,
        "photometric_interpretation": dataset.PhotometricInterpretation,
        "presentation_intent_type": dataset.PresentationIntentType,
        "view_position": dataset.ViewPosition,
        "image_laterality": dataset.ImageLaterality,
        "view_modifiers": tuple(item.CodeMeaning for item in modifiers),
        "partial_view": dataset.PartialView,
        "acquisition_rank": int(dataset.AcquisitionTime[:6]),
        "instance_number": int(dataset.InstanceNumber),
    }
    return Instance(**(facts | changes))  # type: ignore[arg-type]


class Clinic:
    """Datasets in memory, as instances and as a reader of their bytes."""

    def __init__(self, datasets: Mapping[str, Dataset]) -> None:
        self.instances = [instance_of(dataset) for dataset in datasets.values()]
        self._files = {str(dataset.SOPInstanceUID): to_bytes(dataset) for dataset in datasets.values()}

    def read(self, instance: Instance) -> bytes:
        """The bytes of an instance."""
        return self._files[instance.sop_instance_uid]


@pytest.fixture(scope="session")
def images() -> Mapping[str, np.ndarray]:
    """The published images by view."""
    return read_images(DENSITY / "example")


@pytest.fixture(scope="session")
def exams(images: Mapping[str, np.ndarray]) -> list[Exam]:
    """The demo's two exams."""
    return make_exams(images)


@pytest.fixture(scope="session")
def density() -> Model:
    """The breast density model, loaded once."""
    return load(DENSITY)


@pytest.fixture(scope="session")
def preparer() -> Preparer:
    """The CPU's half of the breast density model."""
    return load_preparer(DENSITY)


@pytest.fixture
def facts(exams: list[Exam]) -> list[Instance]:
    """The four instances of the first exam."""
    return [instance_of(dataset) for dataset in exams[0].datasets.values()]


@pytest.fixture
def clinic() -> Callable[[Mapping[str, Dataset]], Clinic]:
    """Make instances and a reader from datasets."""
    return Clinic


@pytest.fixture
def know() -> Callable[..., Instance]:
    """Make an instance from a dataset."""
    return instance_of


@pytest.fixture
def package() -> Path:
    """The shipped density package."""
    return DENSITY


@pytest.fixture
def published() -> Path:
    """What the authors published; absent on a machine without the shared folder."""
    if not SHARED.is_dir():
        pytest.skip(f"needs {SHARED}, which is not on this machine")
    return SHARED
