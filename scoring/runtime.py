"""The only door to ONNX Runtime: a session that stays loaded, and a forward pass that is checked.

1. Open the graph from bytes already checked, with the providers asked for and available.
2. Warm up on the card's declared example, and compare with the declared output.
3. `forward(batch)`: one result an exam, in order, finite; else a `ForwardFailed` with its word.

A session may be called from several threads. Custom operator libraries are never registered.
"""

import logging
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from schemas.errors import ProdromeError
from scoring.card import Graph
from scoring.graph import GraphRefused
from scoring.outcomes import FAILED

log = logging.getLogger(__name__)

CPU: Final = "CPUExecutionProvider"
#: the declared example was computed elsewhere: float32 sums in another order differ by 1e-7
EXAMPLE_TOLERANCE: Final = 1e-5


class ForwardFailed(ProdromeError):
    """The forward pass gave no usable result; carries a word of `FAILED`."""

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in FAILED, reason
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


class WarmUpFailed(ProdromeError):
    """The loaded graph does not give the declared output for the declared example."""


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A declared input and what the model gives for it."""

    input: list[list[float]]  # (N, width)
    output: list[list[float]]  # (N, classes)


class Session:
    """A loaded graph.

    Parameters
    ----------
    data : bytes
        The serialised graph.
    graph : Graph
        The card's part about it.
    classes : int
        Columns of the output.
    providers : sequence of str
        Execution providers in order of preference; those that are not available are left out, and CPU
        is always last.
    threads : int
        Threads of one forward pass.
    """

    def __init__(
        self, data: bytes, graph: Graph, classes: int, providers: Sequence[str] = (CPU,), threads: int = 1
    ) -> None:
        self._graph = graph
        self._classes = classes
        try:
            self._session = ort.InferenceSession(data, _options(threads), providers=available(providers))
        except Exception as error:  # the runtime has no common base; whatever it says, the graph is refused
            raise GraphRefused(f"expected a graph that ONNX Runtime loads, it says: {error}") from error

    @property
    def providers(self) -> tuple[str, ...]:
        """The providers in use."""
        return tuple(self._session.get_providers())

    def forward(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the model.

        Parameters
        ----------
        batch : (N, width) float32
            Prepared exams.

        Returns
        -------
        (N, classes) float32
            One row an exam, in the same order.
        """
        if batch.ndim != 2 or batch.shape[1] != self._graph.width:
            raise ForwardFailed(
                "wrong_count", f"expected (N, {self._graph.width}), the batch is {batch.shape}"
            )
        out = self._session.run([self._graph.output], {self._graph.input: batch})[0]  # (N, classes)
        return check_output(out, len(batch), self._classes)

    def warm_up(self, example: bytes) -> None:
        """Run the declared example; raise `WarmUpFailed` where the output is another."""
        try:
            declared = msgspec.json.decode(example, type=Example)
        except msgspec.DecodeError as error:
            raise WarmUpFailed(f"expected an example with input and output, {error}") from error
        found = self.forward(np.asarray(declared.input, dtype=np.float32))  # (N, classes)
        expected = np.asarray(declared.output)
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=0, atol=EXAMPLE_TOLERANCE):
            raise WarmUpFailed(
                f"expected {expected.tolist()} for the declared example, found {found.tolist()}"
            )


def available(providers: Sequence[str]) -> list[str]:
    """Return the providers that this installation has, CPU last; say which were asked for in vain."""
    present = ort.get_available_providers()
    for name in providers:
        if name not in present:
            log.warning("execution provider %s is not available, found %s", name, present)
    return [name for name in providers if name in present and name != CPU] + [CPU]


def check_output(out: NDArray[np.float32], exams: int, classes: int) -> NDArray[np.float32]:
    """Return `out` if it holds one row an exam and every exam's row has every class."""
    if out.shape != (exams, classes):
        raise ForwardFailed("wrong_count", f"expected ({exams}, {classes}), the model gave {out.shape}")
    return out


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads must sleep: spinning would take the cores of the stages beside this one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
