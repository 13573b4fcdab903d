"""What the demo's exams say besides their pixels: invented, and told as such.

The published exam is four images and nothing else. `INVENTED` gives every other attribute that the
Digital Mammography X-Ray IOD wants, `CANARIES` the planted identifiers of one patient. Nothing here
describes a person, a device or a place that exists.
"""

from typing import Any, Final

NOTICE: Final = (
    "One public exam (nyukat/breast_density_classifier, BSD-2-Clause), eight bits a pixel. Real: the pixels, "
    "laterality and view. Invented: every other attribute, and every identifier. Not for diagnosis."
)

#: keyword -> (value, why it is there); the same in every image
INVENTED: Final[dict[str, tuple[Any, str]]] = {
    "SpecificCharacterSet": ("ISO_IR 192", "The planted names hold letters beyond ASCII."),
    "Modality": ("MG", "The kind of image is real, the attribute was not published."),
    "PresentationIntentType": ("FOR PRESENTATION", "The published images are processed for reading."),
    "ImageType": (["ORIGINAL", "PRIMARY", ""], "Wanted by the DX Image module."),
    "PatientSex": ("F", "Wanted by the Patient module; not published."),
    "PatientOrientation": (["A", "R"], "By laterality and view; all published images face right."),
    "BodyPartExamined": ("BREAST", "As the DX Anatomy Imaged module recommends."),
    "Manufacturer": ("prodrome demo", "No device of this maker exists."),
    "ManufacturerModelName": ("no real device", "No such model exists."),
    "SoftwareVersions": ("0", "Wanted beside the model name."),
    "PatientPosition": ("", "Known to nobody."),
    "KVP": ("29", "A usual tube voltage, kV."),
    "ExposureTime": ("900", "A usual time, ms."),
    "XRayTubeCurrent": ("80", "A usual current, mA."),
    "AnodeTargetMaterial": ("TUNGSTEN", "A usual anode."),
    "FilterMaterial": ("RHODIUM", "A usual filter."),
    "BodyPartThickness": ("55", "A usual thickness, mm."),
    "CompressionForce": ("110", "A usual force, N."),
    "ImagerPixelSpacing": (["0.1", "0.1"], "Not published; 0.1 mm makes the image 26 x 20 cm."),
    "DetectorType": ("DIRECT", "A usual detector."),
    "DetectorTemperature": ("25.0", "A usual temperature, degrees C."),
    "FieldOfViewShape": ("RECTANGLE", "The images are rectangles."),
    "PositionerType": ("MAMMOGRAPHIC", "The only positioner of such images."),
    "PositionerPrimaryAngle": ("0", "0 degrees for CC; 45 is set for MLO."),
    "OrganExposed": ("BREAST", "Wanted by the Mammography Image module."),
    "BreastImplantPresent": ("NO", "None is seen; not published."),
    "PartialView": ("NO", "The published views are whole."),
    "PixelIntensityRelationship": ("LOG", "Wanted; not published."),
    "PixelIntensityRelationshipSign": (-1, "More exposure is darker: background is 0."),
    "RescaleIntercept": ("0", "Grey levels as published."),
    "RescaleSlope": ("1", "Grey levels as published."),
    "RescaleType": ("US", "Unspecified, as the IOD wants."),
    "PresentationLUTShape": ("IDENTITY", "Goes with MONOCHROME2."),
    "WindowCenter": ("128", "The whole range of eight bits."),
    "WindowWidth": ("256", "The whole range of eight bits."),
    "LossyImageCompression": ("00", "Whether an earlier step was lossy is not published."),
    "BurnedInAnnotation": ("NO", "No text was seen in the four images."),
    "QualityControlImage": ("NO", "An exam of a patient."),
}

#: keyword -> planted value; {n} is the patient's number, {token} letters that occur nowhere else.
#: Dates and times cannot hold the token: they are values too long to occur by chance.
CANARIES: Final[dict[str, str]] = {
    "PatientName": "Canary{token}^Beispiel{token}^Ö",
    "PatientID": "PID-{token}-{n}",
    "IssuerOfPatientID": "ISSUER-{token}",
    "PatientBirthDate": "195{n}0417",
    "PatientBirthTime": "0{n}4713.271828",
    "PatientBirthName": "Born{token}^Before",
    "PatientMotherBirthName": "Mother{token}^Of",
    "PatientAddress": "17 Address{token} Road",
    "PatientTelephoneNumbers": "+00 555 {token}",
    "OtherPatientNames": "Other{token}^Name",
    "MedicalRecordLocator": "MRL-{token}",
    "MilitaryRank": "RANK {token}",
    "Occupation": "WORK {token}",
    "PatientReligiousPreference": "Belief {token}",
    "AdditionalPatientHistory": "History told by {token}",
    "PatientComments": "Comment about {token}",
    "AccessionNumber": "ACC{token}",
    "StudyID": "SID{token}",
    "StudyDescription": "Screening of {token}, the sister of Jo{token}",
    "SeriesDescription": "Series for {token}",
    "ReferringPhysicianName": "Refer{token}^Doctor",
    "ReferringPhysicianAddress": "4 Referrer{token} Street",
    "ReferringPhysicianTelephoneNumbers": "+00 556 {token}",
    "PhysiciansOfRecord": "Record{token}^Doctor",
    "NameOfPhysiciansReadingStudy": "Reading{token}^Doctor",
    "PerformingPhysicianName": "Perform{token}^Doctor",
    "OperatorsName": "Operator{token}^Tech",
    "RequestingPhysician": "Request{token}^Doctor",
    "AdmittingDiagnosesDescription": "Admitted with {token}",
    "InstitutionName": "Hospital {token}",
    "InstitutionAddress": "1 Hospital{token} Square",
    "InstitutionalDepartmentName": "Department {token}",
    "StationName": "ST{token}",
    "DeviceSerialNumber": "SERIAL-{token}",
    "DetectorID": "DET-{token}",
    "ProtocolName": "Protocol {token}",
    "PerformedProcedureStepID": "PPS{token}",
    "PerformedProcedureStepDescription": "Step for {token}",
    "ImageComments": "Image of {token}",
    "RequestedProcedureDescription": "Procedure for {token}",
}

#: path of a nested element -> planted value
NESTED_CANARIES: Final[dict[str, str]] = {
    "RequestAttributesSequence.RequestedProcedureID": "RP-{token}",
    "RequestAttributesSequence.ScheduledProcedureStepID": "SPS-{token}",
    "RequestAttributesSequence.ScheduledProcedureStepDescription": "Scheduled for {token}",
    "RequestAttributesSequence.ReasonForTheRequestedProcedure": "Asked by {token}",
    "OtherPatientIDsSequence.PatientID": "OPID-{token}",
    "OtherPatientIDsSequence.IssuerOfPatientID": "OISSUER-{token}",
    "PerformingPhysicianIdentificationSequence.InstitutionName": "Practice {token}",
    "PerformingPhysicianIdentificationSequence.PersonTelephoneNumbers": "+00 557 {token}",
}

PRIVATE_CREATOR: Final = "PRODROME DEMO"

#: (element of the private block, VR, planted value)
PRIVATE_CANARIES: Final[tuple[tuple[int, str, str], ...]] = (
    (0x01, "LO", "Private {token}"),
    (0x02, "UT", "A longer private text that names {token}"),
)
PRIVATE_SEQUENCE: Final = 0x10
PRIVATE_NESTED_CANARY: Final = (0x11, "PN", "Hidden{token}^Private")
