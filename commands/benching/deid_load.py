"""What `bench-deid` de-identifies: a CT series, enhanced multi-frame objects, and every row of the table planted.

All values are invented and the same each time. Within the series differ the attributes that differ in a
scanner's: UIDs, numbers, times, positions, window, extreme values; the rest is as long and as private as in a
header of the field.
"""

import io
from typing import Final

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian

from infra.load import uid

SIDE: Final = 320  # 320 x 320 x 16 bit are 200 kB
ELEMENTS: Final = 258  # of a CT header, as `../design` asks; the rest is filled with private ones
_PRIVATE: Final = (0x0009, 0x0019, 0x0021, 0x0027, 0x0043, 0x0045)


def ct_series(instances: int, side: int = SIDE) -> list[bytes]:
    """Return the files of one CT series: 258 elements and `side` x `side` pixels of 16 bits each."""
    return [_file(_ct(number, side)) for number in range(instances)]


def enhanced(frames: int, number: int = 0, side: int = 16) -> bytes:
    """Return an enhanced MR file with `frames` frames of `side` x `side` pixels of 16 bits."""
    dataset = _base(EnhancedMRImageStorage, "MR", "enhanced", number)
    dataset.NumberOfFrames = frames
    dataset.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=uid("enhanced", "dimension"))]
    dataset.SharedFunctionalGroupsSequence = [
        _item(
            PixelMeasuresSequence=[_item(PixelSpacing=[1, 1], SliceThickness=1)],
            MRTimingAndRelatedParametersSequence=[_item(RepetitionTime=500, FlipAngle=30, EchoTrainLength=1)],
        )
    ]
    dataset.PerFrameFunctionalGroupsSequence = [_frame(frame) for frame in range(frames)]
    _add_pixels(dataset, side, frames, number)
    return _file(dataset)


