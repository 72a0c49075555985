"""Replay layers as CUDA graphs if launching the kernels takes longer than running them."""

from __future__ import annotations

import functools
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .batch_layout import BatchLayout
from .forks import ForkSafeLock

# The shortest length that is captured. Lengths are rounded up to 24, 32, 48, 64, 96, ... positions,
# so that few graphs serve all texts.
_SHORTEST = 16
# Batches with more positions keep a GPU busy, so their graphs are only used if at least this share
# of the computed positions is needed.
_SMALL_BATCH = 1024
_MIN_FILLED = 0.6
# Maximum number of positions of all captured shapes, which share input and output buffers: 0.8 GB
# for BERT-base in float32.
_MAX_POSITIONS_KEPT = 2**17
# Capturing a layer takes about as long as running it twenty times. So a shape is only captured
# after a number of runs, and a graph is only discarded if it was not used for a number of runs.
_RUNS_BEFORE_CAPTURE = 16
_LONG_UNUSED = 4096
# Number of failed captures after which graphs are not used any more. A single capture may fail
# because another thread synchronizes the device at the same time.
_MAX_FAILURES = 3

_one_capture = ForkSafeLock()

Outputs = tuple[Tensor, ...]
# Runs a layer, given its number, hidden states (n, t, d) and their layout. The first output has the
# shape (n, t, ...), the others (n, ...).
RunLayer = Callable[[int, Tensor, BatchLayout], Outputs]
# Records the kernels that a function launches; returns a function that launches them again, and the
# outputs that they write to.
Capture = Callable[[Callable[[], Outputs]], tuple[Callable[[], None], Outputs]]


@dataclass(eq=False)
class _Buffers:
    """Input and output buffers of all layers of one shape; only one graph runs at a time.

    Attributes
    ----------
    hidden, above : Tensor of shape (n, t, d)
        Input and output of a layer.
    layout : BatchLayout
    last_used : int
        Number of the last run that used the buffers.
    written : BatchLayout or None
        The layout that was copied into `layout` last.
    """

    hidden: Tensor
    above: Tensor
    layout: BatchLayout
    last_used: int
    written: BatchLayout | None = None

    @classmethod
    def of(cls, shape: tuple[int, ...], hidden: Tensor, layout: BatchLayout, run: int) -> _Buffers:
        """Return buffers of a shape, with the data types and optional parts of a batch."""
        read = hidden.new_zeros((*shape, hidden.shape[-1]))
        return cls(read, torch.zeros_like(read), _empty_layout(shape, layout), run)

    def write(self, hidden: Tensor, layout: BatchLayout) -> None:
        """Copy a batch into the input buffers; the remaining positions are masked."""
        n, t = layout.mask.shape
        self.hidden[:n, :t] = hidden
        # If no sample exited, the layout is the same as at the layer before.
        if layout is self.written:
            return
        if (n, t) != self.layout.mask.shape:
            self.layout.mask.zero_()
        self.layout.mask[:n, :t] = layout.mask
        if self.layout.read is not None and layout.read is not None:
            self.layout.read[:n] = layout.read
        if self.layout.context is not None and layout.context is not None:
            self.layout.context[:n] = layout.context
        self.written = layout


@dataclass(frozen=True, eq=False)
class _Captured:
    """A captured layer at one shape: input buffers, a function that runs it, outputs."""

    buffers: _Buffers
    replay: Callable[[], None]
    outputs: Outputs

    def read(self, n: int, t: int) -> Outputs:
        """Return copies of the outputs of n samples of t positions."""
        first, *others = self.outputs
        return first[:n, :t].clone(), *(other[:n].clone() for other in others)


