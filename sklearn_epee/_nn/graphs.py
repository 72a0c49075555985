"""Replay layers as CUDA graphs where launching kernels takes longer than running them."""

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

# The shortest length captured. Longer ones are rounded up to 24, 32, 48, 64, 96, ... positions, so
# that few graphs serve all texts.
_SHORTEST = 16
# Larger batches keep a GPU busy, so that their graphs must not compute much that is masked.
_SMALL_BATCH = 1024
_MIN_FILLED = 0.6
# Positions of all shapes kept, each of which holds what its layers read and write: 0.8 GB of
# BERT-base in float32.
_MAX_POSITIONS_KEPT = 2**17
# Capturing a layer takes as long as running it some twenty times, so that only what comes up again
# is captured; and only a graph that has not been used for so many runs makes room for another.
_MET_BEFORE = 16
_LONG_UNUSED = 4096
# Captures that may fail, as one does when another thread synchronizes the device meanwhile.
_MAX_FAILURES = 3

_one_capture = ForkSafeLock()

Outputs = tuple[Tensor, ...]
# Runs a layer: its number, hidden states (n, t, d) and their layout. The first output is
# (n, t, ...), the others (n, ...).
RunLayer = Callable[[int, Tensor, BatchLayout], Outputs]
# Records what a function launches: returns what launches it again and the outputs it writes to.
Capture = Callable[[Callable[[], Outputs]], tuple[Callable[[], None], Outputs]]


@dataclass(eq=False)
class _Buffers:
    """What the layers of one shape read and write: one graph runs at a time, so they share it.

    Attributes
    ----------
    hidden, above : Tensor of shape (n, t, d)
        What a layer reads, and its output.
    layout : BatchLayout
    last_used : int
        In which run.
    written : BatchLayout or None
        What was copied into `layout` last.
    """

    hidden: Tensor
    above: Tensor
    layout: BatchLayout
    last_used: int
    written: BatchLayout | None = None

    @classmethod
    def of(cls, shape: tuple[int, ...], hidden: Tensor, layout: BatchLayout, run: int) -> _Buffers:
        """Return buffers of a shape for batches such as the given one."""
        read = hidden.new_zeros((*shape, hidden.shape[-1]))
        return cls(read, torch.zeros_like(read), _empty_layout(shape, layout), run)

    def write(self, hidden: Tensor, layout: BatchLayout) -> None:
        """Set what is read; what lies beyond it is masked."""
        n, t = layout.mask.shape
        self.hidden[:n, :t] = hidden
        # A batch from which no sample exited has the layout of the layer below.
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
    """A layer at one shape: buffers to write to, what runs it, outputs to read from."""

    buffers: _Buffers
    replay: Callable[[], None]
    outputs: Outputs

    def read(self, n: int, t: int) -> Outputs:
        """Return copies of the outputs of n samples of t positions."""
        first, *others = self.outputs
        return first[:n, :t].clone(), *(other[:n].clone() for other in others)


