"""A session is bounded: in time, in memory, in what it accepts."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from scoring.card import Graph
from scoring.runtime import CPU, ForwardFailed, Session

CHECKOUT = Path(__file__).parents[3]


def graph_of(name: str = "network", batch: int = 64, **shapes: tuple[int, ...]) -> Graph:
    return Graph(
        name=name, file="", opset=17, inputs={"x": shapes.get("x", (4,))}, outputs={"y": shapes.get("y", (4,))},
        operators=(), example="", batch=batch,
    )  # fmt: skip


def model_of(
    nodes: list[onnx.NodeProto], x: list[object], y: list[object], *weights: onnx.TensorProto
) -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, x)], [value("y", TensorProto.FLOAT, y)], list(weights)
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def doubling(batch: int = 64) -> Session:
    node = helper.make_node("Add", ["x", "x"], ["y"])
    return Session(model_of([node], ["N", 4], ["N", 4]), graph_of(batch=batch))


def slow(count: int = 60) -> bytes:
    """Sixty products of matrices of 2000 a side: many seconds on one core."""
    nodes = [
        helper.make_node("MatMul", [f"a{i}" if i else "x", f"a{i}" if i else "x"], [f"a{i + 1}"])
        for i in range(count)
    ]
    nodes.append(helper.make_node("Identity", [f"a{count}"], ["y"]))
    return model_of(nodes, ["N", 2000, 2000], ["N", 2000, 2000])


def test_a_pass_that_takes_too_long_is_ended() -> None:
    """The limit is on the forward pass alone, and the session works on after it."""
    session = Session(slow(), graph_of(x=(2000, 2000), y=(2000, 2000)), seconds=0.3)
    with pytest.raises(ForwardFailed, match="over_time"):
        session.forward({"x": np.zeros((1, 2000, 2000), np.float32)})
    assert not any(isinstance(thread, threading.Timer) for thread in threading.enumerate())


def test_batches_are_cut_to_what_the_card_says_and_stay_in_order() -> None:
    """Of any number of exams."""
    x = np.arange(40, dtype=np.float32).reshape(10, 4)
    assert np.array_equal(doubling(batch=3).forward({"x": x})["y"], 2 * x)


class Starved:
    """A runtime that has memory for so many exams at once."""

    def __init__(self, session: object, most: int, text: str) -> None:
        self._session, self._most, self._text, self.sizes = session, most, text, []

    def run(self, names: list[str], batch: dict[str, np.ndarray], options: object) -> list[np.ndarray]:
        self.sizes.append(len(batch["x"]))
        if len(batch["x"]) > self._most:
            raise RuntimeError(self._text)
        return self._session.run(names, batch, options)


@pytest.mark.parametrize(
    "text",
    [
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 42",
        "CUDA failure 2: out of memory ; GPU=0",
        "std::bad_alloc",
    ],
)
def test_for_want_of_memory_a_batch_is_made_in_halves(text: str) -> None:
    """Down to what there is memory for; every exam is answered, in order."""
    session = doubling()
    session._session = starved = Starved(session._session, 3, text)
    x = np.arange(44, dtype=np.float32).reshape(11, 4)
    assert np.array_equal(session.forward({"x": x})["y"], 2 * x)
    assert starved.sizes[0] == 11
    assert max(size for size in starved.sizes if size <= 3) <= 3


def test_without_memory_for_one_exam_it_fails_by_name() -> None:
    """Nothing is halved below one; another error is not taken for want of memory."""
    session = doubling()
    session._session = Starved(session._session, 0, "out of memory")
    with pytest.raises(ForwardFailed, match="out_of_memory"):
        session.forward({"x": np.zeros((4, 4), np.float32)})
    session._session = Starved(session._session, 0, "something else")
    with pytest.raises(ForwardFailed, match="forward_failed"):
        session.forward({"x": np.zeros((4, 4), np.float32)})


def test_inputs_of_other_names_or_shapes_are_refused() -> None:
    """Before the runtime sees them."""
    session = doubling()
    for batch in ({"x": np.zeros((1, 5), np.float32)}, {"z": np.zeros((1, 4), np.float32)}):
        with pytest.raises(ForwardFailed, match="wrong_count"):
            session.forward(batch)


def test_falling_back_to_the_cpu_is_said_loudly(caplog: pytest.LogCaptureFixture) -> None:
    """Who asks for a GPU and gets none is told so, as an error."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    session = Session(model_of([node], ["N", 4], ["N", 4]), graph_of(), ("CUDAExecutionProvider",))
    assert session.providers == (CPU,)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


TELLS = """
import os, sys
sys.addaudithook(lambda event, args: print("connects", args) if event == "socket.connect" else None)
import {module}
{load}
from schemas import quiet_runtime
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
maps = open("/proc/self/maps").read()
print("threads", len(os.listdir("/proc/self/task")))
"""


def test_the_runtime_tells_nobody_anything(tmp_path: Path) -> None:
    """No word of its own telemetry, and no id of the machine is kept."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            TELLS.format(module="scoring.score as s", load="s.load(s.MODELS / 'density')"),
        ],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "HOME": str(tmp_path),
            "XDG_CACHE_HOME": str(tmp_path),
            "ORT_DISABLE_TELEMETRY": "",
        },
        cwd=CHECKOUT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "connects" not in done.stdout
    assert "elemetry" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_whoever_loads_the_runtime_silences_it_first() -> None:
    """Every file that imports it, or a library that does, names `quiet_runtime` before."""
    for room in ("scoring", "consumers", "infra", "commands", "producers"):
        for path in (CHECKOUT / room).rglob("*.py"):
            text = path.read_text()
            found = re.search(
                r"^\s*(import onnxruntime|from onnxruntime|from rapidocr|import rapidocr)", text, re.M
            )
            assert not found or "quiet_runtime" in text[: found.start()], path