class LayerGraphs:
    """Run layers on small batches by replaying captured CUDA graphs.

    A transformer layer launches about twenty kernels. For a single text on a GPU, the launches take
    longer than the kernels; a captured graph launches all of them at once.

    Parameters
    ----------
    run : callable
        Runs a layer without a graph. Rows must not depend on masked positions, except for rounding.
    pads_length : bool
        Whether masked positions may be appended: True for texts, False for images.
    capture : callable
        Records a graph: a `CudaCapture`, or a replacement in tests on a CPU.
    max_positions : int, default=1024
        Number of positions up to which the launches take longer than the kernels; larger batches
        are run without graphs.
    runs_before_capture : int, default=16
        How many times a shape is run without a graph before it is captured.

    Notes
    -----
    Every captured graph is compared with a run without it. If capturing fails repeatedly, or a
    graph gives different results, this warns once, and layers are run without graphs from then on:
    predictions are the same, but take longer. Thread-safe; only one thread runs at a time.
    """

    def __init__(
        self,
        run: RunLayer,
        pads_length: bool,
        capture: Capture,
        max_positions: int = _SMALL_BATCH,
        runs_before_capture: int = _RUNS_BEFORE_CAPTURE,
    ) -> None:
        self._run = run
        self._pads_length = pads_length
        self._capture = capture
        self._max_positions = max_positions
        self.runs_before_capture = runs_before_capture
        self._runs_of: Counter[tuple[int, ...]] = Counter()
        self._n_runs = 0
        self._graphs: dict[tuple[int, ...], _Captured] = {}
        # By shape, the least recently used one first.
        self._buffers: OrderedDict[tuple[int, ...], _Buffers] = OrderedDict()
        self._lock = ForkSafeLock()
        self._works = True
        self._failures = 0

    def fits(self, layout: BatchLayout) -> bool:
        """Return whether a batch is small enough for a graph and has no windows."""
        if not self._works or layout.windows is not None:
            return False
        positions = layout.mask.numel()
        if positions <= _SMALL_BATCH:
            return True
        n, t = self._shape(layout)
        return positions <= self._max_positions and positions >= _MIN_FILLED * n * t

    def _shape(self, layout: BatchLayout) -> tuple[int, int]:
        """Return the shape of the graph for a batch."""
        n, t = layout.mask.shape
        return _rounded_size(n), _rounded(t) if self._pads_length else t

    def __call__(self, layer: int, hidden: Tensor, layout: BatchLayout) -> Outputs:
        """Run a layer; return copies of the outputs, which later replays do not overwrite."""
        with self._lock:
            graph = self._graph(layer, hidden, layout) if self._works else None
            if graph is None:
                return self._run(layer, hidden, layout)
            graph.buffers.write(hidden, layout)
            graph.replay()
            return graph.read(*layout.mask.shape)

    def _graph(self, layer: int, hidden: Tensor, layout: BatchLayout) -> _Captured | None:
        """Return the graph for a batch, which is captured if its shape occurred often enough."""
        shape = self._shape(layout)
        key = (layer, *shape)
        self._n_runs += 1
        if key not in self._graphs:
            captured = self._new_graph(key, hidden, layout)
            if captured is None:
                return None
            self._graphs[key] = captured
        self._buffers.move_to_end(shape)
        self._buffers[shape].last_used = self._n_runs
        return self._graphs[key]

    def _new_graph(
        self, key: tuple[int, ...], hidden: Tensor, layout: BatchLayout
    ) -> _Captured | None:
        """Capture a graph of a shape; None if it was not used often enough, or capturing fails."""
        self._runs_of[key] += 1
        if self._runs_of[key] <= self.runs_before_capture or not self._has_room(key[1:]):
            return None
        return self._try_to_capture(key[0], key[1:], hidden, layout)

    def _has_room(self, shape: tuple[int, ...]) -> bool:
        """Return whether a graph of a shape can be stored, after discarding an unused one."""
        if shape in self._buffers:
            return True
        if sum(n * t for n, t in self._buffers) < _MAX_POSITIONS_KEPT:
            return True
        oldest, buffers = next(iter(self._buffers.items()))
        if self._n_runs - buffers.last_used < _LONG_UNUSED:
            return False
        # The layers of a shape share their buffers, so they are discarded together.
        for key in [key for key in self._graphs if key[1:] == oldest]:
            del self._graphs[key]
        del self._buffers[oldest]
        return True

    def _try_to_capture(
        self, layer: int, shape: tuple[int, ...], hidden: Tensor, layout: BatchLayout
    ) -> _Captured | None:
        """Capture a graph and compare it with a run without it; None if this fails."""
        try:
            captured = self._captured(layer, shape, hidden, layout)
            captured.buffers.write(hidden, layout)
            captured.replay()
            expected = self._run(layer, hidden, layout)
        except torch.OutOfMemoryError:
            self._forget_if_unused(shape)
            raise
        except RuntimeError as error:
            self._forget_if_unused(shape)
            self._failures += 1
            if self._failures >= _MAX_FAILURES:
                self._give_up(str(error).partition("\n")[0])
            return None
        if _are_close(captured.read(*layout.mask.shape), expected):
            return captured
        self._give_up("a graph gave other results than the layer")
        return None

    def _forget_if_unused(self, shape: tuple[int, ...]) -> None:
        """Free the buffers of a shape if none of its layers was captured."""
        if not any(key[1:] == shape for key in self._graphs):
            self._buffers.pop(shape, None)

    def _give_up(self, reason: str) -> None:
        self._works = False
        self._graphs.clear()
        self._buffers.clear()
        warnings.warn(
            f"Layers cannot be captured as CUDA graphs ({reason}) and are run without them: "
            "predictions are the same, but small batches take longer.",
            RuntimeWarning,
            stacklevel=2,
        )

    def _captured(
        self, layer: int, shape: tuple[int, ...], hidden: Tensor, layout: BatchLayout
    ) -> _Captured:
        if shape not in self._buffers:
            self._buffers[shape] = _Buffers.of(shape, hidden, layout, self._n_runs)
        buffers = self._buffers[shape]

        def run() -> Outputs:
            above, *others = self._run(layer, buffers.hidden, buffers.layout)
            # The output is copied, so that its own memory can be reused by other graphs.
            return buffers.above.copy_(above), *others

        replay, outputs = self._capture(run)
        return _Captured(buffers, replay, outputs)


