"""De-identify one instance: bytes as received in, a clean file and its facts out, or a quarantine reason.

1. Walk the dataset once, within bounds (`walk`): each element is judged by the table, at every level alike
   (`levels`, `rules`, `cleaning`); what is cut, too deep or too big goes no further. By which table, and by how
   many days dates move, is said by the command and by the instance before; where the dataset says otherwise, it
   is walked again.
2. Check UIDs (`header`); let it pass as it is, or with its pixels cleaned, or not (`admission`).
3. Search the result for what identified the patient (`residual`).
4. Put in pseudonyms and method (`pseudonyms`), digest content and pixels (`digest`).
5. Write the clean file, its metadata and facts, and the vault's entry.

It fails closed: whatever goes wrong inside is `Quarantine("deid_failed")`, and no detail holds a value of the
dataset. Pixel data are carried byte for byte unless they are cleaned. Pure: no I/O; the same input and keys give
the same bytes.
"""

from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec

from consumers.deid.admission import Pixels, admit
from consumers.deid.cleaned import Cleaned, own
from consumers.deid.derived import derived_words
from consumers.deid.digest import content_id, pixel_id
from consumers.deid.elements import PIXEL_TAGS, Bytes, Dataset, inflate, read_dataset
from consumers.deid.facts import TAGS as FACT_TAGS
from consumers.deid.facts import facts_of
from consumers.deid.header import SOP_CLASS_UID, Header, check_uids
from consumers.deid.jsonmodel import object_of
from consumers.deid.keys import ProjectKeys
from consumers.deid.levels import root_level
from consumers.deid.model import Deidentified, DicomJson, InstanceFacts, IntakeContext, VaultEntry
from consumers.deid.order import acquisition_rank, acquisition_time
from consumers.deid.part10 import file_meta, read_part10, split_part10
from consumers.deid.picture import PixelCleaner
from consumers.deid.profile import Profile
from consumers.deid.profiles import basic_profile, load_profile
from consumers.deid.pseudonyms import (
    HISTORY,
    OWN,
    date_offset,
    method_text,
    own_elements,
    patient_pseudonym,
)
from consumers.deid.residual import check_output, check_residual
from consumers.deid.syntaxes import Syntax, syntax_of
from consumers.deid.vault import character_set, patient_module, request_attributes, study_module
from consumers.deid.walk import walk
from consumers.deid.writer import deflated
from schemas.errors import Quarantine

__all__ = [
    "Deidentified", "InstanceFacts", "IntakeContext", "Profile", "ProjectKeys", "VaultEntry",
    "basic_profile", "clean_file", "clean_object_key", "deidentify", "deidentify_file", "first_release_ids", "load_profile",
    "split_part10",
]  # fmt: skip

_BY_TAG = attrgetter("tag")
_TIMES = (0x0008002A, 0x00080022, 0x00080032, 0x00080023, 0x00080033, 0x00080021, 0x00080031)


def deidentify(
    raw: bytes,
    context: IntakeContext,
    profile: Profile,
    keys: ProjectKeys,
    cleaner: PixelCleaner | None = None,
    *,
    start: int = 0,
) -> Deidentified:
    """De-identify one dataset.

    Parameters
    ----------
    raw : bytes
        The dataset as received.
    context : IntakeContext
        What is known besides.
    profile : Profile
        What to do to which attribute.
    keys : ProjectKeys
        Of the project.
    cleaner : PixelCleaner, optional
        Who cleans pixels, for a profile with `clean_pixel_data`.
    start : int
        Where the dataset begins in `raw`: behind preamble and file meta, where it has them.

    Raises
    ------
    schemas.errors.Quarantine
        For anything doubtful; nothing may be passed on then.
    """
    try:
        return _deidentify(raw, start, context, profile, keys, cleaner)
    except Quarantine:
        raise
    except Exception as error:  # RecursionError and MemoryError among them
        # The text of a foreign error may quote the dataset: its type is all that leaves.
        raise Quarantine("deid_failed", type(error).__name__) from None


def clean_file(
    file_bytes: bytes,
    profile: Profile,
    keys: ProjectKeys,
    *,
    project: str = "default",
    admit_burned_in: bool = False,
    cleaner: PixelCleaner | None = None,
) -> Deidentified:
    """De-identify a DICOM file held in memory; raises as `deidentify`."""
    syntax, sop_class, instance, start = read_part10(file_bytes)
    context = IntakeContext(
        project=project,
        transfer_syntax_uid=syntax,
        sop_class_uid=sop_class,
        sop_instance_uid=instance,
        admit_burned_in=admit_burned_in,
    )
    return deidentify(file_bytes, context, profile, keys, cleaner, start=start)


