"""One layer for a batch: run it, decide the exits, and keep the remaining samples."""

from __future__ import annotations

from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .active_batch import ActiveBatch
from .batch_layout import BatchLayout
from .batching import EncodedSamples
from .exit_rules import ExitRule, ExitState
from .graphs import LayerGraphs
from .inference_network import InferenceNetwork
from .row_first import RowFirst
from .tasks import task_softmax


class LayerStep:
    """Run batches through one layer at a time, with an exit rule.

    Parameters
    ----------
    placed : InferenceNetwork
    rule : ExitRule
    row_first : RowFirst
        Measured costs and exit rates of the engine.
    graphs : LayerGraphs, default=None
        Replays captured CUDA graphs for small batches.
    """

    def __init__(
        self,
        placed: InferenceNetwork,
        rule: ExitRule,
        row_first: RowFirst,
        graphs: LayerGraphs | None = None,
    ) -> None:
        self._placed = placed
        self._rule = rule
        self._row_first = row_first.choice(rule, placed.n_rows_read)
        self._graphs = graphs

    def start(self, samples: EncodedSamples, rows: NDArray[np.intp]) -> ActiveBatch:
        """Return some samples as an embedded batch."""
        return ActiveBatch(0, rows, *self._placed.embed(samples, rows))

    def advance(self, active: ActiveBatch) -> ActiveBatch | None:
        """Run the next layer.

        Parameters
        ----------
        active : ActiveBatch

        Returns
        -------
        ActiveBatch or None
            The samples that did not exit; None if all did.
        """
        layer, backbone = active.layer + 1, self._placed.backbone
        if self._graphs is not None and self._graphs.fits(active.layout):
            hidden, logits = self._graphs(layer, active.hidden, active.layout)
            if self._rule.reads(layer):
                return self._keep(active, hidden, logits)
            return active.above(hidden, active.state)
        k, v = backbone.keys_values(layer, active.hidden)
        if not self._rule.reads(layer):
            hidden = self._placed.rows(layer, active.hidden, (k, v), active.layout)
            return active.above(hidden, active.state)
        if self._row_first.pays(layer, *active.layout.mask.shape):
            return self._row_then_rest(active, (k, v))
        return self._all_rows(active, (k, v))

    def _all_rows(
        self, active: ActiveBatch, keys_values: tuple[Tensor, Tensor]
    ) -> ActiveBatch | None:
        """Compute all positions of the layer, then decide the exits."""
        layer = active.layer + 1
        hidden = self._rows(layer, active.hidden, keys_values, active.layout)
        logits = self._placed.exit_logits(layer, hidden, active.hidden, active.layout)
        return self._keep(active, hidden, logits)

    def _keep(self, active: ActiveBatch, hidden: Tensor, logits: Tensor) -> ActiveBatch | None:
        """Decide the exits after a layer was computed; return the samples that remain."""
        remaining, state = self._decide(active, logits)
        if remaining is None:
            return active.above(hidden, state)
        if not len(remaining):
            return None
        kept = self._kept(active.layout, remaining)
        return ActiveBatch(
            active.layer + 1,
            active.rows[remaining],
            hidden[:, : kept.layout.width][kept.rows],
            kept.layout,
            None if state is None else state.take(kept.predicted),
        )

    def _row_then_rest(
        self, active: ActiveBatch, keys_values: tuple[Tensor, Tensor]
    ) -> ActiveBatch | None:
        """Compute the rows that the head reads, decide, then all rows of the remaining samples."""
        layer, hidden, rows, layout = active.layer + 1, active.hidden, active.rows, active.layout
        started = perf_counter()
        read = self._placed.read_rows(layer, hidden, keys_values, layout)
        self._row_first.costs.note_row(len(read), perf_counter() - started)
        logits = self._placed.row_logits(layer, read, hidden, layout)
        remaining, state = self._decide(active, logits)
        if remaining is not None:
            if not len(remaining):
                return None
            kept = self._kept(layout, remaining)
            index, width, layout = kept.rows, kept.layout.width, kept.layout
            rows, state = rows[remaining], None if state is None else state.take(kept.predicted)
            hidden = hidden[:, :width][index]
            k, v = (_rows_of_heads(part, width, index) for part in keys_values)
            keys_values = k, v
        above = self._rows(layer, hidden, keys_values, layout)
        return ActiveBatch(layer, rows, above, layout, state)

    def _rows(
        self, layer: int, hidden: Tensor, keys_values: tuple[Tensor, Tensor], layout: BatchLayout
    ) -> Tensor:
        started = perf_counter()
        above = self._placed.rows(layer, hidden, keys_values, layout)
        self._row_first.costs.note_rest(layout.mask.numel(), perf_counter() - started)
        return above

    def _decide(
        self, active: ActiveBatch, logits: Tensor
    ) -> tuple[NDArray[np.intp] | None, ExitState | None]:
        """Return the indices of the remaining samples (None: all), and the state of the rule."""
        layer, n = active.layer + 1, len(active.rows)
        proba = task_softmax(logits, self._placed.network.class_counts)
        decision = self._rule.decide(layer, proba, active.rows, active.state)
        n_exits = 0 if decision.remaining is None else n - len(decision.remaining)
        self._row_first.note_exits(layer, n, n_exits)
        return decision.remaining, decision.state

    def _kept(self, layout: BatchLayout, remaining: NDArray[np.intp]) -> _Kept:
        """Return indices and layout of the remaining samples, on the device of the batch."""
        rows, predicted = layout.rows_of(remaining), layout.predicted(remaining)
        index = torch.from_numpy(rows).to(self._placed.device)
        items = index if predicted is rows else torch.from_numpy(predicted).to(self._placed.device)
        return _Kept(items, index, layout.take(remaining, index, _width(layout.mask, rows)))


class _Kept(NamedTuple):
    """Remaining samples: indices of predictions (samples or words), of rows, and the layout."""

    predicted: Tensor
    rows: Tensor
    layout: BatchLayout


def _rows_of_heads(part: Tensor, width: int, index: Tensor) -> Tensor:
    """Return some rows and the first positions of keys or values, (n, heads, t, head_dim)."""
    if part.device.type == "cpu":
        # Two to three times as fast as indexing, because heads are not contiguous in memory.
        return part[:, :, :width].index_select(0, index)
    # A GPU copies a whole row at once if its positions are contiguous in memory.
    return part.transpose(1, 2)[:, :width][index].transpose(1, 2)


def _width(mask: Tensor, remaining: NDArray[np.intp]) -> int:
    """Return the length of the longest remaining row."""
    if mask.device.type != "cpu":  # reading the mask would synchronize with the GPU
        return mask.shape[1]
    return int(mask.numpy()[remaining].sum(axis=1).max())
