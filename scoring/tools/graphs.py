"""Builds ONNX graphs out of tensors: a chain of layers, and the bytes of a model; deterministic, without torch."""

import json
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from scoring.package import DIGESTS, digests_of

OPSET: Final = 17
IR_VERSION: Final = 8  # what opset 17 came with; older runtimes read it too

Tensors = dict[str, NDArray[Any]]
Shape = tuple[str | int, ...]


class GraphBuilder:
    """Layers by name, added one after the other; each gives the name of its result.

    Parameters
    ----------
    tensors : dict
        Published tensors by the name of their parameter; only those that a layer uses go into the graph.
    """

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._used: Tensors = {}
        self._nodes: list[Any] = []

    def node(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add an operator with one result and return the result's name."""
        result = name or f"{kind.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [result], **attributes))
        return result

    def parameter(self, name: str) -> str:
        """Return a published tensor's name, which is in the graph from now on."""
        self._used[name] = self._tensors[name]
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a tensor that is not published, and return its name."""
        self._used[name] = value
        return name

    def convolution(self, x: str, layer: str, stride: int = 1, padding: int = 0) -> str:
        """Add a three-dimensional convolution, with a bias where one is published."""
        weight = self._tensors[f"{layer}.weight"]
        inputs = [self.parameter(f"{layer}.weight")]
        if f"{layer}.bias" in self._tensors:
            inputs.append(self.parameter(f"{layer}.bias"))
        return self.node(
            "Conv",
            x,
            *inputs,
            kernel_shape=weight.shape[2:],
            strides=[stride] * 3,
            pads=[padding] * 6,
        )

    def batch_norm(self, x: str, layer: str) -> str:
        """Add a batch normalisation with its running statistics."""
        parts = ("weight", "bias", "running_mean", "running_var")
        return self.node(
            "BatchNormalization", x, *(self.parameter(f"{layer}.{part}") for part in parts), epsilon=1e-5
        )

    def max_pool(self, x: str, kernel: int, stride: int) -> str:
        """Add a three-dimensional maximum pooling without padding."""
        return self.node("MaxPool", x, kernel_shape=[kernel] * 3, strides=[stride] * 3)

    def linear(self, x: str, layer: str, name: str = "") -> str:
        """Add a fully connected layer."""
        parameters = (self.parameter(f"{layer}.weight"), self.parameter(f"{layer}.bias"))
        return self.node("Gemm", x, *parameters, name=name, transB=1)

    def model(self, name: str, inputs: dict[str, Shape], outputs: dict[str, Shape]) -> bytes:
        """Return the serialised model; all inputs and outputs are float32."""
        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in outputs.items()],
            [numpy_helper.from_array(self._used[n], n) for n in sorted(self._used)],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        made.producer_name = "prodrome"
        return bytes(made.SerializeToString(deterministic=True))


def seal(package: Path) -> None:
    """Write the digests of a package's files."""
    text = json.dumps(digests_of(package), indent=2, sort_keys=True)
    (package / DIGESTS).write_text(text + "\n")
