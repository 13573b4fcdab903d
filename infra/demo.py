"""Synthetic mammography exams for the demo and the tests: values in, pydicom datasets out.

1. `make_exams`: for each patient four views, from the four published images.
2. The first patient has the pixels as published; every other one a stated transform of them, which
   moves the prediction, so that a mix of two patients shows.
3. Planted identifiers (`Exam.canaries`) lie in every place where identifiers lie in practice.
4. `spot_view`, `repeated_view` and `missing_view` are what else happens in a mammography room.

Pure and deterministic: the same arguments give the same bytes. See `infra.demo_attributes` for what is
invented (nearly everything).
"""

import copy
import hashlib
import io
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian

from infra import demo_attributes as told
from infra.png import read_png

MG_FOR_PRESENTATION: Final = UID("1.2.840.10008.5.1.4.1.1.1.2")
VIEWS: Final = ("L-CC", "R-CC", "L-MLO", "R-MLO")
DAY: Final = datetime(2024, 6, 13, 8, 47, 11, 314159, tzinfo=UTC)

#: view position -> (code, meaning, degrees, PatientOrientation of a left and of a right view)
POSITIONS: Final = {
    "CC": ("399162004", "cranio-caudal", "0", (["A", "R"], ["A", "L"])),
    "MLO": ("399368009", "medio-lateral oblique", "45", (["A", "FR"], ["A", "FL"])),
}
BREAST: Final = ("76752008", "Breast")
SPOT: Final = ("399055006", "spot compression")

#: grey levels of later patients are raised to this power (of 0..1), a hundredth more for each
GAMMA: Final = 1.25
REPEAT_GAMMA: Final = 1.5

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Exam:
    """One patient's exam.

    `datasets` by view; `canaries` by where they are planted, values that a byte search (UTF-8) finds in
    the files and must find nowhere on the clean side; `statement` says what the pixels are.
    """

    patient: int
    datasets: dict[str, Dataset]
    canaries: dict[str, str]
    statement: str
    seed: str


def read_images(folder: Path) -> dict[str, Pixels]:
    """Read the published exam's four PNG, by view: (2600, 2000) uint8. The only I/O of this module."""
    return {view: read_png((folder / f"{view}.png").read_bytes()) for view in VIEWS}


def make_exams(
    images: Mapping[str, Pixels], patients: int = 2, seed: str = "demo", day: datetime = DAY
) -> list[Exam]:
    """Make one exam a patient.

    Parameters
    ----------
    images : mapping
        (rows, columns) uint8 by view, from `read_images`.
    patients : int
        How many; the first has the published pixels.
    seed : str
        Other seeds give other UIDs and identifiers.
    day : datetime
        Beginning of the first exam; each later one begins 20 minutes after.

    Returns
    -------
    list of Exam
    """
    return [
        _make_exam(images, patient, seed, day + timedelta(minutes=20 * patient))
        for patient in range(patients)
    ]


def spot_view(exam: Exam, view: str = "L-CC") -> Dataset:
    """Return a spot compression of a view, a minute after it: an image that no selection may take."""
    dataset = _again(exam, view, "spot", minutes=1)
    dataset.ViewCodeSequence[0].ViewModifierCodeSequence = Sequence([_code(*SPOT)])
    return dataset


def repeated_view(exam: Exam, view: str = "L-CC", minutes: int = 5) -> Dataset:
    """Return the same view acquired again some minutes later, with other pixels (a stated gamma of 1.5)."""
    dataset = _again(exam, view, f"repeat-{minutes}", minutes)
    pixels = np.frombuffer(dataset.PixelData, np.uint8)
    dataset.PixelData = gamma(pixels, REPEAT_GAMMA).tobytes()
    return dataset


def missing_view(exam: Exam, view: str = "R-MLO") -> Exam:
    """Return the exam without one view."""
    return replace(exam, datasets={name: dataset for name, dataset in exam.datasets.items() if name != view})


def to_bytes(dataset: Dataset) -> bytes:
    """Return a dataset as a Part 10 file."""
    target = io.BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()


def gamma(pixels: Pixels, power: float) -> Pixels:
    """Raise grey levels, as shares of 255, to a power; 0 and 255 stay."""
    levels = np.rint(255 * (np.arange(256) / 255) ** power).astype(np.uint8)
    return np.asarray(levels[pixels])


def patient_gamma(patient: int) -> float:
    """Return the power that a patient's grey levels are raised to."""
    return 1.0 if patient == 0 else GAMMA + 0.01 * (patient - 1)


def _make_exam(images: Mapping[str, Pixels], patient: int, seed: str, begin: datetime) -> Exam:
    token = hashlib.sha256(f"{seed}/{patient}".encode()).hexdigest()[:8].upper()
    canaries = _canaries(patient, token)
    power = patient_gamma(patient)
    datasets = {}
    for number, view in enumerate(VIEWS, start=1):
        dataset = _describe(view, f"{seed}/{patient}", number)
        _set_time(dataset, begin, begin + timedelta(seconds=70 * number))
        plant(dataset, patient, token)
        _set_pixels(dataset, images[view] if power == 1.0 else gamma(images[view], power))
        datasets[view] = dataset
    statement = "pixels as published" if power == 1.0 else f"grey levels raised to the power {power:.2f}"
    canaries |= _canaries_of_all_views(datasets[VIEWS[0]])
    return Exam(patient=patient, datasets=datasets, canaries=canaries, statement=statement, seed=seed)


