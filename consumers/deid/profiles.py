"""Which profiles there are: those that ship (`profiles/*.toml`), and a site's own, a TOML file on top of one.

    name = "our-registry"
    base = "research"                  # basic, safe-harbor or research
    claim = "approved under protocol 12"
    options = ["institution_identity"] # besides those of the base
    vocabulary = ["buik", "hersenen"]  # words of the site's language that may stay in descriptions
    [attributes]                       # by keyword: X, Z, D, U, C or K
    StationName = "X"
    [private."ACME 1.0"]               # safe private elements: group and last two digits -> VR
    "0019,23" = "DS"

What identifies a person directly stays removed whatever a file says.
"""

import json
import re
import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from pydicom.datadict import DicomDictionary, tag_for_keyword

from consumers.deid.derived import WORDS
from consumers.deid.elements import LONG_VRS, SHORT_VRS
from consumers.deid.options import checked_options, retained
from consumers.deid.packaged import table_rows, table_text
from consumers.deid.private import SafeElement, SafePrivate, standard_private
from consumers.deid.profile import EDITION, Action, Profile
from consumers.deid.pseudonyms import OWN
from schemas.errors import ProdromeError

SHIPPED: Final = ("basic", "safe-harbor", "research")
#: VR -> code of attributes that no row of the table names
UNLISTED: Final = {"PN": "X", "DA": "X", "DT": "X", "TM": "X", "UI": "U"}
#: UIDs that name kinds of things, not things: classes, syntaxes, coding schemes
_KINDS: Final = re.compile(r"SOPClass|TransferSyntax|^CodingSchemeUID$|^ContextUID$|^MappingResourceUID$")
_TEXT_VALUE: Final = 0x0040A160
#: rows of our own: text of a content item that stands outside of ContentSequence, where alone the standard reaches it;
#: and what a sender says of private blocks that are gone, or stay by a table of ours
_OWN_ROWS: Final = {_TEXT_VALUE: "D", 0x00080300: "X"}
_AGES: Final = 0x00101010, 0x0072005F  # retained ages are capped
_KEYS: Final = {"name", "base", "claim", "options", "words", "vocabulary", "attributes", "private"}
_ELEMENT: Final = re.compile(r"([0-9A-Fa-f]{3}[13579BDFbdf]),([0-9A-Fa-f]{2})")


def load_profile(name: str) -> Profile:
    """Return a profile by its name, or by the path of a site's TOML file.

    Raises
    ------
    schemas.errors.ProdromeError
        There is none of this name, or the file says what it may not.
    """
    if name in SHIPPED:
        return _shipped(name)
    path = Path(name)
    if not path.is_file():
        raise ProdromeError(
            f"expected a profile ({', '.join(SHIPPED)}) or the path of a TOML file, came {name!r}"
        )
    try:
        said = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ProdromeError(f"expected a TOML file, came {path}: {error}") from None
    if said.get("base") not in SHIPPED:
        raise ProdromeError(f"expected base among {', '.join(SHIPPED)} in {path}, came {said.get('base')!r}")
    if said.get("name", "") in (*SHIPPED, ""):
        raise ProdromeError(f"expected a name of its own in {path}, came {said.get('name')!r}")
    return _on_top(_shipped(said["base"]), said)


def basic_profile() -> Profile:
    """Return the Basic Application Level Confidentiality Profile."""
    return _shipped("basic")


@cache
def _shipped(name: str) -> Profile:
    said = tomllib.loads((files("consumers.deid") / "profiles" / f"{name}.toml").read_text())
    return _on_top(_shipped(said["base"]) if "base" in said else _table(), said)


def _on_top(base: Profile, said: dict[str, Any]) -> Profile:
    unknown = said.keys() - _KEYS
    if unknown:
        raise ProdromeError(
            f"expected {', '.join(sorted(_KEYS))} in a profile, came {', '.join(sorted(unknown))}"
        )
    options = checked_options(base.options | set(said.get("options", ())))
    words = frozenset(said.get("words", base.words))
    if not words <= WORDS.keys():
        raise ProdromeError(
            f"expected words among {', '.join(WORDS)}, came {', '.join(sorted(words - WORDS.keys()))}"
        )
    private = base.private | _private(said.get("private", {}))
    if "safe_private" in options:
        private |= standard_private()
    elif private:
        raise ProdromeError("expected the option safe_private where private elements are named")
    return Profile(
        name=str(said["name"]),
        edition=base.edition,
        claim=str(said.get("claim", base.claim)),
        rows=base.rows,
        patterns=base.patterns,
        types=base.types,
        options=options,
        above={**_of_options(options), **_attributes(said.get("attributes", {}))},
        words=words,
        vocabulary=base.vocabulary | {str(word).casefold() for word in said.get("vocabulary", ())},
        private=private,
    )


