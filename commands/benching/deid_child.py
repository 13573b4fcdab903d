"""De-identify files with one tool in a process of its own, and print what it took: run by `bench-deid`.

    python deid_child.py TOOL IN OUT

TOOL is prodrome, prodrome-cold (nothing remembered from file to file), dicognito, dicom-anonymizer or pydicom-deid;
each is imported only where it is asked for, so that the peers' environment needs nothing of ours. The files of the
folder IN are taken one after the other: the clock stands while one is read, and while the clean one, encoded, is
written to OUT. Printed is JSON: milliseconds of CPU a file, the first left out, and how many the tool refused.
"""

import io
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

Tool = Callable[[Path, bytes], bytes]


def _prodrome(*, cold: bool) -> Tool:
    from consumers.deid.engine import ProjectKeys, basic_profile, deidentify_file
    from consumers.deid.levels import forget

    keys, profile = ProjectKeys.derive(bytes(32), "default", "bench"), basic_profile()

    def run(_path: Path, data: bytes) -> bytes:
        if cold:
            forget()
        return deidentify_file(data, profile, keys, admit_burned_in=True)

    return run


def _dicognito() -> Tool:
    import pydicom
    from dicognito.anonymizer import Anonymizer  # type: ignore[import-not-found]

    anonymizer = Anonymizer(seed="bench")

    def run(_path: Path, data: bytes) -> bytes:
        dataset = pydicom.dcmread(io.BytesIO(data))
        anonymizer.anonymize(dataset)
        return _encoded(dataset)

    return run


def _dicom_anonymizer() -> Tool:
    import pydicom
    from dicomanonymizer.simpledicomanonymizer import (  # type: ignore[import-not-found]
        anonymize_dataset,
        initialize_actions,
    )

    rules = initialize_actions("dicomfields_2026c")

    def run(_path: Path, data: bytes) -> bytes:
        dataset = pydicom.dcmread(io.BytesIO(data))
        anonymize_dataset(dataset, base_rules_gen=lambda: dict(rules))
        return _encoded(dataset)

    return run


def _pydicom_deid() -> Tool:
    from deid.dicom import get_identifiers, replace_identifiers  # type: ignore[import-not-found]

    def run(path: Path, _data: bytes) -> bytes:
        found = get_identifiers([str(path)])
        (dataset,) = replace_identifiers([str(path)], ids=found, save=False)
        return _encoded(dataset)

    return run


def _encoded(dataset: object) -> bytes:
    target = io.BytesIO()
    dataset.save_as(target)  # type: ignore[attr-defined]
    return target.getvalue()


_TOOLS: dict[str, Callable[[], Tool]] = {
    "prodrome": lambda: _prodrome(cold=False),
    "prodrome-cold": lambda: _prodrome(cold=True),
    "dicognito": _dicognito,
    "dicom-anonymizer": _dicom_anonymizer,
    "pydicom-deid": _pydicom_deid,
}


def main(tool: str, source: Path, target: Path) -> None:
    """Run one tool over a folder."""
    run = _TOOLS[tool]()
    used, refused = 0.0, 0
    files = sorted(source.iterdir())
    for number, path in enumerate(files):
        data, encoded = path.read_bytes(), b""
        begin = time.process_time()
        try:
            encoded = run(path, data)
        except Exception:  # a peer's refusal, of whatever kind, is counted and not told: it may quote values
            refused += 1
        if number:  # what is loaded, compiled and learned with the first is no cost of a file
            used += time.process_time() - begin
        if encoded:
            (target / path.name).write_bytes(encoded)
    print(json.dumps({"cpu_ms": 1000 * used / max(len(files) - 1, 1), "refused": refused}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