def _describe(view: str, seed: str, number: int) -> Dataset:
    """Everything about one image that is neither identifier nor pixel."""
    laterality, position = view.split("-")
    code, meaning, degrees, orientations = POSITIONS[position]
    dataset = Dataset()
    for keyword, (value, _why) in told.INVENTED.items():
        setattr(dataset, keyword, value)
    dataset.PositionerPrimaryAngle = degrees
    dataset.PatientOrientation = orientations[laterality == "R"]
    dataset.ImageLaterality = laterality
    dataset.ViewPosition = position
    dataset.ViewCodeSequence = Sequence([_code(code, meaning)])
    dataset.ViewCodeSequence[0].ViewModifierCodeSequence = Sequence([])
    dataset.AnatomicRegionSequence = Sequence([_code(*BREAST)])
    dataset.AcquisitionContextSequence = Sequence([])
    dataset.SeriesNumber, dataset.InstanceNumber = 1, number
    dataset.StudyInstanceUID = uid(f"{seed}/study")
    dataset.SeriesInstanceUID = uid(f"{seed}/series")
    dataset.SOPClassUID = MG_FOR_PRESENTATION
    _set_instance_uid(dataset, uid(f"{seed}/{view}"))
    return dataset


def _set_time(dataset: Dataset, begin: datetime, acquired: datetime) -> None:
    dataset.StudyDate, dataset.StudyTime = date_and_time(begin)
    dataset.SeriesDate, dataset.SeriesTime = dataset.StudyDate, dataset.StudyTime
    dataset.PerformedProcedureStepStartDate = dataset.StudyDate
    dataset.PerformedProcedureStepStartTime = dataset.StudyTime
    _set_acquired(dataset, acquired)


def _set_acquired(dataset: Dataset, acquired: datetime) -> None:
    dataset.AcquisitionDate, dataset.AcquisitionTime = date_and_time(acquired)
    dataset.ContentDate, dataset.ContentTime = date_and_time(acquired)


def date_and_time(at: datetime) -> tuple[str, str]:
    """Return a moment as DICOM writes it, date and time."""
    return f"{at:%Y%m%d}", f"{at:%H%M%S.%f}"


def _canaries(patient: int, token: str) -> dict[str, str]:
    templates = told.CANARIES | told.NESTED_CANARIES
    templates |= {f"private {element:02X}": text for element, _vr, text in told.PRIVATE_CANARIES}
    templates |= {"private sequence": told.PRIVATE_NESTED_CANARY[2]}
    return {place: text.format(token=token, n=patient % 10) for place, text in templates.items()}


def _canaries_of_all_views(dataset: Dataset) -> dict[str, str]:
    keywords = ("StudyInstanceUID", "SeriesInstanceUID", "StudyDate", "StudyTime")
    return {keyword: str(dataset[keyword].value) for keyword in keywords}


def plant(dataset: Dataset, patient: int, token: str) -> None:
    """Plant one patient's identifiers in every place where identifiers lie in practice."""
    values = {"token": token, "n": patient % 10}
    for keyword, text in told.CANARIES.items():
        setattr(dataset, keyword, text.format(**values))
    for path, text in told.NESTED_CANARIES.items():
        sequence, keyword = path.split(".")
        if sequence not in dataset:
            setattr(dataset, sequence, Sequence([Dataset()]))
        setattr(dataset[sequence].value[0], keyword, text.format(**values))
    dataset.OtherPatientIDsSequence[0].TypeOfPatientID = "TEXT"
    dataset.PerformingPhysicianIdentificationSequence[0].PersonIdentificationCodeSequence = Sequence(
        [_code(f"P{token}", f"Person {token}", scheme="99DEMO")]
    )
    _plant_private(dataset, values)


def _plant_private(dataset: Dataset, values: Mapping[str, Any]) -> None:
    block = dataset.private_block(0x0029, told.PRIVATE_CREATOR, create=True)
    for element, vr, text in told.PRIVATE_CANARIES:
        block.add_new(element, vr, text.format(**values))
    item = Dataset()
    element, vr, text = told.PRIVATE_NESTED_CANARY
    item.private_block(0x0029, told.PRIVATE_CREATOR, create=True).add_new(element, vr, text.format(**values))
    block.add_new(told.PRIVATE_SEQUENCE, "SQ", Sequence([item]))


def _set_pixels(dataset: Dataset, pixels: Pixels) -> None:
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB"


def _again(exam: Exam, view: str, name: str, minutes: int) -> Dataset:
    """A further image of a view, some minutes after the exam's last one."""
    dataset = copy.deepcopy(exam.datasets[view])
    last = max(f"{d.AcquisitionDate}{d.AcquisitionTime}" for d in exam.datasets.values())
    acquired = datetime.strptime(last, "%Y%m%d%H%M%S.%f").replace(tzinfo=UTC) + timedelta(minutes=minutes)
    _set_acquired(dataset, acquired)
    dataset.InstanceNumber = len(VIEWS) + minutes
    _set_instance_uid(dataset, uid(f"{exam.seed}/{exam.patient}/{view}/{name}"))
    return dataset


def _set_instance_uid(dataset: Dataset, instance: UID) -> None:
    dataset.SOPInstanceUID = instance
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MG_FOR_PRESENTATION, instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta


def uid(name: str) -> UID:
    """Return a UID under 2.25 that depends on the name alone."""
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, f'prodrome-demo:{name}').int}")


def _code(value: str, meaning: str, scheme: str = "SCT") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item