@functools.cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Return one stream for all captures: libraries allocate a workspace for every new stream."""
    return torch.cuda.Stream(device)


class CudaCapture:
    """Capture CUDA graphs whose intermediate results share memory.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = _capture_stream(device)

    def __call__(self, function: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        """Record the kernels of a function; return a function that replays them, and outputs."""
        with torch.cuda.device(self._device):
            return self._record(function)

    def _record(self, function: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        side, current = self._stream, torch.cuda.current_stream()
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU during a capture, but not this stream: their kernels would
        # become part of the graph.
        with _one_capture:
            side.wait_stream(current)
            with torch.cuda.stream(side):
                # Libraries initialize themselves at the first calls, which must not be recorded.
                for _ in range(2):
                    function()
            current.wait_stream(side)
            with torch.cuda.graph(
                graph, pool=self._pool, stream=side, capture_error_mode="thread_local"
            ):
                outputs = function()
        return graph.replay, outputs


def _empty_layout(shape: tuple[int, ...], like: BatchLayout) -> BatchLayout:
    """Return a layout of a shape, as a buffer for layouts with the same optional parts."""
    read = None if like.read is None else like.read.new_zeros((shape[0], like.read.shape[1]))
    context = like.context
    context = None if context is None else context.new_zeros((shape[0], context.shape[1]))
    mask = torch.ones(shape, dtype=torch.bool, device=like.mask.device)
    return BatchLayout(mask, read, context=context)


def _rounded_size(n: int) -> int:
    """Round a number of samples up to a power of two, or above 16 also to 1.5 times one."""
    return _rounded(n) if n > _SHORTEST else 1 << (n - 1).bit_length()


def _rounded(length: int) -> int:
    """Round a length up to a power of two or 1.5 times one."""
    power = max(_SHORTEST, 1 << (length - 1).bit_length())
    between = 3 * power // 4
    return between if length <= between and between > _SHORTEST else power


def _are_close(found: Outputs, expected: Outputs) -> bool:
    tolerance = 1e-3 if expected[0].dtype == torch.float32 else 5e-2
    return all(
        torch.allclose(a.float(), b.float(), rtol=tolerance, atol=tolerance)
        for a, b in zip(found, expected, strict=True)
    )
