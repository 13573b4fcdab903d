"""The only door to ONNX Runtime: a session that stays loaded, and a forward pass that is checked.

1. Open the graph from bytes already checked, with the providers asked for and available.
2. Compare its inputs and outputs with the card's, by name, type and shape.
3. Warm up on the card's declared example, and compare with the declared output.
4. `forward(batch)`: one result an exam, in order, of the declared shape; else a `ForwardFailed` with its word.
   A pass that takes too long is ended; one that finds no memory is made in halves.

A session may be called from several threads. Custom operator libraries are never registered.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import schemas.quiet_runtime  # noqa: F401  before the runtime

import onnxruntime as ort  # isort: skip

from schemas.errors import ProdromeError
from scoring.arrays import Arrays, read_arrays
from scoring.card import Graph
from scoring.graph import GraphRefused
from scoring.outcomes import FAILED

log = logging.getLogger(__name__)

ort.disable_telemetry_events()
#: What it logs holds tensor names and addresses at best; what fails is raised and told by us.
ort.set_default_logger_severity(4)

Tensors = dict[str, NDArray[np.float32]]

CPU: Final = "CPUExecutionProvider"
#: The declared example was computed elsewhere: float32 sums in another order differ by 1e-7 of what is summed.
EXAMPLE_TOLERANCE: Final = 1e-5
#: A pass of the largest model that ships takes one second on one core; a hundred times that is stuck.
FORWARD_SECONDS: Final = 100.0
#: What the runtime and CUDA say where memory is short; there is no type for it.
_NO_MEMORY: Final = (
    "failed to allocate",
    "out of memory",
    "bad_alloc",
    "bad allocation",
    "cuda_error_out_of_memory",
)


class ForwardFailed(ProdromeError):
    """The forward pass gave no usable result; carries a word of `FAILED`."""

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in FAILED, reason
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


class WarmUpFailed(ProdromeError):
    """The loaded graph does not give the declared output for the declared example."""


class Session:
    """A loaded graph.

    Parameters
    ----------
    data : bytes
        The serialised graph.
    graph : Graph
        The card's part about it.
    providers : sequence of str
        Execution providers in order of preference; those that are not available are left out, and CPU
        is always last.
    threads : int
        Threads of one forward pass.
    seconds : float
        After this long a pass is ended.
    """

    def __init__(
        self,
        data: bytes,
        graph: Graph,
        providers: Sequence[str] = (CPU,),
        threads: int = 1,
        seconds: float = FORWARD_SECONDS,
    ) -> None:
        self._graph, self._seconds = graph, seconds
        wanted = available(providers)
        try:
            self._session = ort.InferenceSession(data, _options(threads), providers=wanted)
        except Exception as error:  # the runtime has no common base; whatever it says, the graph is refused
            raise GraphRefused(f"expected a graph that ONNX Runtime loads, it says: {error}") from error
        if self.providers[0] != wanted[0]:  # CUDA may be installed and still not start
            log.error("%s does not start; %s is used, and is slower", wanted[0], self.providers[0])
        self._compare("inputs", self._session.get_inputs(), graph.inputs)
        self._compare("outputs", self._session.get_outputs(), graph.outputs)

    @property
    def providers(self) -> tuple[str, ...]:
        """The providers in use."""
        return tuple(self._session.get_providers())

    def forward(self, batch: Tensors) -> Tensors:
        """Run the graph.

        Parameters
        ----------
        batch : dict
            The inputs by name, (N, ...) float32 each.

        Returns
        -------
        dict
            The outputs by name, (N, ...) float32 each: one row an exam, in the same order.

        Raises
        ------
        ForwardFailed
            Where shape or count is not the declared one, after `seconds`, or for want of memory.
        """
        for name, shape in self._graph.inputs.items():
            found = batch[name].shape if name in batch else None
            if found is None or found[1:] != shape:
                raise ForwardFailed("wrong_count", f"{name}: expected (N, *{shape}), the batch is {found}")
        count, most = len(next(iter(batch.values()))), self._graph.batch
        parts = [
            self._halves({name: array[start : start + most] for name, array in batch.items()})
            for start in range(0, count, most)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._graph.outputs}

    def warm_up(self, example: bytes) -> None:
        """Run the declared example; raise `WarmUpFailed` where the output is another."""
        declared = read_arrays(example)
        missing = [name for name in (*self._graph.inputs, *self._graph.outputs) if name not in declared]
        if missing:
            raise WarmUpFailed(f"{self._graph.example}: expected inputs and outputs, missing {missing}")
        found = self.forward({name: declared[name].astype(np.float32) for name in self._graph.inputs})
        for name, array in found.items():
            _compare_example(name, declared, array)

    def _halves(self, batch: Tensors) -> Tensors:
        """Run a batch; for want of memory, its halves one after the other, down to single exams."""
        count = len(next(iter(batch.values())))
        try:
            return self._run(batch, count)
        except ForwardFailed as error:
            if error.reason != "out_of_memory" or count == 1:
                raise
        log.warning("no memory for a batch of %d; it is made in halves", count)
        middle = count // 2
        first, second = (
            self._halves({name: array[part] for name, array in batch.items()})
            for part in (slice(None, middle), slice(middle, None))
        )
        return {name: np.concatenate([first[name], second[name]]) for name in first}

    def _run(self, batch: Tensors, count: int) -> Tensors:
        options, names = ort.RunOptions(), list(self._graph.outputs)
        late = threading.Timer(self._seconds, lambda: setattr(options, "terminate", True))
        late.daemon = True
        late.start()
        try:
            out = self._session.run(names, batch, options)
        except Exception as error:  # the runtime has no common base
            text = str(error).lower()
            if options.terminate:
                raise ForwardFailed("over_time", f"expected a pass within {self._seconds:.0f} s") from error
            if any(words in text for words in _NO_MEMORY):
                raise ForwardFailed(
                    "out_of_memory", f"expected memory for {count} exams, found none"
                ) from error
            raise ForwardFailed("forward_failed", f"the runtime says {type(error).__name__}") from error
        finally:
            late.cancel()
        return {
            name: check_output(name, array, (count, *self._graph.outputs[name]))
            for name, array in zip(names, out, strict=True)
        }

    def _compare(self, which: str, found: Sequence[Any], declared: dict[str, tuple[int, ...]]) -> None:
        """Refuse tensors of other names, of another type than float32 or of another shape behind the first axis."""
        shapes = {each.name: (each.type, tuple(each.shape[1:])) for each in found}
        expected = {name: ("tensor(float)", shape) for name, shape in declared.items()}
        if shapes != expected:
            raise GraphRefused(f"{self._graph.name}: expected the {which} {expected}, found {shapes}")


def available(providers: Sequence[str]) -> list[str]:
    """Return the providers that this installation has, CPU last; say which were asked for in vain."""
    present = ort.get_available_providers()
    for name in providers:
        if name not in present:
            log.error("execution provider %s is not available, found %s", name, present)
    return [name for name in providers if name in present and name != CPU] + [CPU]


def check_output(name: str, out: NDArray[Any], expected: tuple[int, ...]) -> NDArray[np.float32]:
    """Return `out` if it has the shape that is expected: one row an exam, each with everything."""
    if out.shape != expected:
        raise ForwardFailed("wrong_count", f"{name}: expected {expected}, the model gave {out.shape}")
    return out


def _compare_example(name: str, declared: Arrays, found: NDArray[np.float32]) -> None:
    expected = declared[name]
    if found.shape != expected.shape:
        raise WarmUpFailed(f"{name}: expected {expected.shape} for the declared example, found {found.shape}")
    off = float(np.abs(found - expected).max())
    if not off <= EXAMPLE_TOLERANCE:
        raise WarmUpFailed(
            f"{name}: expected what is declared for the declared example, found values that differ by {off:.2g}"
        )


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads must sleep: spinning would take the cores of the stages beside this one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