def _frame(frame: int) -> Dataset:
    return _item(
        FrameContentSequence=[
            _item(
                FrameReferenceDateTime=f"202406011011{frame % 60:02d}.5",
                FrameAcquisitionDateTime=f"202406011011{frame % 60:02d}.5",
                DimensionIndexValues=[1, frame + 1],
                StackID="1",
                InStackPositionNumber=frame + 1,
                FrameComments=f"CANARY frame {frame}",
            )
        ],
        PlanePositionSequence=[_item(ImagePositionPatient=[0.5, 1.5, frame * 1.25])],
        PlaneOrientationSequence=[_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        FrameVOILUTSequence=[_item(WindowCenter=40 + frame % 3, WindowWidth=400)],
        PixelValueTransformationSequence=[_item(RescaleIntercept=0, RescaleSlope=1, RescaleType="US")],
        ReferencedImageSequence=[
            _item(ReferencedSOPClassUID=CTImageStorage, ReferencedSOPInstanceUID=uid("referenced", frame))
        ],
    )


def _ct(number: int, side: int) -> Dataset:
    dataset = _base(CTImageStorage, "CT", "ct", number)
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.InstitutionName, dataset.InstitutionAddress = "St. Canary Hospital", "Canary Road 1, 12345 Town"
    dataset.StationName, dataset.InstitutionalDepartmentName = "CT-CANARY-1", "Radiology CANARY"
    dataset.StudyDescription, dataset.SeriesDescription = "CT CHEST CANARY", "CHEST 5.0 B30f CANARY"
    dataset.ProtocolName, dataset.PerformedProcedureStepDescription = "CHEST ROUTINE", "CT CHEST"
    dataset.OperatorsName, dataset.PerformingPhysicianName = "Canary^Operator", "Canary^Performing"
    dataset.NameOfPhysiciansReadingStudy, dataset.RequestingPhysician = "Canary^Reading", "Canary^Requesting"
    dataset.PatientAge, dataset.PatientWeight, dataset.PatientSize = "057Y", 71.5, 1.74
    dataset.PatientAddress, dataset.PatientTelephoneNumbers = "Canary Street 7", "+49 351 4711"
    dataset.OtherPatientIDsSequence = [_item(PatientID="CANARY-77", TypeOfPatientID="TEXT")]
    dataset.ReferencedStudySequence = [_reference("1.2.840.10008.3.1.2.3.1", uid("study"))]
    dataset.ReferencedImageSequence = [_reference(CTImageStorage, uid("localizer", n)) for n in range(2)]
    code = _item(CodeValue="24627-2", CodingSchemeDesignator="LN", CodeMeaning="CT Chest")
    dataset.ProcedureCodeSequence = [code]
    dataset.RequestAttributesSequence = [
        _item(RequestedProcedureID="RP1", ScheduledProcedureStepID="SPS1", RequestedProcedureDescription="CT")
    ]
    for keyword, value in _SCAN.items():
        setattr(dataset, keyword, value)
    dataset.AcquisitionTime = dataset.ContentTime = f"1012{number % 60:02d}.250000"
    dataset.TableHeight, dataset.SliceLocation = 150.5, number * 5.0
    dataset.ImagePositionPatient = [-180.25, -180.25, number * 5.0]
    dataset.ExposureTime, dataset.XRayTubeCurrent, dataset.Exposure = (
        500,
        200 + number % 40,
        100 + number % 20,
    )
    dataset.WindowCenter, dataset.WindowWidth = [40 + number % 2, -600], [400, 1600]
    _add_pixels(dataset, side, 1, number)
    dataset.SmallestImagePixelValue, dataset.LargestImagePixelValue = number % 7, 4000 + number % 90
    present = sum(1 for _ in dataset.iterall())
    for missing in range(ELEMENTS - present):
        _add_private(dataset, missing)
    return dataset


_SCAN: Final = {
    "ScanOptions": "HELICAL MODE", "KVP": 120, "DataCollectionDiameter": 500, "ReconstructionDiameter": 360.5,
    "DeviceSerialNumber": "CANARY-4711", "SoftwareVersions": "syngo CT 2024A", "GantryDetectorTilt": 0,
    "DistanceSourceToDetector": 1040, "DistanceSourceToPatient": 570, "RotationDirection": "CW",
    "FilterType": "0", "GeneratorPower": 60, "FocalSpots": 1.2, "ConvolutionKernel": "B30f",
    "PatientPosition": "FFS", "SingleCollimationWidth": 1.2, "TotalCollimationWidth": 19.2, "TableSpeed": 23.0,
    "TableFeedPerRotation": 11.5, "SpiralPitchFactor": 0.6, "CTDIvol": 6.75, "RescaleIntercept": -1024,
    "RescaleSlope": 1, "RescaleType": "HU", "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    "PositionReferenceIndicator": "SN", "PixelSpacing": [0.7, 0.7], "SliceThickness": 5, "BodyPartExamined": "CHEST",
    "AcquisitionNumber": 1, "DateOfLastCalibration": "20240501", "TimeOfLastCalibration": "080000",
    "WindowCenterWidthExplanation": ["WINDOW1", "WINDOW2"], "LossyImageCompression": "00",
    "BurnedInAnnotation": "NO", "ContrastBolusAgent": "NONE", "StudyStatusID": "", "IssuerOfPatientID": "CANARY",
    "FillerOrderNumberImagingServiceRequest": "F1", "PlacerOrderNumberImagingServiceRequest": "P1",
}  # fmt: skip


def _base(sop_class: str, modality: str, seed: str, number: int) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid(seed, number)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid(seed, "study"), uid(seed, "series")
    dataset.FrameOfReferenceUID = uid(seed, "frame")
    dataset.ImageType, dataset.Modality = ["ORIGINAL", "PRIMARY", "AXIAL"], modality
    dataset.Manufacturer, dataset.ManufacturerModelName = "SYNTHETIC", "Scanner 3000"
    dataset.PatientName, dataset.PatientID = "Canary^Erika^^Dr", "PID-471108"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.PatientComments = "19610317", "F", "CANARY comment"
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = "20240601"
    dataset.StudyTime = dataset.SeriesTime = "101112"
    dataset.AccessionNumber, dataset.StudyID, dataset.ReferringPhysicianName = (
        "ACC4711",
        "1",
        "Canary^Referring",
    )
    dataset.SeriesNumber, dataset.InstanceNumber = 2, number + 1
    return dataset


def _add_pixels(dataset: Dataset, side: int, frames: int, number: int) -> None:
    dataset.Rows = dataset.Columns = side
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    pixels = np.random.default_rng(number).integers(0, 4096, (frames, side, side), np.uint16)
    dataset.PixelData = pixels.tobytes()


def _add_private(dataset: Dataset, number: int) -> None:
    group, element = _PRIVATE[number % len(_PRIVATE)], number // len(_PRIVATE)
    block = dataset.private_block(group, "CANARY PRIVATE 1", create=True)
    kinds = (("LO", f"CANARY {number}"), ("DS", "1.25"), ("SL", number), ("OB", bytes(12)), ("FD", 0.5))
    vr, value = kinds[number % len(kinds)]
    if element:
        block.add_new(element, vr, value)


def _item(**values: object) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _reference(sop_class: str, instance: str) -> Dataset:
    return _item(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=instance)


def _file(dataset: Dataset) -> bytes:
    target = io.BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()
