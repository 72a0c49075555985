"""Replay layers as CUDA graphs where launching kernels takes longer than running them."""

from __future__ import annotations

import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .batch_layout import BatchLayout
from .forks import ForkSafeLock

# Positions up to which a layer of a GPU waits for its launches.
SMALL_BATCH = 1024
# The shortest length captured. Longer ones are rounded up to 24, 32, 48, 64, 96, ... positions, so
# that few graphs serve all texts.
_SHORTEST = 16
# Positions of all graphs kept, each of which holds the output of its layer: 0.8 GB of BERT-base.
_MAX_POSITIONS = 2**18
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


@dataclass(frozen=True, eq=False)
class _Captured:
    """A layer at one shape: inputs to write to, what runs it, outputs to read from."""

    hidden: Tensor
    layout: BatchLayout
    replay: Callable[[], None]
    outputs: Outputs

    def write(self, hidden: Tensor, layout: BatchLayout) -> None:
        """Set the inputs; what lies beyond them is masked."""
        n, t = layout.mask.shape
        self.layout.mask.zero_()
        self.layout.mask[:n, :t] = layout.mask
        if self.layout.read is not None and layout.read is not None:
            self.layout.read[:n] = layout.read
        if self.layout.context is not None and layout.context is not None:
            self.layout.context[:n] = layout.context
        self.hidden[:n, :t] = hidden

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
        met_before: int = _MET_BEFORE,
    ) -> None:
        self._run = run
        self._pads_length = pads_length
        self._capture = capture
        self.met_before = met_before
        self._met: Counter[tuple[int, ...]] = Counter()
        self._n_runs = 0
        # The one used longest ago comes first.
        self._graphs: OrderedDict[tuple[int, ...], _Captured] = OrderedDict()
        self._last_used: dict[tuple[int, ...], int] = {}
        self._buffers: dict[tuple[int, ...], tuple[Tensor, BatchLayout]] = {}
        self._lock = ForkSafeLock()
        self._works = True
        self._failures = 0

    def fits(self, layout: BatchLayout) -> bool:
        """Return whether a batch is small enough to be worth a graph: without windows."""
        return self._works and layout.windows is None and layout.mask.numel() <= SMALL_BATCH

    def __call__(self, layer: int, hidden: Tensor, layout: BatchLayout) -> Outputs:
        """Run a layer; return outputs that later replays do not touch."""
        with self._lock:
            graph = self._graph(layer, hidden, layout) if self._works else None
            if graph is None:
                return self._run(layer, hidden, layout)
            graph.write(hidden, layout)
            graph.replay()
            return graph.read(*layout.mask.shape)

    def _graph(self, layer: int, hidden: Tensor, layout: BatchLayout) -> _Captured | None:
        """Return the graph that serves a batch, capturing it if the shape comes up again."""
        n, t = layout.mask.shape
        shape = (1 << (n - 1).bit_length(), _rounded(t) if self._pads_length else t)
        key = (layer, *shape)
        self._n_runs += 1
        if key not in self._graphs:
            captured = self._new_graph(key, hidden, layout)
            if captured is None:
                return None
            self._graphs[key] = captured
        self._graphs.move_to_end(key)
        self._last_used[key] = self._n_runs
        return self._graphs[key]

    def _new_graph(
        self, key: tuple[int, ...], hidden: Tensor, layout: BatchLayout
    ) -> _Captured | None:
        """Return a graph of a shape; None if it is not worth one yet, or does not work."""
        self._met[key] += 1
        if self._met[key] <= self.met_before or not self._has_room():
            return None
        return self._try_to_capture(key[0], key[1:], hidden, layout)

    def _has_room(self) -> bool:
        """Return whether another graph can be kept, forgetting one that is not used any more."""
        if sum(n * t for _, n, t in self._graphs) < _MAX_POSITIONS:
            return True
        oldest = next(iter(self._graphs))
        if self._n_runs - self._last_used[oldest] < _LONG_UNUSED:
            return False
        del self._graphs[oldest], self._last_used[oldest]
        if not any(key[1:] == oldest[1:] for key in self._graphs):
            del self._buffers[oldest[1:]]
        return True

    def _try_to_capture(
        self, layer: int, shape: tuple[int, ...], hidden: Tensor, layout: BatchLayout
    ) -> _Captured | None:
        """Return a graph that was compared with the plain run; None if that did not work."""
        try:
            captured = self._captured(layer, shape, hidden, layout)
            captured.write(hidden, layout)
            captured.replay()
            expected = self._run(layer, hidden, layout)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._failures += 1
            if self._failures >= _MAX_FAILURES:
                self._give_up(str(error).partition("\n")[0])
            return None
        if _are_close(captured.read(*layout.mask.shape), expected):
            return captured
        self._give_up("a graph gave other numbers than the layer")
        return None

    def _give_up(self, reason: str) -> None:
        self._works = False
        self._graphs.clear()
        self._last_used.clear()
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
            # One graph runs at a time, so the layers share what they read.
            self._buffers[shape] = (
                hidden.new_zeros((*shape, hidden.shape[-1])),
                _empty_layout(shape, layout),
            )
        inputs = self._buffers[shape]
        replay, outputs = self._capture(lambda: self._run(layer, *inputs))
        return _Captured(*inputs, replay, outputs)


class CudaCapture:
    """Captures CUDA graphs whose intermediate results share their memory.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        # Always the same: libraries keep a workspace for every stream they meet.
        self._stream = torch.cuda.Stream(device)

    def __call__(self, function: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        """Record what a function launches; return what launches it again, and its outputs."""
        with torch.cuda.device(self._device):
            return self._record(function)

    def _record(self, function: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        side, current = self._stream, torch.cuda.current_stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            # Libraries set themselves up at their first calls, which a graph must not record.
            for _ in range(2):
                function()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile, but two captures disturb each other.
        with (
            _one_capture,
            torch.cuda.graph(
                graph, pool=self._pool, stream=side, capture_error_mode="thread_local"
            ),
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