def deidentify_file(file_bytes: bytes, profile: Profile, keys: ProjectKeys, **options: Any) -> bytes:
    """Return the clean file of a DICOM file held in memory; see `clean_file`."""
    return clean_file(file_bytes, profile, keys, **options).part10


def clean_object_key(
    *, content_id: str, pixel_id: str, transfer_syntax_uid: str, profile: Profile, keys: ProjectKeys
) -> str:
    """Return the keyed digest under which the clean object is stored: 64 hexadecimal digits."""
    return keys.keyed_digest("object", content_id, pixel_id, transfer_syntax_uid, profile.digest, keys.key_id)


def first_release_ids(
    raw: bytes, transfer_syntax_uid: str, profile: Profile, keys: ProjectKeys
) -> tuple[str, str]:
    """Return the content and pixel digest of a dataset that passed, as release 0.1.0 made them: SHA-256."""
    syntax = syntax_of(transfer_syntax_uid)
    level = root_level(profile.actions(""), keys, syntax)  # by whichever table: what is received is digested
    found = walk(inflate(raw) if syntax.deflated else raw, level)
    return content_id(found, first_release=True), pixel_id(found, big=syntax.big, first_release=True)


def _deidentify(
    raw: bytes,
    start: int,
    context: IntakeContext,
    profile: Profile,
    keys: ProjectKeys,
    cleaner: PixelCleaner | None,
) -> Deidentified:
    syntax = syntax_of(context.transfer_syntax_uid)
    data, start = (inflate(raw[start:]), 0) if syntax.deflated else (raw, start)
    header, days = _cleaned(data, start, context, syntax, profile, keys)
    check_uids(header, context)
    names = frozenset[str]().union(*[one.names for one in header.found])
    pixels = admit(header, context, profile, syntax, names, cleaner)

    check_residual(header.found, names)
    check_output(*_searchable(header.found), names)
    vault = _vault_entry(header, context, keys, days)
    patient = patient_pseudonym(vault.patient_id, vault.issuer, vault.study_instance_uid, keys)
    clean = _with_own(header, patient, profile, syntax, pixels)
    return _assembled(clean, header, pixels.syntax or syntax, patient, vault, profile, keys)


def _searchable(found: list[Cleaned]) -> tuple[list[bytes], list[Bytes]]:
    """Return the runs, which are the same in many instances, and what stands between them, without pixels."""
    steady = [one.written for one in found if one.members]
    between = [one for one in found if not one.members]
    long = [one.bulk for one in between if one.bulk and one.tag not in PIXEL_TAGS]
    return steady, [*(one.written for one in between), *long]


def _cleaned(
    data: bytes, start: int, context: IntakeContext, syntax: Syntax, profile: Profile, keys: ProjectKeys
) -> tuple[Header, int | None]:
    """Walk the dataset by the table of its SOP class and the offset of its patient, guessed first; return both."""
    guess = root_level(profile.actions(context.sop_class_uid.rstrip("\x00 ")), keys, syntax)
    guessed = guess.days
    header = Header.of(walk(data, guess, start), big=syntax.big)
    level = root_level(profile.actions(header.text(SOP_CLASS_UID)), keys, syntax)
    level.days = days = _date_offset(header, context, profile, keys)
    if level is not guess or days != guessed:
        header = Header.of(walk(data, level, start), big=syntax.big)
    return header, days


def _date_offset(header: Header, context: IntakeContext, profile: Profile, keys: ProjectKeys) -> int | None:
    if "modified_dates" not in profile.options:
        return None
    issuer = header.text(0x00100021) or context.issuer
    return date_offset(header.text(0x00100020), issuer, header.text(0x0020000D), keys)


def _with_own(
    header: Header, patient: str, profile: Profile, syntax: Syntax, pixels: Pixels
) -> list[Cleaned]:
    """Return what is written, in tag order, with pseudonym, method and cleaned pixels put in."""
    said = (header.by_tag.get(tag) for tag in HISTORY)
    before = tuple(e for one in said if one is not None for e in read_dataset(one.written, syntax))
    if before:
        made = _own_behind(before, patient, profile, syntax, cleaned=pixels.cleaned)
    else:
        made = _own(patient, profile, syntax, cleaned=pixels.cleaned)
    kept = (one for one in header.found if one.written and one.tag not in OWN)
    if pixels.cleaned:
        each = (part for one in kept for part in (one.members.values() or (one,)))
        kept = (one for one in each if one.written and one.tag not in pixels.gone)
    return sorted((*kept, *made, *pixels.own), key=_BY_TAG)


