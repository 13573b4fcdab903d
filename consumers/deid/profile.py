"""What the profile is: the table of PS3.15 E.1-1, pinned by edition, and its digest."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """One de-identification profile; `digest` names it to the last row."""

    name: str
    edition: str
    rows: Mapping[int, str]
    digest: str


def basic_profile() -> Profile:
    """Return the Basic Application Level Confidentiality Profile."""
    raise NotImplementedError
