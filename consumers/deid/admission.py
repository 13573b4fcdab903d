"""May an instance pass: as it is, or with its pixels cleaned where the profile asks for it and somebody can?

Triage judges by the header (`triage`), the pixels are held against it (`pixels`), and what triage doubts goes to the
cleaner (`picture`). What comes back, and that it was searched, is put in by the engine.
"""

from typing import Final, NamedTuple

from consumers.deid.cleaned import Cleaned, own
from consumers.deid.elements import PIXEL_DATA, Element
from consumers.deid.header import SOP_CLASS_UID, Header
from consumers.deid.model import IntakeContext
from consumers.deid.picture import OFFSETS, PixelCleaner, picture_of, pixel_elements, syntax_behind
from consumers.deid.pixels import check_pixels
from consumers.deid.profile import Profile
from consumers.deid.syntaxes import Syntax, syntax_of
from consumers.deid.triage import CLEANABLE, triage
from schemas.errors import Quarantine

BURNED_IN_ANNOTATION: Final = 0x00280301


class Pixels(NamedTuple):
    """What cleaning the pixels put in the place of what was received: nothing, where they were not cleaned."""

    own: tuple[Cleaned, ...] = ()
    gone: frozenset[int] = frozenset()
    syntax: Syntax | None = None

    @property
    def cleaned(self) -> bool:
        """Whether the pixels were searched, and blanked where that was needed."""
        return self.syntax is not None


def admit(
    header: Header,
    context: IntakeContext,
    profile: Profile,
    syntax: Syntax,
    names: frozenset[str],
    cleaner: PixelCleaner | None,
) -> Pixels:
    """Let an instance pass as it is, or have its pixels cleaned.

    Raises
    ------
    schemas.errors.Quarantine
        Neither is possible.
    """
    signs = header.signs()
    wanted = None
    try:
        triage(
            header.text(SOP_CLASS_UID),
            signs,
            admit_burned_in=context.admit_burned_in,
            admitted=context.admitted,
        )
    except Quarantine as doubt:
        wanted = cleaner if "clean_pixel_data" in profile.options else None
        if wanted is None or doubt.reason not in CLEANABLE or signs.overlay_in_pixels:
            raise
    check_pixels(header, syntax.uid, context.admitted)
    if wanted is None:
        return Pixels()
    picture = picture_of(header, syntax, names)
    cleaned = wanted(picture)
    behind = syntax_of(syntax_behind(picture, cleaned))
    elements = (*pixel_elements(picture, cleaned, behind), Element(BURNED_IN_ANNOTATION, "CS", b"NO"))
    did = f"C {cleaned.boxes} boxes in {cleaned.frames} frames"
    own_elements = tuple(own(e, behind, did if e.tag == PIXEL_DATA else "own") for e in elements)
    gone = frozenset(e.tag for e in elements) | (OFFSETS if behind is not syntax else frozenset())
    return Pixels(own_elements, gone, behind)
