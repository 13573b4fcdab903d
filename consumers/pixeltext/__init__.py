"""Burned-in text: found in the pixels, and blanked there.

`pixel_cleaner` gives the engine who does it, in a child process (`child`): decode (`picture`), show (`render`), find
(`detector`), judge (`verdict`), know the device (`devices`), blank and look again (`cleaner`).
"""

from importlib.util import find_spec

from consumers.deid.engine import Profile
from consumers.deid.picture import PixelCleaner
from consumers.pixeltext.child import LONGEST_SECONDS, Child
from consumers.pixeltext.detector import MISSING
from schemas.errors import ProdromeError

__all__ = ["LONGEST_SECONDS", "pixel_cleaner"]


def pixel_cleaner(profile: Profile) -> PixelCleaner | None:
    """Return who cleans pixels under a profile; None where it does not ask for it.

    Raises
    ------
    schemas.errors.ProdromeError
        It does, and the detector is not installed: said at the start, and not by each picture.
    """
    if "clean_pixel_data" not in profile.options:
        return None
    if find_spec("rapidocr") is None:
        raise ProdromeError(MISSING)
    return Child().clean
