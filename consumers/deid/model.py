"""What goes into de-identification and what comes out, as frozen values.

`IntakeContext` and `VaultEntry` are trusted and never cross to the clean side; of `Deidentified` the clean
side may see everything but `content_id`, `pixel_id` and `vault`. No rules and no I/O here.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec

#: the DICOM JSON model: eight hexadecimal digits of the tag -> {"vr": ..., "Value": [...]}
DicomJson = dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class IntakeContext:
    """What is known of an instance besides its dataset.

    Parameters
    ----------
    project : str
        The project that the door assigned.
    transfer_syntax_uid : str
        How the dataset bytes are encoded.
    sop_class_uid, sop_instance_uid : str
        As the C-STORE command (or the file meta) names them; the dataset must agree.
    issuer : str
        The domain that issued PatientID where the dataset names none.
    admit_burned_in : bool
        The source is trusted to send SC, US and their like without burned-in identifiers.
    admitted : frozenset of str
        Reasons of `triage` and `pixels` that an operator answers for, who has looked at the instance.
    """

    project: str
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    issuer: str = ""
    admit_burned_in: bool = False
    admitted: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class InstanceFacts:
    """What can be asked about an instance and what a model's intake needs: clean values and derived words.

    `age_band`, `sequence`, `contrast` and `device` are derived (see `derived.py`), and None where the profile does
    not permit them. Positions, spacing and orientation are as in DICOM, mm; `echo_time` in ms.

    `acquisition_rank` orders the acquisitions of one study and nothing else (see `order.py`); instances of equal
    rank are ordered by `acquisition_number`, `series_number`, `instance_number`: see `latest_key`.
    """

    modality: str | None
    rows: int | None
    columns: int | None
    number_of_frames: int | None
    bits_allocated: int | None
    photometric_interpretation: str | None
    image_type: tuple[str, ...]
    presentation_intent_type: str | None
    view_position: str | None
    image_laterality: str | None
    view_modifiers: tuple[str, ...]
    partial_view: bool
    acquisition_rank: int
    acquisition_number: int | None
    series_number: int | None
    instance_number: int | None
    age_band: str | None = None
    sequence: str | None = None
    contrast: str | None = None
    device: str | None = None
    image_position: tuple[float, ...] | None = None
    image_orientation: tuple[float, ...] | None = None
    pixel_spacing: tuple[float, ...] | None = None
    mr_acquisition_type: str | None = None
    scanning_sequence: tuple[str, ...] | None = None
    echo_time: float | None = None
    angio_flag: str | None = None
    images_in_acquisition: int | None = None

    @property
    def latest_key(self) -> tuple[int, int, int, int]:
        """Sort by this; the last is the latest acquisition."""
        numbers = (self.acquisition_number, self.series_number, self.instance_number)
        return (self.acquisition_rank, *(n or 0 for n in numbers))  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True, slots=True)
class VaultEntry:
    """What the way back needs. Trusted: it holds every identifier of the instance.

    `patient_module` and `study_module` are the whole modules as DICOM JSON (Unicode text), beside the
    `specific_character_set` in which they came, so that a result can be written as the PACS wrote them.
    `acquisition_time` is the sort key behind `InstanceFacts.acquisition_rank`, `YYYYMMDDHHMMSS[.f]`.
    `date_offset` is the number of days by which the clean dates were moved; None where they were not.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    frame_of_reference_uid: str | None
    patient_id: str
    issuer: str
    specific_character_set: tuple[str, ...]
    patient_module: DicomJson
    study_module: DicomJson
    accession_number: str | None
    accession_issuer: DicomJson | None
    request_attributes: tuple[DicomJson, ...]
    acquisition_time: str | None
    key_id: str
    date_offset: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Deidentified:
    """One instance after de-identification: the clean file, what may be said of it, and the way back.

    `parts` are the file, one behind the other; what is long among them are views into what was received, so that
    gigabytes of pixels need no second copy to be written. Where the file is cut is not compared: compare `part10`.
    """

    parts: tuple[bytes | memoryview, ...] = field(repr=False, compare=False)
    patient: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    frame_of_reference_uid: str | None
    sop_class_uid: str
    transfer_syntax_uid: str
    content_key: str
    pixel_key: str
    content_id: str = field(repr=False)
    pixel_id: str = field(repr=False)
    metadata_json: bytes
    manifest_json: bytes
    facts: InstanceFacts
    vault: VaultEntry = field(repr=False)

    @property
    def part10(self) -> bytes:
        """The clean file in one piece, made anew each time."""
        return b"".join(self.parts)

    @property
    def metadata(self) -> DicomJson:
        """The clean dataset in the DICOM JSON model, without bulk data."""
        return msgspec.json.decode(self.metadata_json)  # type: ignore[no-any-return]

    @property
    def manifest(self) -> dict[str, Any]:
        """What was done: profile, edition, digest, and `actions` by tag, nested as the dataset is; no value."""
        return msgspec.json.decode(self.manifest_json)  # type: ignore[no-any-return]
