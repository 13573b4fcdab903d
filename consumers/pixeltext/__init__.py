"""Burned-in text: found in the pixels, and blanked there.

`pixel_cleaner` gives the engine who does it, in a child process (`child`): decode (`picture`), show (`render`), find
(`detector`), judge (`verdict`), know the device (`devices`), blank and look again (`cleaner`).
"""

from consumers.deid.engine import Profile
from consumers.deid.picture import PixelCleaner
from consumers.pixeltext.child import LONGEST_SECONDS, Child

__all__ = ["LONGEST_SECONDS", "pixel_cleaner"]


def pixel_cleaner(profile: Profile) -> PixelCleaner | None:
    """Return who cleans pixels under a profile; None where it does not ask for it."""
    return Child().clean if "clean_pixel_data" in profile.options else None
