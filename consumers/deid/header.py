"""The few values of a received dataset that decide its way, and whether they may be used at all.

UIDs must be there, be UIDs, and agree with what the command said. Pixels are checked in `pixels.py`.
"""

import re
from dataclasses import dataclass
from typing import Final

from consumers.deid.cleaned import Cleaned
from consumers.deid.digest import little_endian
from consumers.deid.elements import Element
from consumers.deid.jsonmodel import plain_text
from consumers.deid.model import IntakeContext
from consumers.deid.triage import Signs
from schemas.errors import Quarantine

_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")
MAX_UID: Final = 64
SOP_CLASS_UID: Final = 0x00080016
REGIONS: Final = 0x00186011  # SequenceOfUltrasoundRegions
_MEDIA_END: Final = 0x00050000  # behind group 0004, which is of media directories
_PLANES: Final = 0x60000000  # groups of overlays
_PLANES_END: Final = 0x61000000


@dataclass(frozen=True, slots=True)
class Header:
    """The root elements of a dataset by tag, with typed reading."""

    found: list[Cleaned]
    by_tag: dict[int, Cleaned]
    big: bool

    @classmethod
    def of(cls, found: list[Cleaned], *, big: bool) -> "Header":
        """Index a dataset; quarantine where an attribute occurs twice: which one counts is anybody's guess."""
        by_tag: dict[int, Cleaned] = {}
        count = 0
        for one in found:
            if one.members:
                by_tag.update(one.members)
                count += len(one.members)
            else:
                by_tag[one.tag] = one
                count += 1
        if len(by_tag) != count:
            raise Quarantine("unreadable_dataset", "an attribute occurs twice")
        first = min([one.tag for one in found], default=_MEDIA_END)  # a run's is its least
        if first < _MEDIA_END and any(tag >> 16 == 0x0004 for tag in by_tag):
            raise Quarantine("directory_record", "group 0004 in the dataset")
        return cls(found, by_tag, big)

    def text(self, tag: int) -> str:
        """Return the text of an attribute, stripped; empty where it is absent."""
        one = self.by_tag.get(tag)
        return "" if one is None else one.received

    def element(self, tag: int) -> Element | None:
        """Return an element as received."""
        one = self.by_tag.get(tag)
        return None if one is None else one.element

    def number(self, tag: int) -> int:
        """Return the first value of a short (as unsigned) or an integer string; 0 where it is absent."""
        element = self.element(tag)
        if element is None or not element.value:
            return 0
        if element.vr in ("US", "SS"):
            return int.from_bytes(bytes(little_endian(element, big=self.big))[:2], "little")
        text = plain_text(element.value).split("\\")[0].strip()
        return int(text) if text.isdecimal() else 0

    def signs(self) -> Signs:
        """Return what the header says about burned-in text."""
        late = (tag for one in self.found if one.last >= _PLANES for tag in (one.members or (one.tag,)))
        planes = {tag >> 16 for tag in late if _PLANES <= tag < _PLANES_END and not (tag >> 16) & 1}
        return Signs(
            image_type=tuple(part.strip() for part in self.text(0x00080008).split("\\")),
            burned_in_annotation=self.text(0x00280301),
            conversion_type=self.text(0x00080064) if 0x00080064 in self.by_tag else None,
            ultrasound_regions=REGIONS in self.by_tag,
            descriptions=(self.text(0x0008103E), self.text(0x00204000), self.text(0x00181030)),
            overlay_in_pixels=any(
                group << 16 | 0x3000 not in self.by_tag and self.number(group << 16 | 0x0100) > 1
                for group in planes
            ),
        )


def check_uids(header: Header, context: IntakeContext) -> None:
    """Quarantine an instance whose UIDs are absent, no UIDs, or not those of the command."""
    said = {0x00080016: context.sop_class_uid, 0x00080018: context.sop_instance_uid}
    for tag in (0x00080016, 0x00080018, 0x0020000D, 0x0020000E):
        uid = header.text(tag)
        if not uid:
            raise Quarantine("missing_uid", f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is absent or empty")
        if len(uid) > MAX_UID or not _UID.fullmatch(uid):
            raise Quarantine("invalid_uid", f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is no UID")
        if said.get(tag, uid).rstrip("\x00 ") not in (uid, ""):
            raise Quarantine(
                "dataset_mismatch", f"({tag >> 16:04X},{tag & 0xFFFF:04X}) differs from the command"
            )
