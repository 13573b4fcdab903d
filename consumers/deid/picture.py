"""What is asked of who cleans pixels: the pixels as received and what the header says of them; pure values.

The engine does not look into pixels. Where a profile asks for it (`clean_pixel_data`) it hands a `Picture` to a
`PixelCleaner` and writes what comes back; `consumers.pixeltext` has one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from msgspec.structs import replace
from pydicom.datadict import keyword_for_tag

from consumers.deid.digest import little_endian
from consumers.deid.elements import PIXEL_DATA, Element
from consumers.deid.header import REGIONS, Header
from consumers.deid.jsonmodel import values_of
from consumers.deid.syntaxes import EXPLICIT_LITTLE, Syntax
from schemas.errors import Quarantine

#: what rules by device ask for
_DEVICE: Final = (
    0x00080008, 0x00080060, 0x00080070, 0x0008103E, 0x00081090, 0x00181030, 0x00280010, 0x00280011, 0x00281051,
    0x00280301, 0x00400310,
)  # fmt: skip
_PHOTOMETRIC, _PLANAR = 0x00280004, 0x00280006
_SIDES: Final = ("00186018", "0018601A", "0018601C", "0018601E")  # RegionLocationMinX0 and so on
#: what points into compressed pixels: (7FE0,0001) and (7FE0,0002)
OFFSETS: Final = frozenset({0x7FE00001, 0x7FE00002})


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """What is needed to find text and to blank it.

    Attributes
    ----------
    value : bytes
        Of PixelData; native in little endian, encapsulated with its items and without the element's header.
    names : frozenset of str
        Tokens that identify the patient, in lower case: text that resembles one is never let stay.
    header : mapping
        Keyword -> text, for the rules by device.
    regions : tuple
        Where an ultrasound's images lie on its screen: (left, top, right, bottom) in pixels, the last two beyond them.
    """

    transfer_syntax_uid: str
    native: bool
    rows: int
    columns: int
    samples: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    planar: int
    value: bytes = field(repr=False)
    names: frozenset[str] = field(default=frozenset(), repr=False)
    header: Mapping[str, str] = field(default_factory=dict, repr=False)
    regions: tuple[tuple[int, int, int, int], ...] = ()


class CleanedPixels(NamedTuple):
    """What became of a picture: how many boxes were blanked, in how many frames, and the native pixels if any was.

    `value` is in little endian, by pixel where it was compressed; compressed YBR is RGB then.
    """

    boxes: int
    frames: int
    value: bytes | None


PixelCleaner = Callable[[Picture], CleanedPixels]


def picture_of(header: Header, syntax: Syntax, names: frozenset[str]) -> Picture:
    """Return the picture of an instance; `names` as the residual search has them.

    Raises
    ------
    schemas.errors.Quarantine
        There are no pixels.
    """
    element = header.element(PIXEL_DATA)
    if element is None:
        raise Quarantine("burned_in_risk", "expected PixelData to clean")
    return Picture(
        transfer_syntax_uid=syntax.uid,
        native=element.fragments is None,
        rows=header.number(0x00280010),
        columns=header.number(0x00280011),
        samples=max(header.number(0x00280002), 1),
        frames=max(header.number(0x00280008), 1),
        bits_allocated=header.number(0x00280100),
        bits_stored=header.number(0x00280101),
        high_bit=header.number(0x00280102),
        signed=bool(header.number(0x00280103)),
        photometric=header.text(_PHOTOMETRIC),
        planar=header.number(_PLANAR),
        value=bytes(
            element.value if element.fragments is not None else little_endian(element, big=header.big)
        ),
        names=frozenset(name[1:] for name in names if name[0] in "TW"),
        header={keyword_for_tag(tag): _said(header, tag) for tag in _DEVICE},
        regions=_regions(header),
    )


def pixel_elements(picture: Picture, cleaned: CleanedPixels, syntax: Syntax) -> tuple[Element, ...]:
    """Return the elements that blanked pixels replace; none where nothing was blanked."""
    if cleaned.value is None:
        return ()
    word = picture.bits_allocated // 8
    element = Element(PIXEL_DATA, "OW", cleaned.value)
    value = little_endian(replace(element, vr="US"), big=True) if syntax.big and word == 2 else cleaned.value
    if picture.native:
        return (replace(element, value=value),)
    colour = picture.samples == 3
    photometric = "RGB" if colour and picture.photometric.startswith("YBR") else picture.photometric
    interleaved = (Element(_PLANAR, "US", b"\x00\x00"),) if colour else ()
    return (Element(_PHOTOMETRIC, "CS", photometric.encode()), *interleaved, element)


def syntax_behind(picture: Picture, cleaned: CleanedPixels) -> str:
    """Return the transfer syntax of the clean file: decoded pixels are explicit little endian."""
    return picture.transfer_syntax_uid if picture.native or cleaned.value is None else EXPLICIT_LITTLE


def _regions(header: Header) -> tuple[tuple[int, int, int, int], ...]:
    """Return the locations of (0018,6011), PS3.3 C.8.5.5.1.1; an item that does not say its own is left out."""
    found = header.by_tag.get(REGIONS)
    items = values_of(found.json) if found is not None else ()
    sides = ([item.get(tag, {}).get("Value", [None])[0] for tag in _SIDES] for item in items)
    known = (side for side in sides if all(isinstance(value, int) for value in side))
    return tuple((left, top, right + 1, bottom + 1) for left, top, right, bottom in known)


def _said(header: Header, tag: int) -> str:
    return str(header.number(tag)) if tag in (0x00280010, 0x00280011) else header.text(tag)
