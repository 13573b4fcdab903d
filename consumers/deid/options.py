"""The options that a profile may take (PS3.15 E.3), each with its code of CID 7050 and its column of the table.

`tables/options_2024b.csv` says for each option which attributes it keeps (K) or cleans (C); rows that are
younger than it have no option and stay with the profile's own action. What cleaning does to a value is in
`cleaning`, to content items in `structured`, to private elements in `private`.
"""

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from consumers.deid.packaged import table_rows
from schemas.errors import ProdromeError

OPTIONS_EDITION: Final = "2024b"


class Option(NamedTuple):
    """One option: the name that a profile says, its code in the scheme DCM, and the code's meaning."""

    name: str
    code: str
    meaning: str


BASIC: Final = Option("basic", "113100", "Basic Application Confidentiality Profile")
OPTIONS: Final = {
    option.name: option
    for option in (
        Option("clean_pixel_data", "113101", "Clean Pixel Data Option"),
        Option("clean_graphics", "113103", "Clean Graphics Option"),
        Option("clean_structured_content", "113104", "Clean Structured Content Option"),
        Option("clean_descriptors", "113105", "Clean Descriptors Option"),
        Option("full_dates", "113106", "Retain Longitudinal Temporal Information Full Dates Option"),
        Option("modified_dates", "113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
        Option("patient_characteristics", "113108", "Retain Patient Characteristics Option"),
        Option("device_identity", "113109", "Retain Device Identity Option"),
        Option("uids", "113110", "Retain UIDs Option"),
        Option("safe_private", "113111", "Retain Safe Private Option"),
        Option("institution_identity", "113112", "Retain Institution Identity Option"),
    )
}
#: options that are refused, and why
_REFUSED: Final = {
    "clean_recognizable_visual_features": "faces in head CT and MR are not removed, so it would be claimed and not done"
}
#: what (0028,0303) says under each
_DATES: Final = {"full_dates": "UNMODIFIED", "modified_dates": "MODIFIED"}


def checked_options(names: Collection[str]) -> frozenset[str]:
    """Return the options of a profile.

    Raises
    ------
    schemas.errors.ProdromeError
        One is unknown or refused, or two contradict each other.
    """
    for name in names:
        if name in _REFUSED:
            raise ProdromeError(f"the option {name} is refused: {_REFUSED[name]}")
        if name not in OPTIONS:
            raise ProdromeError(f"expected options among {', '.join(OPTIONS)}, came {name!r}")
    if len(_DATES.keys() & set(names)) == len(_DATES):
        raise ProdromeError("expected one of full_dates and modified_dates, came both")
    return frozenset(names)


def dates_word(options: frozenset[str]) -> str:
    """Return the value of LongitudinalTemporalInformationModified (PS3.15 E.2, E.3.6)."""
    return next((word for name, word in _DATES.items() if name in options), "REMOVED")


def codes_of(options: frozenset[str]) -> tuple[Option, ...]:
    """Return what (0012,0064) says: the profile, then its options by code."""
    return (BASIC, *(option for option in OPTIONS.values() if option.name in options))


def retained(options: frozenset[str]) -> Mapping[str, str]:
    """Return tag or name of a pattern row -> K or C under these options; where they differ, it is cleaned."""
    found: dict[str, str] = {}
    for row in table_rows(f"options_{OPTIONS_EDITION}.csv"):
        if row["option"] in options and found.get(row["tag"]) != "C":
            found[row["tag"]] = row["action"]
    return found
