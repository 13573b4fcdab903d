"""Fresh instances for the price of a copy: one encoded dataset whose identifying values are overwritten in place.

1. A dataset is encoded once, with values of fixed width where UIDs, patient and accession number stand.
2. `Stamped.dataset` copies the bytes and writes those of one instance over them.

The pixels are the same in all instances of one stamp; every value is invented. For the bench and its growth
runs, where making each instance with pydicom would cost more than the system that is measured.
"""

import hashlib
import io
from typing import Final

import pydicom

from infra.load import mr_instance
from schemas.dicom_reader import read_file_header

#: As long as any UID under 2.25 made of 16 bytes.
_UID_DIGITS: Final = 39
_PATIENT_DIGITS: Final = 12
_NUMBER_DIGITS: Final = 6


class Stamped:
    """A pool of one MR image.

    Parameters
    ----------
    seed : str
        UIDs differ between seeds.
    side : int
        Pixels a side, 16 bits each.
    """

    def __init__(self, seed: str, side: int) -> None:
        self._seed = seed
        dataset = pydicom.dcmread(io.BytesIO(mr_instance("stamp", 0, 0, side=side)))
        self.sop_class_uid = str(dataset.SOPClassUID)
        self.transfer_syntax_uid = str(dataset.file_meta.TransferSyntaxUID)
        marks = {
            name: f"2.25.{i}{'7' * (_UID_DIGITS - 1)}"
            for i, name in enumerate(("sop", "study", "series", "frame"), 1)
        }
        dataset.SOPInstanceUID, dataset.StudyInstanceUID = marks["sop"], marks["study"]
        dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = marks["series"], marks["frame"]
        marks["patient"] = f"LT{'8' * _PATIENT_DIGITS}"
        marks["accession"] = f"AC{'8' * _PATIENT_DIGITS}"
        marks["number"] = "9" * _NUMBER_DIGITS
        dataset.PatientID, dataset.PatientName = marks["patient"], "LOADTEST^STAMPED"
        dataset.AccessionNumber, dataset.InstanceNumber = marks["accession"], marks["number"]
        target = io.BytesIO()
        pydicom.dcmwrite(target, dataset)
        encoded = target.getvalue()
        self._bytes = encoded[read_file_header(encoded).dataset_offset :]
        self._places = {name: self._bytes.index(mark.encode()) for name, mark in marks.items()}

    def study_uid(self, study: int) -> str:
        """Return the UID of a study."""
        return self._uid("study", study)

    def instance_uid(self, study: int, number: int) -> str:
        """Return the UID of an instance."""
        return self._uid("instance", study, number)

    def dataset(self, study: int, number: int) -> bytearray:
        """Return the encoded dataset of one instance, without file meta."""
        data = bytearray(self._bytes)
        values = {
            "sop": self.instance_uid(study, number),
            "study": self.study_uid(study),
            "series": self._uid("series", study),
            "frame": self._uid("frame", study),
            "patient": f"LT{study:0{_PATIENT_DIGITS}d}",
            "accession": f"AC{study:0{_PATIENT_DIGITS}d}",
            "number": f"{number + 1:0{_NUMBER_DIGITS}d}",
        }
        for name, text in values.items():
            at = self._places[name]
            data[at : at + len(text)] = text.encode()
        return data

    def _uid(self, *parts: object) -> str:
        digest = hashlib.blake2b(f"{self._seed} {parts}".encode(), digest_size=15).digest()
        return f"2.25.1{int.from_bytes(digest):0{_UID_DIGITS - 1}d}"