def _of_options(options: frozenset[str]) -> dict[int, Action]:
    rows = {int(tag, 16): action for tag, action in retained(options).items() if not tag.startswith("(")}
    rows |= {tag: "C" for tag in _AGES if tag in rows}
    if "modified_dates" in options:
        rows |= {tag: "C" for tag, vr in _unlisted().items() if vr in ("DA", "DT", "TM")}
    elif "full_dates" in options:
        rows |= {tag: "K" for tag, vr in _unlisted().items() if vr in ("DA", "DT", "TM")}
    if "uids" in options:
        rows |= {tag: "K" for tag, vr in _unlisted().items() if vr == "UI"}
    if "clean_structured_content" in options:
        rows[_TEXT_VALUE] = "C"
    return {tag: _ACTIONS[action] for tag, action in rows.items()}


def _attributes(said: dict[str, str]) -> dict[int, Action]:
    found: dict[int, Action] = {}
    for keyword, code in said.items():
        tag = tag_for_keyword(keyword)
        if tag is None or code not in _ACTIONS:
            raise ProdromeError(f"expected a keyword and one of K X Z D U C, came {keyword} = {code!r}")
        if code == "K" and (tag in OWN or DicomDictionary[tag][0] == "PN" or keyword in _NEVER_KEPT):
            raise ProdromeError(f"expected {keyword} removed, emptied or cleaned: it identifies a person")
        found[tag] = _ACTIONS[code]
    return found


def _private(said: dict[str, dict[str, str]]) -> SafePrivate:
    found = set()
    for creator, elements in said.items():
        for place, vr in elements.items():
            match = _ELEMENT.fullmatch(place)
            if match is None or vr not in SHORT_VRS | LONG_VRS:
                raise ProdromeError(
                    f'expected "GGGG,EE" = "VR" of an odd group for {creator}, came {place} = {vr!r}'
                )
            found.add(SafeElement(int(match[1], 16), creator, int(match[2], 16), vr))
    return frozenset(found)


@cache
def _unlisted() -> dict[int, str]:
    listed = {tag for tag, _, _ in published_rows()}
    return {
        tag: vr
        for tag, (vr, _, _, _, keyword) in DicomDictionary.items()
        if vr in UNLISTED
        and f"{tag:08X}" not in listed
        and tag >> 16 >= 0x0008
        and not _KINDS.search(keyword)
    }


@cache
def published_rows() -> tuple[tuple[str, str, str], ...]:
    """Return (tag, keyword, code) of the published table; the pattern rows have their tag in parentheses."""
    rows = table_rows(f"basic_{EDITION}.csv")
    return tuple((row["tag"], row["keyword"], row["code"]) for row in rows)


@cache
def _table() -> Profile:
    """Return the table with what is ours beside it; no profile by itself."""
    types = json.loads(table_text("types.json"))
    unlisted = {tag: UNLISTED[vr] for tag, vr in _unlisted().items()}
    listed = {int(tag, 16): code for tag, _, code in published_rows() if not tag.startswith("(")}
    return Profile(
        name="",
        edition=EDITION,
        rows={**unlisted, **_OWN_ROWS, **listed},
        patterns={keyword: code for tag, keyword, code in published_rows() if tag.startswith("(")},
        types={iod: {t: (a, b) for t, (a, b) in tags.items()} for iod, tags in types.items()},
    )


_ACTIONS: Final[dict[str, Action]] = {"K": "K", "X": "X", "Z": "Z", "D": "D", "U": "U", "C": "C"}
_NEVER_KEPT: Final = frozenset(
    {
        "AccessionNumber", "MedicalRecordLocator", "OtherPatientIDs", "PatientAddress", "PatientBirthDate",
        "PatientInsurancePlanCodeSequence", "PatientTelephoneNumbers", "PatientTelecomInformation",
    }
)  # fmt: skip
