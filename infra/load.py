"""A load of synthetic instances: many small MR images of many studies, and demo exams among them.

Deterministic in its seed; every value is invented. Used by the bench and by the tests that kill.
"""

import io
import uuid
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from infra.demo import make_exams, read_images, to_bytes

EXAMPLE = Path(__file__).resolve().parent.parent / "scoring" / "models" / "density" / "example"


def uid(*parts: object) -> UID:
    """Return a UID under 2.25 from its parts."""
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, ' '.join(map(str, parts))).int}")


def mr_instance(seed: str, study: int, number: int, side: int = 64) -> bytes:
    """Return one MR image of `side` x `side` pixels as a Part 10 file."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = uid(seed, study, number)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyInstanceUID = uid(seed, study)
    dataset.SeriesInstanceUID = uid(seed, study, "series")
    dataset.FrameOfReferenceUID = uid(seed, study, "frame")
    dataset.PatientName, dataset.PatientID = f"LOADTEST^{seed}^{study}", f"LT-{seed}-{study:05d}"
    dataset.PatientBirthDate, dataset.PatientSex = "19500101", "O"
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20240601"
    minutes, second = divmod(number % 86400, 60)
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = (
        f"{minutes // 60:02d}{minutes % 60:02d}{second:02d}"
    )
    dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName = "1", f"ACC{study:06d}", ""
    dataset.Modality, dataset.Manufacturer = "MR", "synthetic"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, number + 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "SE", "NONE", ""
    dataset.MRAcquisitionType, dataset.EchoTime, dataset.EchoTrainLength = "2D", "10", "1"
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [1, 1], "1"
    dataset.Rows = dataset.Columns = side
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    random = np.random.default_rng(study * 100_003 + number)
    dataset.PixelData = random.integers(0, 4096, side * side, np.uint16).tobytes()
    target = io.BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()


def write_mr(folder: Path, seed: str, instances: int, a_study: int = 24, side: int = 64) -> list[Path]:
    """Write MR instances, `a_study` of them a study, and return their paths in the order of making."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(instances):
        path = folder / f"mr-{i:06d}.dcm"
        path.write_bytes(mr_instance(seed, *divmod(i, a_study), side=side))
        paths.append(path)
    return paths


def write_exams(folder: Path, seed: str, patients: int) -> list[dict[str, Path]]:
    """Write demo exams and return their paths by view, one dictionary a patient."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for exam in make_exams(read_images(EXAMPLE), patients=patients, seed=seed):
        files = {view: folder / f"exam-{exam.patient}-{view}.dcm" for view in exam.datasets}
        for view, dataset in exam.datasets.items():
            files[view].write_bytes(to_bytes(dataset))
        written.append(files)
    return written


def study_uid_of(path: Path) -> str:
    """Return the Study Instance UID of a file."""
    return str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID)
