"""The reason words: one word for one cause, the same in events, dead letters, metrics and docs.

A reason says why something did not take the straight way. `RETRY` reasons end by themselves when the
cause heals; the others end as a record that a person can list and replay.
"""

from typing import Final, Literal

Kind = Literal["quarantine", "deadletter", "refused", "excluded"]

#: word -> (kind, one sentence for the operator)
REASONS: Final[dict[str, tuple[Kind, str]]] = {
    # quarantine: the bytes are kept, encrypted, until somebody decides
    "unknown_sop_class": ("quarantine", "The SOP class is not in the table of known IODs."),
    "burned_in_risk": (
        "quarantine",
        "The SOP class, ImageType or ConversionType makes burned-in text likely.",
    ),
    "burned_in_flag": ("quarantine", "BurnedInAnnotation says YES."),
    "encapsulated_document": ("quarantine", "An encapsulated document cannot be cleaned."),
    "opaque_content": ("quarantine", "Audio, raw data or surface scans cannot be cleaned."),
    "unreadable_dataset": ("quarantine", "The dataset cannot be parsed to its end."),
    "truncated": ("quarantine", "The dataset or its pixel data ends before its declared length."),
    "dataset_mismatch": ("quarantine", "SOP class or instance UID of command and dataset differ."),
    "unsupported_transfer_syntax": (
        "quarantine",
        "The transfer syntax cannot be read for de-identification.",
    ),
    "missing_uid": ("quarantine", "Study, Series or SOP Instance UID is absent."),
    "invalid_uid": ("quarantine", "A UID holds characters or a length that UIDs may not have."),
    "over_limit": ("quarantine", "The dataset exceeds a limit (depth, elements, inflated size)."),
    "directory_record": ("quarantine", "A media directory (DICOMDIR) is no image object."),
    "residual_identifier": ("quarantine", "An identifier was still found after de-identification."),
    "deid_failed": ("quarantine", "De-identification raised an error; nothing was passed on."),
    # dead letters: the message itself cannot be worked on
    "malformed_message": ("deadletter", "The message is not valid JSON of its schema."),
    "unknown_version": ("deadletter", "The message type or version is not known to this reader."),
    "missing_raw": ("deadletter", "The pointer's bytes are gone from the spool or bucket, or overwritten."),
    "raw_corrupt": ("deadletter", "The bytes at the pointer do not match their checksum."),
    "crashed_worker": (
        "deadletter",
        "The instance ended its worker process three times (in `prodrome deid`, once).",
    ),
    "over_budget": ("deadletter", "The instance took longer than its time budget."),
    "missing_object": ("deadletter", "A clean object or manifest is gone from the store."),
    "stage_failed": ("deadletter", "The stage raised an unexpected error for this message."),
    # excluded: what the catalog is told, so that nobody waits for an instance
    "duplicate": ("excluded", "The same content arrived before; no new effect."),
    "quarantined": ("excluded", "The instance waits in quarantine."),
    "dead": ("excluded", "The instance ended as a dead letter."),
    # refused at the edge: never acknowledged
    "no_space": ("refused", "The spool is over its watermark or the disk is full."),
    "sync_error": ("refused", "Writing or syncing the spool failed."),
    "edge_failed": ("refused", "The receiver raised an unexpected error for this instance."),
    "too_large": ("refused", "The object is over the size limit."),
    "sop_class_denied": ("refused", "The SOP class is on the deny-list."),
    "not_authorised": ("refused", "Calling AE title or address is not on the allow-list."),
    "unknown_called_ae": ("refused", "The called AE title is not ours."),
    "no_usable_uid": ("refused", "No SOP Instance UID to key on."),
    "strict_mismatch": ("refused", "Dataset unlike command, and the source is set to strict."),
    "draining": ("refused", "An operator drains the system; new associations come later."),
    "unknown_source": ("refused", "No source of the settings names the bucket and how the key begins."),
    "object_gone": ("refused", "The store has no such object, or not any more."),
    "object_denied": ("refused", "The store does not let us read the object, or has moved it to an archive."),
    "not_dicom": ("refused", "The object is neither DICOM nor a zip archive."),
    "bad_archive": ("refused", "The archive cannot be read, or is made to do harm."),
    "bad_member": ("refused", "A member of an archive cannot be read, or is made to do harm."),
    "local_limit": ("refused", "The association cap is reached."),
}

#: What an operator who has looked at an instance may answer for when it is released: that no text in its
#: pixels identifies anybody. Everything else is judged by the bytes alone.
ADMISSIBLE: Final = frozenset({"burned_in_risk", "burned_in_flag"})


def kind_of(reason: str) -> Kind:
    """Return the kind of a reason word; raise KeyError for a word that is not in the table."""
    return REASONS[reason][0]
