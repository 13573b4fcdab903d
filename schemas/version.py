"""The version of this software, where no package metadata is: an image holds the rooms alone. A test keeps it true."""

from typing import Final

VERSION: Final = "0.1.0"