@lru_cache(maxsize=256)  # of patients: the instances of a study come together
def _own(patient: str, profile: Profile, syntax: Syntax, *, cleaned: bool) -> tuple[Cleaned, ...]:
    return _own_behind((), patient, profile, syntax, cleaned=cleaned)


def _own_behind(
    before: Dataset, patient: str, profile: Profile, syntax: Syntax, *, cleaned: bool
) -> tuple[Cleaned, ...]:
    applied = profile.options if cleaned else profile.options - {"clean_pixel_data"}
    return _said(own_elements(patient, method_text(profile), applied, before), syntax)


def _said(elements: Dataset, syntax: Syntax) -> tuple[Cleaned, ...]:
    return tuple(own(element, syntax) for element in elements)


def _assembled(
    clean: list[Cleaned],
    header: Header,
    syntax: Syntax,
    patient: str,
    vault: VaultEntry,
    profile: Profile,
    keys: ProjectKeys,
) -> Deidentified:
    content = content_id(header.found)
    pixels = pixel_id(header.found, big=syntax.big)
    frame = vault.frame_of_reference_uid
    uid = str if "uids" in profile.options else keys.pseudonymous_uid
    instance = uid(vault.sop_instance_uid)
    study_date = vault.study_module.get("00080020", {}).get("Value", [""])[0]
    rank = acquisition_rank(vault.acquisition_time, str(study_date), vault.study_instance_uid, keys.order)
    said = {tag: header.by_tag[tag].json for tag in FACT_TAGS if tag in header.by_tag}
    said |= {one.tag: one.json for one in clean if one.tag in said and not one.members}  # of cleaned pixels
    facts = msgspec.json.decode(object_of(said.values()))
    meta = file_meta(vault.sop_class_uid, instance, syntax.uid)
    parts = tuple(part for one in clean for part in (one.written, one.bulk) if part)
    return Deidentified(
        parts=(meta, deflated(b"".join(parts))) if syntax.deflated else (meta, *parts),
        patient=patient,
        study_instance_uid=uid(vault.study_instance_uid),
        series_instance_uid=uid(vault.series_instance_uid),
        sop_instance_uid=instance,
        frame_of_reference_uid=uid(frame) if frame else None,
        sop_class_uid=vault.sop_class_uid,
        transfer_syntax_uid=syntax.uid,
        content_key=keys.keyed_digest("content", content),
        pixel_key=keys.keyed_digest("pixel", pixels),
        content_id=content,
        pixel_id=pixels,
        metadata_json=object_of(one.json for one in clean),
        manifest_json=_manifest(header, clean, profile),
        facts=facts_of(facts, rank, derived_words(header, keys, profile.words)),
        vault=vault,
    )


def _manifest(header: Header, clean: list[Cleaned], profile: Profile) -> bytes:
    """Return what was done, in the order of tags; what was put in by us among it."""
    gone = (one for one in header.found if not one.written and one.tag not in OWN)
    members = (one.did for one in sorted((*clean, *gone), key=_BY_TAG))
    return _manifest_head(profile) + object_of(members) + b"}"


@lru_cache(maxsize=64)
def _manifest_head(profile: Profile) -> bytes:
    said = {
        "profile": profile.name,
        "edition": profile.edition,
        "digest": profile.digest,
        "options": sorted(profile.options),
    }
    return msgspec.json.encode(said)[:-1] + b',"actions":'


def _vault_entry(header: Header, context: IntakeContext, keys: ProjectKeys, days: int | None) -> VaultEntry:
    kept: DicomJson = {}
    for one in header.found:
        if one.vault:
            kept.update(one.vault)
    study = study_module(kept)
    return VaultEntry(
        study_instance_uid=header.text(0x0020000D),
        series_instance_uid=header.text(0x0020000E),
        sop_instance_uid=header.text(0x00080018),
        sop_class_uid=header.text(SOP_CLASS_UID),
        frame_of_reference_uid=header.text(0x00200052) or None,
        patient_id=header.text(0x00100020),
        issuer=header.text(0x00100021) or context.issuer,
        specific_character_set=character_set(header.text(0x00080005)),
        patient_module=patient_module(kept),
        study_module=study,
        accession_number=header.text(0x00080050) or None,
        accession_issuer=next(iter(study.get("00080051", {}).get("Value", [])), None),
        request_attributes=request_attributes(kept),
        acquisition_time=acquisition_time({tag: header.text(tag) for tag in _TIMES}),
        key_id=keys.key_id,
        date_offset=days,
    )