class LayerGraphs:
    """Runs layers on small batches by replaying captured graphs.

    A layer of a transformer launches some twenty kernels. For a single text on a GPU the launches
    take longer than the kernels; a captured graph launches them at once.

    Parameters
    ----------
    run : callable
        Runs a layer kernel by kernel. Rows must not depend on masked positions beyond the last
        digits.
    pads_length : bool
        Whether masked positions may be added behind the others: texts, not images.
    capture : callable
        What records a graph: a `CudaCapture`; tests on a CPU pass a stand-in.
    max_positions : int, default=1024
        Positions up to which a layer waits for its launches; larger batches are run kernel by
        kernel.
    met_before : int, default=16
        How many times a shape is run kernel by kernel before it is captured.

    Notes
    -----
    Every graph is compared with the plain run when it is captured. If graphs repeatedly cannot be
    captured, or one gives something else, a warning says so once and layers are run kernel by
    kernel: the same predictions, later. Threads take turns.
    """

    def __init__(
        self,
        run: RunLayer,
        pads_length: bool,
        capture: Capture,
        max_positions: int = _SMALL_BATCH,
        met_before: int = _MET_BEFORE,
    ) -> None:
        self._run = run
        self._pads_length = pads_length
        self._capture = capture
        self._max_positions = max_positions
        self.met_before = met_before
        self._met: Counter[tuple[int, ...]] = Counter()
        self._n_runs = 0
        self._graphs: dict[tuple[int, ...], _Captured] = {}
        # Of each shape; the one used longest ago comes first.
        self._buffers: OrderedDict[tuple[int, ...], _Buffers] = OrderedDict()
        self._lock = ForkSafeLock()
        self._works = True
        self._failures = 0

    def fits(self, layout: BatchLayout) -> bool:
        """Return whether a batch is small enough to be worth a graph: without windows."""
        if not self._works or layout.windows is not None:
            return False
        positions = layout.mask.numel()
        if positions <= _SMALL_BATCH:
            return True
        n, t = self._shape(layout)
        return positions <= self._max_positions and positions >= _MIN_FILLED * n * t

    def _shape(self, layout: BatchLayout) -> tuple[int, int]:
        """Return the shape of the graph that a batch is run by."""
        n, t = layout.mask.shape
        return _rounded_size(n), _rounded(t) if self._pads_length else t

    def __call__(self, layer: int, hidden: Tensor, layout: BatchLayout) -> Outputs:
        """Run a layer; return outputs that later replays do not touch."""
        with self._lock:
            graph = self._graph(layer, hidden, layout) if self._works else None
            if graph is None:
                return self._run(layer, hidden, layout)
            graph.buffers.write(hidden, layout)
            graph.replay()
            return graph.read(*layout.mask.shape)

    def _graph(self, layer: int, hidden: Tensor, layout: BatchLayout) -> _Captured | None:
        """Return the graph that serves a batch, capturing it if the shape comes up again."""
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
        """Return a graph of a shape; None if it is not worth one yet, or does not work."""
        self._met[key] += 1
        if self._met[key] <= self.met_before or not self._has_room(key[1:]):
            return None
        return self._try_to_capture(key[0], key[1:], hidden, layout)

    def _has_room(self, shape: tuple[int, ...]) -> bool:
        """Return whether a graph of a shape can be kept, forgetting others that are not used."""
        if shape in self._buffers:
            return True
        if sum(n * t for n, t in self._buffers) < _MAX_POSITIONS_KEPT:
            return True
        oldest, buffers = next(iter(self._buffers.items()))
        if self._n_runs - buffers.last_used < _LONG_UNUSED:
            return False
        # The layers of a shape share what they hold, so they go together.
        for key in [key for key in self._graphs if key[1:] == oldest]:
            del self._graphs[key]
        del self._buffers[oldest]
        return True

    def _try_to_capture(
        self, layer: int, shape: tuple[int, ...], hidden: Tensor, layout: BatchLayout
    ) -> _Captured | None:
        """Return a graph that was compared with the plain run; None if that did not work."""
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
        self._give_up("a graph gave other numbers than the layer")
        return None

    def _forget_if_unused(self, shape: tuple[int, ...]) -> None:
        """Let go what the layers of a shape share, if none of them was captured."""
        if not any(key[1:] == shape for key in self._graphs):
            self._buffers.pop(shape, None)

    def _give_up(self, reason: str) -> None:
        self._works = False
        self._graphs.clear()
        self._buffers.clear()
        warnings.warn(
            f"Layers cannot be captured as graphs here ({reason}); going on without: the same "
            "predictions, but small batches take longer.",
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
            # The layer's own output is free again once it is copied: graphs hold none.
            return buffers.above.copy_(above), *others

        replay, outputs = self._capture(run)
        return _Captured(buffers, replay, outputs)


@functools.cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of all captures: libraries keep a workspace for every stream they meet."""
    return torch.cuda.Stream(device)


class CudaCapture:
    """Captures CUDA graphs whose intermediate results share their memory.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = _capture_stream(device)

    def __call__(self, function: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        """Record what a function launches; return what launches it again, and its outputs."""
        with torch.cuda.device(self._device):
            return self._record(function)

    def _record(self, function: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        side, current = self._stream, torch.cuda.current_stream()
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile, but not this stream: what they launched on it
        # would become part of the graph.
        with _one_capture:
            side.wait_stream(current)
            with torch.cuda.stream(side):
                # Libraries set themselves up at their first calls, which a graph must not record.
                for _ in range(2):
                    function()
            current.wait_stream(side)
            with torch.cuda.graph(
                graph, pool=self._pool, stream=side, capture_error_mode="thread_local"
            ):
                outputs = function()
        return graph.replay, outputs


def _empty_layout(shape: tuple[int, ...], like: BatchLayout) -> BatchLayout:
    """Return a layout of a shape to write others to, which read as many positions as one does."""
    read = None if like.read is None else like.read.new_zeros((shape[0], like.read.shape[1]))
    context = like.context
    context = None if context is None else context.new_zeros((shape[0], context.shape[1]))
    mask = torch.ones(shape, dtype=torch.bool, device=like.mask.device)
    return BatchLayout(mask, read, context=context)


def _rounded_size(n: int) -> int:
    """Return a number of samples rounded up to a power of two, or also one and a half of one."""
    return _rounded(n) if n > _SHORTEST else 1 << (n - 1).bit_length()


def _rounded(length: int) -> int:
    """Return a length rounded up to a power of two or one and a half of one."""
    power = max(_SHORTEST, 1 << (length - 1).bit_length())
    between = 3 * power // 4
    return between if length <= between and between > _SHORTEST else power


def _are_close(found: Outputs, expected: Outputs) -> bool:
    tolerance = 1e-3 if expected[0].dtype == torch.float32 else 5e-2
    return all(
        torch.allclose(a.float(), b.float(), rtol=tolerance, atol=tolerance)
        for a, b in zip(found, expected, strict=True)
    )
