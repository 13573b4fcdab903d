"""Packages that nobody should trust: each is refused with a reason, no code of theirs runs, no file outside is read.

They are checked in a process that writes down every file that it opens (an audit hook of Python, which
hostile code could not take off without running first).
"""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from toy import seal, write_package

from scoring.package import CARD, DIGESTS

CHECK = """
import sys, json
opened = []
from scoring.score import load, load_preparer
from pathlib import Path
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
found = {}
for package in sys.argv[1:]:
    opened.clear()
    try:
        load(Path(package))
        load_preparer(Path(package))
        said = "accepted"
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    found[package] = {"said": said, "opened": list(opened)}
print(json.dumps(found))
"""


def graph(nodes: list[onnx.NodeProto], *weights: onnx.TensorProto, **more: object) -> bytes:
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["N", 3])],
        [value("y", TensorProto.FLOAT, ["N", 1])],
        list(weights),
    )
    opsets = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(made, opset_imports=opsets, ir_version=8, **more).SerializeToString())


def external(location: str) -> onnx.TensorProto:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1, 3], np.zeros(3, np.float32))
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


class Runs:
    """Pickled, it makes the marker when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.marker}",)


def replace(name: str, data: Callable[[Path, Path], bytes]) -> Callable[[Path, Path, Path], None]:
    def spoil(package: Path, marker: Path, secret: Path) -> None:
        (package / name).write_bytes(data(marker, secret))
        seal(package)

    return spoil


def in_card(old: str, new: str) -> Callable[[Path, Path, Path], None]:
    def spoil(package: Path, _: Path, secret: Path) -> None:
        text = (package / CARD).read_text()
        assert old in text
        (package / CARD).write_text(text.replace(old, new.replace("SECRET", str(secret))))
        seal(package)

    return spoil


def listed(name: str) -> Callable[[Path, Path, Path], None]:
    def spoil(package: Path, _: Path, secret: Path) -> None:
        digests = json.loads((package / DIGESTS).read_text())
        digests[name.replace("SECRET", str(secret))] = "0" * 64
        (package / DIGESTS).write_text(json.dumps(digests))

    return spoil


def linked(make: Callable[[Path, Path], None]) -> Callable[[Path, Path, Path], None]:
    def spoil(package: Path, _: Path, secret: Path) -> None:
        (package / "LICENSE").unlink()
        make(secret, package / "LICENSE")

    return spoil


def npz_bomb(marker: Path, secret: Path) -> bytes:
    target = io.BytesIO()
    with (
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as f,
    ):
        block = bytes(1 << 20)
        for _ in range(600):
            f.write(block)
    return target.getvalue()


def npz_of_objects(marker: Path, secret: Path) -> bytes:
    target = io.BytesIO()
    np.savez(target, x=np.array([Runs(marker)], dtype=object), y=np.zeros((1, 1), np.float32))
    return target.getvalue()


def deep(marker: Path, secret: Path) -> bytes:
    """Graphs in graphs in graphs."""
    node = helper.make_node("Gemm", ["x"], ["y"])
    for _ in range(14):  # three messages a level; protocol buffers themselves stop at a hundred
        inner = helper.make_graph([node], "g", [], [])
        node = helper.make_node("Gemm", ["x"], ["y"])
        node.attribute.append(helper.make_attribute("body", inner))
    return graph([node])


GEMM = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)

HOSTILE: dict[str, tuple[Callable[[Path, Path, Path], None], str]] = {
    "a pickle in place of the graph": (
        replace("model.onnx", lambda m, s: pickle.dumps(Runs(m))),
        "GraphRefused",
    ),
    "a pickle beside it": (replace("weights.pkl", lambda m, s: pickle.dumps(Runs(m))), "kinds"),
    "a torch file beside it": (replace("weights.pt", lambda m, s: pickle.dumps(Runs(m))), "kinds"),
    "a library beside it": (replace("ops.so", lambda m, s: b"\x7fELF"), "kinds"),
    "Python beside it": (replace("prepare.py", lambda m, s: f"open('{m}', 'w')".encode()), "kinds"),
    "objects in the example": (replace("example.npz", npz_of_objects), "ArraysRefused"),
    "a bomb for an example": (replace("example.npz", npz_bomb), "ArraysRefused"),
    "weights in /etc": (
        replace("model.onnx", lambda m, s: graph([GEMM], external("/etc/passwd"))),
        "inside the graph",
    ),
    "weights above": (
        replace("model.onnx", lambda m, s: graph([GEMM], external("../secret"))),
        "inside the graph",
    ),
    "weights in the secret": (
        replace("model.onnx", lambda m, s: graph([GEMM], external(str(s)))),
        "inside the graph",
    ),
    "a custom domain": (
        replace("model.onnx", lambda m, s: graph([helper.make_node("Gemm", ["x"], ["y"], domain="evil")])),
        "standard ONNX domain",
    ),
    "an operator that loops": (
        replace("model.onnx", lambda m, s: graph([helper.make_node("Loop", ["x"], ["y"])])),
        "expected operators",
    ),
    "functions of its own": (
        replace(
            "model.onnx",
            lambda m, s: graph(
                [GEMM],
                functions=[helper.make_function("f", "F", ["a"], ["b"], [], [helper.make_opsetid("", 17)])],
            ),
        ),
        "inside the graph",
    ),
    "graphs without end": (replace("model.onnx", deep), "GraphRefused"),
    "a graph that ends early": (replace("model.onnx", lambda m, s: graph([GEMM])[:40]), "GraphRefused"),
    "no graph at all": (replace("model.onnx", lambda m, s: b""), "GraphRefused"),
    "a listed path in /": (listed("/etc/passwd"), "paths inside"),
    "a listed path above": (listed("../secret"), "paths inside"),
    "the secret listed": (listed("SECRET"), "paths inside"),
    "a link to the secret": (linked(lambda secret, name: name.symlink_to(secret)), "link"),
    "a hard link to the secret": (linked(lambda secret, name: os.link(secret, name)), "link"),
    "a pipe": (linked(lambda _, name: os.mkfifo(name)), "plain file"),
    "a card that names the secret": (in_card('file = "LICENSE"', 'file = "SECRET"'), "which the card names"),
    "a card that names a path above": (
        in_card('table = "table.csv"', 'table = "../secret"'),
        "which the card names",
    ),
    "a card of another preparation": (
        in_card('name = "view-histograms"', 'name = "os.system"'),
        "preparation",
    ),
    "a card with a shape without end": (in_card("x = [3]", "x = [1000000000000]"), "expected the inputs"),
    "a card that nests without end": (replace(CARD, lambda m, s: b"a = " + b"[" * 100_000), "CardInvalid"),
    "a card that is no text": (replace(CARD, lambda m, s: b"\xff\xfe"), "CardInvalid"),
    "a list of digests that is a program": (
        lambda package, marker, _: (package / DIGESTS).write_bytes(pickle.dumps(Runs(marker))) and None,
        "expected an object",
    ),
}


class Checked(NamedTuple):
    """What became of one package."""

    said: str
    opened: list[str]
    ran: bool
    outside: set[str]


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checked]:
    """Every hostile package, and one that is none, checked by one process."""
    folders = {}
    for number, kind in enumerate(("none", *HOSTILE)):
        folder = tmp_path_factory.mktemp(f"package{number}")
        marker, secret = folder / "ran", folder / "secret"
        secret.write_text("secret")
        package = write_package(folder / "toy", np.ones((1, 3), np.float32))
        if kind in HOSTILE:
            HOSTILE[kind][0](package, marker, secret)
        folders[kind] = folder
    done = subprocess.run(
        [sys.executable, "-c", CHECK, *(str(folder / "toy") for folder in folders.values())],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return {
        kind: Checked(
            **found[str(folder / "toy")],
            ran=(folder / "ran").exists(),
            outside={"/etc/passwd", str(folder / "secret"), str(folder / "toy" / ".." / "secret")},
        )
        for kind, folder in folders.items()
    }


def test_the_package_itself_is_accepted(checked: dict[str, Checked]) -> None:
    """So that the refusals below are of what was spoilt; and the audit sees what is opened."""
    assert checked["none"].said == "accepted"
    assert any(name.endswith("model.onnx") for name in checked["none"].opened)


@pytest.mark.parametrize("kind", HOSTILE)
def test_it_is_refused_and_nothing_else_happens(checked: dict[str, Checked], kind: str) -> None:
    """A reason, no marker, no look at the secret or at anything else that it names."""
    found = checked[kind]
    assert HOSTILE[kind][1] in found.said
    assert not found.ran
    assert not found.outside & set(found.opened)
