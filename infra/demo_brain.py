"""A T1 series of a head for the demo and the tests: a real, public head as DICOM, or a shared series anew.

1. `make_head`: the shipped example head (hippodeep, MIT) as a sagittal series, with planted identifiers; every
   attribute besides the voxels and where they lie is invented.
2. `sent_anew`: files of a series under UIDs and a patient of their own, so that each run of the demo is a new one.

Pure, but for `read_head` and the files that are read.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from infra.demo import DAY, date_and_time, plant, to_bytes, uid

HEAD: Final = Path(__file__).parent / "demo_head.npz"

#: keyword -> value, invented; a short gradient echo, as such a series usually is
INVENTED: Final[dict[str, Any]] = {
    "SpecificCharacterSet": "ISO_IR 192",
    "Modality": "MR",
    "ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM"],
    "PatientSex": "F",
    "BodyPartExamined": "HEAD",
    "Manufacturer": "prodrome demo",
    "ManufacturerModelName": "no real device",
    "MagneticFieldStrength": "3",
    "MRAcquisitionType": "3D",
    "ScanningSequence": ["GR", "IR"],
    "SequenceVariant": ["SK", "SP", "MP"],
    "ScanOptions": "",
    "RepetitionTime": "2300",
    "EchoTime": "2.98",
    "InversionTime": "900",
    "FlipAngle": "9",
    "EchoTrainLength": "1",
    "PatientPosition": "HFS",
    "PositionReferenceIndicator": "",
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": 16,
    "BitsStored": 12,
    "HighBit": 11,
    "PixelRepresentation": 0,
}

Head = Mapping[str, NDArray[Any]]


def read_head(path: Path = HEAD) -> Head:
    """Read the shipped head: ``voxels`` (z, y, x) int16; ``origin``, ``spacing`` (mm) and ``direction`` as in DICOM."""
    with np.load(path, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def make_head(head: Head, seed: str, patient: int = 7) -> tuple[list[Dataset], dict[str, str]]:
    """Return a sagittal series of a head, and what identifiers were planted in it, by place.

    Parameters
    ----------
    head : mapping
        From `read_head`.
    seed : str
        Other seeds give other UIDs and identifiers.
    patient : int
        A digit of the planted numbers.
    """
    token = hashlib.sha256(f"{seed}/head".encode()).hexdigest()[:8].upper()
    step, direction = head["spacing"], head["direction"]
    along = direction * step  # (3, 3) mm a step of x, y and z
    high, deep, wide = head["voxels"].shape
    series = []
    for x in range(wide):
        dataset = _described(seed, token, patient, x)
        # As sagittal slices usually lie: a row runs to the back, a column to the feet, against y and z of the head.
        dataset.ImagePositionPatient = [f"{v:.6g}" for v in head["origin"] + along @ (x, deep - 1, high - 1)]
        dataset.ImageOrientationPatient = [f"{v:g}" for v in (*-direction[:, 1], *-direction[:, 2])]
        dataset.PixelSpacing = [f"{step[2]:g}", f"{step[1]:g}"]
        dataset.SliceThickness = f"{step[0]:g}"
        pixels = head["voxels"][::-1, ::-1, x].astype(np.uint16)  # (rows, columns)
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.PixelData = pixels.tobytes()
        dataset["PixelData"].VR = "OW"
        series.append(dataset)
    canaries = {element.keyword: str(element.value) for element in series[0] if token in str(element.value)}
    return series, canaries


def sent_anew(files: Sequence[Path], seed: str) -> list[bytes]:
    """Return the files of one series as another patient's: new UIDs and PatientID, all else as it is."""
    made = []
    for number, path in enumerate(files):
        dataset = pydicom.dcmread(path)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid(f"{seed}/study"), uid(f"{seed}/series")
        dataset.FrameOfReferenceUID = uid(f"{seed}/frame")
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid(f"{seed}/{number}")
        dataset.PatientID = f"HEAD-{seed}"
        made.append(to_bytes(dataset))
    return made


def files_of(series: Sequence[Dataset]) -> list[bytes]:
    """Return the slices as Part 10 files."""
    return [to_bytes(dataset) for dataset in series]


def _described(seed: str, token: str, patient: int, number: int) -> Dataset:
    dataset = Dataset()
    for keyword, value in INVENTED.items():
        setattr(dataset, keyword, value)
    plant(dataset, patient, token)
    dataset.SeriesDescription = f"T1 MPRAGE sag {token}"
    begin = DAY + timedelta(hours=3)
    dataset.StudyDate, dataset.StudyTime = date_and_time(begin)
    dataset.SeriesDate, dataset.SeriesTime = dataset.StudyDate, dataset.StudyTime
    dataset.AcquisitionDate, dataset.AcquisitionTime = date_and_time(begin + timedelta(minutes=4))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid(f"{seed}/study"), uid(f"{seed}/series")
    dataset.FrameOfReferenceUID = uid(f"{seed}/frame")
    dataset.SeriesNumber, dataset.AcquisitionNumber, dataset.InstanceNumber = 3, 1, number + 1
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, uid(f"{seed}/{number}")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    return dataset
